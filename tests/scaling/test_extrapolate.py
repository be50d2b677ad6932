import numpy as np
import pytest

from scaling import extrapolate, laws
from scaling.errors import DataError


def curve(noise, seed=0, points=40):
  rng = np.random.default_rng(seed)
  x = np.geomspace(1e7, 1e9, points)
  y = laws.DOUBLE(x, np.array([9e4, 0.7, 0.2, 3e7]))
  return x, y * np.exp(noise * rng.normal(size=points))


def truth(x):
  return laws.DOUBLE(x, np.array([9e4, 0.7, 0.2, 3e7]))


def test_predictions_are_close_and_inside_their_intervals():
  wanted = np.geomspace(1.1e9, 2e9, 30)
  for seed in range(4):
    found = extrapolate.predict(*curve(0.01, seed), wanted)
    np.testing.assert_allclose(found.y, truth(wanted), rtol=0.02)
    assert (found.low < truth(wanted)).all()
    assert (truth(wanted) < found.high).all()


def test_intervals_widen_with_noise_and_distance():
  wanted = np.array([1.1e9, 2e9, 8e9])
  quiet, loud = (extrapolate.predict(*curve(noise), wanted) for noise in (0.002, 0.02))
  assert (np.log(quiet.high / quiet.low) < np.log(loud.high / loud.low)).all()
  assert (np.diff(np.log(loud.high / loud.low)) > 0).all()


def test_units_and_order_do_not_matter():
  x, y = curve(0.01)
  wanted = np.array([1.5e9, 3e9])
  one = extrapolate.predict(x, y, wanted)
  shuffled = np.random.default_rng(1).permutation(len(x))
  other = extrapolate.predict(x[shuffled] * 1e-9, y[shuffled] * 100, wanted * 1e-9)
  np.testing.assert_allclose(other.y, 100 * one.y, rtol=1e-7)
  np.testing.assert_allclose(other.high, 100 * one.high, rtol=1e-5)


def test_many_scales_are_interpolated_without_loss():
  x, y = curve(0.005)
  many = np.geomspace(1.05e9, 2e9, 301)
  few = many[[0, 100, 200, 300]]
  np.testing.assert_allclose(
    extrapolate.predict(x, y, many).y[[0, 100, 200, 300]],
    extrapolate.predict(x, y, few).y,
    rtol=2e-4,
  )


def test_late_points_matter_more_than_early_ones():
  x, y = curve(0.002)
  wanted = np.array([2e9])
  base = extrapolate.predict(x, y, wanted).y
  early, late = y.copy(), y.copy()
  early[:5] *= 1.05
  late[-5:] *= 1.05
  moved = [abs(np.log(extrapolate.predict(x, v, wanted).y / base))[0] for v in (early, late)]
  assert moved[1] > 5 * moved[0]


@pytest.mark.parametrize(
  ("x", "y", "message"),
  [
    ([1, 2], [0.5, 0.4], "needs 3"),
    ([1, 2, 3], [0.5, 0.4, 0], "positive and finite"),
    ([1, 2, np.nan], [0.5, 0.4, 0.3], "positive and finite"),
  ],
)
def test_bad_curves(x, y, message):
  with pytest.raises(DataError, match=message):
    extrapolate.predict(x, y, [10.0])
