import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from scaling import laws
from scaling.estimate import Problem
from scaling.leastsquares import Loss, minimise
from scaling.varpro import nonnegative, search


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_nonnegative_solution_equals_active_set_solver(k, seed):
  rng = np.random.default_rng(seed)
  design = rng.normal(size=(8, k))
  target = rng.normal(size=8)
  expected, residual = nnls(design, target)
  solution, value = nonnegative(design.T @ design, design.T @ target)
  np.testing.assert_allclose(solution, expected, atol=1e-8)
  np.testing.assert_allclose(value, residual**2 - target @ target, atol=1e-8)


def test_search_weighs_points_as_repeating_them_would():
  rng = np.random.default_rng(0)
  x = np.geomspace(0.1, 10, 6)
  y = 0.5 * x**-0.4 + 0.1 + 0.01 * rng.normal(size=6)
  counts = np.array([[1, 2, 1, 3, 1, 1]])
  nodes = laws.SATURATING.grid(x)
  weighted, _ = search(laws.SATURATING, x, y, counts.astype(float), nodes)
  repeated, _ = search(
    laws.SATURATING, np.repeat(x, counts[0]), np.repeat(y, counts[0]), np.ones((1, 9)), nodes
  )
  np.testing.assert_allclose(weighted, repeated, rtol=1e-9)
  plain, _ = search(laws.SATURATING, x, y, np.ones((1, 6)), nodes)
  assert not np.allclose(weighted, plain, rtol=1e-9)


def test_exact_points_give_back_their_law():
  truth = [0.6, 0.35, 0.12, 0.4]
  x = np.geomspace(0.05, 2000, 14)
  y = laws.DOUBLE(x, np.array(truth))
  for loss in (Loss(), Loss("linear"), Loss("log", 0.01), Loss("binomial")):
    problem = Problem.of(laws.DOUBLE, x, y, None, loss)
    parameters, _ = problem.solve()
    np.testing.assert_allclose(problem.natural(parameters)[0], truth, rtol=1e-3)


def test_search_is_global_on_a_surface_with_local_minima():
  """No start of a plain descent over the whole box finds a better fit than the search."""
  rng = np.random.default_rng(3)
  x = np.geomspace(1, 100, 9)
  y = np.exp(0.15 * rng.normal(size=9)) * laws.DOUBLE(x, np.array([0.9, 0.4, 0.1, 5.0]))
  problem = Problem.of(laws.DOUBLE, x, y)
  _, (best,) = problem.solve()
  corners = itertools.product([0.1, 1], [0.05, 0.3, 1, 3], [0, 0.1], [1e-3, 0.1, 3])
  starts = np.array(list(corners))
  _, losses = problem.polish(starts, np.ones((len(starts), 9)))
  assert best <= losses.min() * (1 + 1e-6)


def test_unit_of_x_does_not_matter():
  rng = np.random.default_rng(1)
  x = np.geomspace(1, 1e4, 12)
  y = laws.DOUBLE(x, np.array([0.7, 0.35, 0.12, 4.0])) * np.exp(0.01 * rng.normal(size=12))
  one, other = (Problem.of(laws.DOUBLE, x * unit, y) for unit in (1.0, 1e18))
  first, second = (p.natural(p.solve()[0])[0] for p in (one, other))
  np.testing.assert_allclose(first[1:3], second[1:3], rtol=1e-4)
  np.testing.assert_allclose(first[3] * 1e18, second[3], rtol=1e-3)


def test_held_parameters_stay():
  x = np.geomspace(0.1, 10, 8)
  y = laws.SATURATING(x, np.array([0.5, 0.4, 0.1]))
  fixed = np.array([[False, True, False]])
  parameters, _ = minimise(
    laws.SATURATING,
    x,
    y,
    np.ones((1, 8)),
    np.array([[0.3, 0.7, 0.2]]),
    *laws.SATURATING.bounds(x),
    Loss(),
    fixed=fixed,
  )
  assert np.isclose(parameters[0, 1], 0.7, rtol=1e-12)
  assert not np.isclose(parameters[0, 0], 0.3)


def test_huber_fit_shrugs_off_an_outlier():
  x = np.geomspace(0.1, 1000, 20)
  truth = [0.5, 0.4, 0.1]
  y = laws.SATURATING(x, np.array(truth))
  y[7] *= 2
  robust, plain = (
    (p := Problem.of(laws.SATURATING, x, y, None, loss)).natural(p.solve()[0])[0]
    for loss in (Loss("log", 0.01), Loss())
  )
  np.testing.assert_allclose(robust, truth, rtol=0.02)
  assert not np.allclose(plain, truth, rtol=0.02)


def test_residual_slopes_match_finite_differences():
  value, y = np.array([[0.2, 0.6]]), np.array([0.25, 0.5])
  for residual in ("log", "linear", "binomial"):
    loss = Loss(residual)
    _, slope = loss.residuals(value, np.ones((1, 2, 1)), y)
    ends = [loss.residuals(value + s, np.ones((1, 2, 1)), y)[0] for s in (-1e-6, 1e-6)]
    np.testing.assert_allclose(slope[..., 0], (ends[1] - ends[0]) / 2e-6, rtol=1e-6)
    near = loss.residuals(y[None] * 1.0001, np.ones((1, 2, 1)), y)[0] ** 2
    np.testing.assert_allclose(near[0], loss.precision(y) * (1e-4 * y) ** 2, rtol=1e-3)


def test_binomial_scatter_is_one_over_the_images():
  """Errors counted on 10,000 images have that scatter at every error."""
  rng = np.random.default_rng(0)
  x = np.geomspace(0.1, 1e4, 400)
  y = rng.binomial(10_000, laws.DOUBLE(x, np.array([0.6, 0.3, 0.05, 0.5]))) / 10_000
  problem = Problem.of(laws.DOUBLE, x, y, None, Loss("binomial"))
  _, (loss,) = problem.solve()
  assert 0.85 < loss / 396 * 10_000 < 1.15
