import numpy as np
import pytest

from scaling import laws
from scaling.errors import DataError
from scaling.estimate import Problem

EXAMPLES = {
  "power": [0.6, 0.3],
  "saturating": [0.6, 0.3, 0.1],
  "double": [0.6, 0.3, 0.1, 0.5],
  "guessing": [0.5, 0.4, 0.7, 0.1, 0.95],
  "broken1": [0.6, 0.1, 0.1, 0.3, 2.0, 0.4],
  "broken2": [0.6, 0.1, 0.1, 0.3, 0.5, 0.4, -0.2, 30.0, 0.8],
  "size-data": [1.8, 3.0, 2.0, 0.35, 0.37],
  "shape": [0.5, 0.6, 0.2, 0.4, 0.3, 0.5, 0.1],
}


def scales(law, low=0.05, high=300.0, count=25):
  x = np.geomspace(low, high, count)
  return x if law.variables == 1 else np.stack([x, x[::-1] * 2], axis=-1)


def unit(law):
  return 3e18 if law.variables == 1 else np.array([3e8, 2e10])


def numerical_jacobian(law, x, parameters):
  columns = []
  for i, value in enumerate(parameters):
    step = 1e-6 * max(abs(value), 1e-3)
    up, down = parameters.copy(), parameters.copy()
    up[i] += step
    down[i] -= step
    columns.append((law(x, up) - law(x, down)) / (2 * step))
  return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", laws.LAWS)
def test_jacobian_matches_finite_differences(name):
  law = laws.LAWS[name]
  x = scales(law)
  parameters = np.array(EXAMPLES[name])
  expected = numerical_jacobian(law, x, parameters)
  np.testing.assert_allclose(law.jacobian(x, parameters), expected, rtol=2e-6, atol=1e-9)
  other = parameters * 1.05
  assert not np.allclose(law.jacobian(x, other), expected, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, law in laws.LAWS.items() if law.separable])
def test_basis_times_linear_parameters_is_the_law(name):
  law = laws.LAWS[name]
  x = scales(law)
  by_name = dict(zip(law.parameters, EXAMPLES[name], strict=True))
  nonlinear = np.array([by_name[p] for p in law.nonlinear])
  linear = np.array([by_name[p] for p in law.linear])
  np.testing.assert_allclose(
    law.basis(x, nonlinear) @ linear, law(x, np.array(EXAMPLES[name])), rtol=1e-12
  )


@pytest.mark.parametrize("name", laws.LAWS)
def test_rescaled_parameters_give_the_same_values(name):
  law = laws.LAWS[name]
  x = scales(law, 0.1, 10, 9) * unit(law)
  parameters = np.array(EXAMPLES[name])
  natural = law.rescale(parameters, unit(law))
  np.testing.assert_allclose(law(x, natural), law(x / unit(law), parameters), rtol=1e-9)


@pytest.mark.parametrize("name", laws.LAWS)
def test_laws_broadcast_over_parameter_rows(name):
  law = laws.LAWS[name]
  x = scales(law, 0.1, 10, 4)
  rows = np.array([EXAMPLES[name], np.array(EXAMPLES[name]) * 1.1])
  assert law(x, rows).shape == (2, 4)
  assert law.jacobian(x, rows).shape == (2, 4, len(law.parameters))
  np.testing.assert_array_equal(law(x, rows)[1], law(x, rows[1]))


def test_unknown_law_names_the_nearest():
  with pytest.raises(DataError, match="did you mean 'saturating'"):
    laws.get("saturation")


def test_guessing_law_satisfies_its_equation_and_its_limits():
  beta, gamma, alpha, c, e0 = EXAMPLES["guessing"]
  x = np.geomspace(1e-4, 1e4, 30)
  value = laws.GUESSING(x, np.array(EXAMPLES["guessing"]))
  np.testing.assert_allclose((value - c) / (e0 - value) ** alpha, beta * x**-gamma, rtol=1e-8)
  assert (np.diff(value) < 0).all()
  ends = laws.GUESSING(np.array([1e-40, 1e40]), np.array(EXAMPLES["guessing"]))
  np.testing.assert_allclose(ends, [e0, c], rtol=1e-6)


def test_broken_law_without_change_of_slope_is_the_saturating_law():
  x = scales(laws.BROKEN_1)
  parameters = np.array([0.6, 0.3, 0.1, 0.0, 2.0, 0.4])
  np.testing.assert_allclose(laws.BROKEN_1(x, parameters), laws.SATURATING(x, parameters[:3]))
  parameters[3] = 0.2
  assert not np.allclose(laws.BROKEN_1(x, parameters), laws.SATURATING(x, parameters[:3]))


@pytest.mark.parametrize("name", laws.LAWS)
def test_every_law_recovers_itself_from_exact_points(name):
  law = laws.LAWS[name]
  x = scales(law, 0.02, 2000, 40)
  if law.variables == 2:
    axis = np.geomspace(0.1, 50, 7)
    x = np.stack(np.meshgrid(axis, axis * 3), axis=-1).reshape(-1, 2)
  truth = law(x, np.array(EXAMPLES[name]))
  problem = Problem.of(law, x * unit(law), truth)
  parameters, _ = problem.solve()
  np.testing.assert_allclose(law(problem.x, parameters[0]), truth, rtol=3e-4)
