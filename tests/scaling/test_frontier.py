import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import frontier

clouds = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=25).map(
  lambda points: np.array(points, float).T
)


@settings(max_examples=100, deadline=None)
@given(clouds)
def test_envelope_is_the_pareto_frontier(points):
  x, y = points
  kept = frontier.envelope(x, y)
  assert (np.diff(x[kept]) > 0).all()
  assert (np.diff(y[kept]) < 0).all()
  for i in range(len(x)):
    dominated = ((x <= x[i]) & (y <= y[i]) & ((x < x[i]) | (y < y[i]))).any()
    on = any(x[i] == x[k] and y[i] == y[k] for k in kept)
    assert on == (not dominated)


@settings(max_examples=60, deadline=None)
@given(clouds, st.integers(0, 1000))
def test_envelopes_of_subsets_match_one_by_one(points, seed):
  x, y = points
  present = np.random.default_rng(seed).random((4, len(x))) < 0.6
  on = frontier.envelopes(x, y, present)
  for mask, row in zip(present, on, strict=True):
    index = np.flatnonzero(mask)
    expected = index[frontier.envelope(x[index], y[index])] if len(index) else index
    assert sorted(expected) == np.flatnonzero(row).tolist()


def test_interior_drops_what_only_the_end_models_hold():
  kept = np.arange(8)
  group = np.array(["s", "s", "s", "m", "m", "l", "l", "l"])
  assert frontier.interior(kept, group, 2).tolist() == [2, 3, 4, 5]
  assert frontier.interior(kept, group, 6).tolist() == [1, 2, 3, 4, 5, 6]
  assert frontier.interior(kept, group, 99).tolist() == kept.tolist()


def test_interior_of_two_models_is_everything():
  kept = np.arange(4)
  assert frontier.interior(kept, np.array(["s", "s", "l", "l"]), 2).tolist() == kept.tolist()


@settings(max_examples=60, deadline=None)
@given(clouds)
def test_hull_is_a_convex_part_of_the_envelope(points):
  x, y = points
  kept = frontier.hull(x, y)
  assert set(kept) <= set(frontier.envelope(x, y).tolist())
  slopes = np.diff(np.log(y[kept])) / np.diff(np.log(x[kept]))
  assert (np.diff(slopes) > 0).all()
  for i in frontier.envelope(x, y):  # nothing lies below it
    below = np.interp(np.log(x[i]), np.log(x[kept]), np.log(y[kept]))
    assert np.log(y[i]) >= below - 1e-9


def test_binned_keeps_the_best_of_each_bin():
  x = np.array([1.0, 1.1, 1.2, 3.0, 3.1, 100.0])
  y = np.array([0.5, 0.4, 0.6, 0.7, 0.65, 0.3])
  assert frontier.binned(x, y).tolist() == [1, 4, 5]


@settings(max_examples=20, deadline=None)
@given(clouds, st.sampled_from(list(frontier.VARIANTS)), st.integers(0, 1000))
def test_members_of_subsets_match_one_by_one(points, variant, seed):
  x, y = points
  present = np.random.default_rng(seed).random((3, len(x))) < 0.7
  present[:, 0] = True
  on = frontier.members(x, y, present, variant)
  for mask, row in zip(present, on, strict=True):
    index = np.flatnonzero(mask)
    expected = index[frontier.select(x[index], y[index], variant)]
    assert sorted(expected) == np.flatnonzero(row).tolist()
