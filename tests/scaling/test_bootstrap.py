import dataclasses

import numpy as np

from scaling import bootstrap, laws
from scaling.estimate import Problem

RUN = np.repeat([f"r{i}" for i in range(10)], 2)


def problem():
  x = np.geomspace(1, 1e4, 20)
  noise = np.exp(0.05 * np.random.default_rng(0).normal(size=20))
  return Problem.of(laws.SATURATING, x, laws.SATURATING(x, np.array([0.8, 0.4, 0.1])) * noise)


def test_points_of_a_run_are_drawn_together():
  drawn = bootstrap.counts(RUN, 50)
  np.testing.assert_array_equal(drawn[:, ::2], drawn[:, 1::2])
  assert (drawn[:, ::2].sum(axis=1) == 10).all()
  assert drawn.max() > 1


def test_a_run_drawn_twice_counts_twice():
  """A resample is the fit to a table in which the drawn points are repeated."""
  original = problem()
  draws = bootstrap.draw(original, RUN, resamples=5)
  for counts, found in zip(bootstrap.counts(RUN, 5), draws.parameters, strict=True):
    rows = np.repeat(np.arange(20), counts)
    once = np.flatnonzero(counts)

    def refit(index):
      x, y = original.x[index] * original.unit, original.y[index]
      part = Problem.of(laws.SATURATING, x, y)
      return part.natural(part.solve()[0])[0]

    np.testing.assert_allclose(found, refit(rows), rtol=1e-3, atol=1e-4)
    assert np.abs(found / refit(once) - 1).max() > 0.003


def test_a_resample_with_too_few_points_is_counted_as_failed():
  draws = bootstrap.draw(problem(), RUN, lambda present: present & (np.arange(20) < 4), 40)
  assert 0 < draws.failed < 40
  assert len(draws.parameters) == 40 - draws.failed


def test_points_measured_twice_count_once():
  """Two seeds at 4 scales: a resample needs 3 scales, not 3 points."""
  x = np.repeat(np.geomspace(1, 1e4, 4), 2)
  points = Problem.of(laws.SATURATING, x, laws.SATURATING(x, np.array([0.8, 0.4, 0.1])))
  run = np.arange(8)
  draws = bootstrap.draw(points, run, resamples=200)
  scales = (bootstrap.counts(run, 200).reshape(200, 4, 2).sum(axis=2) > 0).sum(axis=1)
  assert draws.failed == (scales < 3).sum() > 0


def test_few_runs_many_failures_and_no_resamples_are_shortages():
  def shortage(runs, failed, resamples=1000):
    return bootstrap.Draws(np.ones((resamples - failed, 3)), runs, failed).shortage()

  assert shortage(8, 25) is None
  assert "only 7 runs to draw from" in shortage(7, 0)
  assert "26 of 1000 resamples have fewer distinct points" in shortage(8, 26)
  assert "1000 of 1000 resamples" in shortage(8, 1000)
  assert "no resamples" in shortage(8, 0, 0)


def test_points_off_a_resamples_frontier_do_not_weigh():
  original = problem()
  kept = np.arange(20) % 4 != 1  # every other run has one point behind the frontier
  spoilt = dataclasses.replace(original, y=np.where(kept, original.y, 3 * original.y))

  def fits(points):  # the first resample uses every point, the others only those kept
    rows = np.arange(10)[:, None] == 0
    return bootstrap.draw(points, RUN, lambda present: present & (kept | rows), 10).parameters

  before, after = fits(original), fits(spoilt)
  np.testing.assert_allclose(before[1:], after[1:], rtol=1e-9)
  assert not np.allclose(before[0], after[0], rtol=0.01)
