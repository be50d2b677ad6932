import numpy as np
import pytest

from scaling import compare, laws
from scaling.errors import DataError


def noisy(law, parameters, points=18, noise=0.01, seed=0):
  x = np.geomspace(0.1, 1e4, points)
  scatter = np.random.default_rng(seed).normal(scale=noise, size=points)
  return x, law(x, np.array(parameters)) * np.exp(scatter)


def test_left_out_points_are_never_read():
  x, y = noisy(laws.DOUBLE, [0.6, 0.3, 0.1, 0.5])
  for trial in compare.trials(laws.SATURATING, x, y, compare.Loss()):
    spoilt = y.copy()
    spoilt[-trial.left_out :] = 0.5
    again = next(
      t
      for t in compare.trials(laws.SATURATING, x, spoilt, compare.Loss())
      if t.left_out == trial.left_out
    )
    np.testing.assert_array_equal(again.predicted, trial.predicted)
    assert not np.array_equal(again.measured, trial.measured)


@pytest.mark.parametrize(
  ("truth", "parameters"),
  [
    ("power", [0.6, 0.2]),
    ("saturating", [0.5, 0.35, 0.12]),
    ("double", [0.6, 0.5, 0.1, 20.0]),
  ],
)
def test_the_true_form_predicts_well_and_the_average_follows(truth, parameters):
  law = laws.get(truth)
  x, y = noisy(law, parameters, noise=0.004)
  found = compare.compare(x, y)
  assert sum(c.weight for c in found) == pytest.approx(1)
  assert [c.error for c in found] == sorted(c.error for c in found)
  by_name = {c.law.name: c for c in found}
  assert by_name[truth].error < 3 * found[0].error
  at = np.array([1e5])
  low, high = compare.interval(found, at)
  value = law(at, np.array(parameters))
  assert low[0] < value[0] < high[0]
  np.testing.assert_allclose(compare.average(found, at), value, rtol=0.03)


def test_a_wrong_form_gets_no_weight():
  found = compare.compare(*noisy(laws.SATURATING, [0.5, 0.35, 0.12], noise=0.004))
  weights = {c.law.name: c.weight for c in found}
  assert weights["power"] < 0.01


def test_disagreement_widens_the_interval():
  x, y = noisy(laws.SATURATING, [0.5, 0.3, 0.02], points=9, noise=0.02)
  found = compare.compare(x, y)
  at = np.array([1e6])
  low, high = compare.interval(found, at)
  alone = [c.solution.interval(at) for c in found if c.law.name == "power"][0]
  assert high[0] / low[0] > alone[1][0] / alone[0][0]


def test_too_few_points_to_leave_any_out():
  with pytest.raises(DataError, match="too few to leave any out"):
    compare.compare(*noisy(laws.POWER, [0.5, 0.3], points=3))


def test_weights_reach_the_left_out_fits_and_the_final_ones():
  x, y = noisy(laws.DOUBLE, [0.6, 0.3, 0.1, 0.5])
  spoilt = np.where(np.arange(18) < 4, 1.5 * y, y)
  weights = np.where(np.arange(18) < 4, 1e-9, 1.0)
  ignored = compare.compare(x, spoilt, weights=weights, forms=["saturating"])[0]
  without = compare.compare(x[4:], y[4:], forms=["saturating"])[0]
  np.testing.assert_allclose(ignored.solution(1e5), without.solution(1e5), rtol=1e-4)
  left_out = [next(t for t in c.trials if t.left_out == 4) for c in (ignored, without)]
  np.testing.assert_allclose(left_out[0].predicted, left_out[1].predicted, rtol=1e-4)


def test_an_error_of_zero_is_said_to_have_no_relative_error():
  x, y = noisy(laws.DOUBLE, [0.6, 0.3, 0.1, 0.5])
  y[-1] = 0.0
  with pytest.raises(DataError, match="errors of 0 have no relative error"):
    compare.compare(x, y, compare.Loss("linear"))
