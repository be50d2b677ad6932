import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_jax import branches
from vit_jax.branches import NEVER, Window
from vit_jax.errors import UserError


def test_plan_of_a_trunk_with_branches():
  plan = branches.plan((5_000, 2_000), 0.2, None)
  assert plan.branches == {2_000: Window(1_600, 2_000), 5_000: Window(4_000, 5_000)}
  assert plan.trunk == Window(NEVER, NEVER)
  assert plan.trunk_steps == 4_000
  assert plan.steps == 4_000 + 400 + 1_000
  assert plan.steps_from_scratch == 7_000


def test_cooldown_in_steps_and_a_single_run():
  assert branches.plan((100,), 30, None).branches == {100: Window(70, 100)}
  assert branches.plan((), 0.1, 50).trunk == Window(45, 50)
  assert branches.plan((), 0.0, 50).trunk == Window(NEVER, NEVER)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (((200,), 0.2, 100), "branch 200 starts at step 160, beyond the trunk's end at 100"),
    (((100, 100), 0.2, None), "twice"),
    (((100,), 0.0, None), "needs config.cooldown"),
    (((10,), 20, None), "longer than the run"),
    (((2,), 0.1, None), "cooldown of 0 steps"),
    (((0,), 0.2, None), "at least 1"),
    (((), 0.0, None), "total_steps is not set"),
    (((), -1.0, 10), "neither a share"),
    (((), 1.0, 10), "neither a share"),
    (((), 2.5, 10), "neither a share"),
    (((), float("nan"), 10), "neither a share"),
  ],
)
def test_impossible_plans(arguments, message):
  with pytest.raises(UserError, match=message):
    branches.plan(*arguments)


@given(st.sets(st.integers(10, 10_000), min_size=1, max_size=8), st.floats(0.1, 0.9))
def test_branches_never_cost_more_than_separate_runs(ends, cooldown):
  plan = branches.plan(tuple(ends), cooldown, None)
  assert plan.steps <= plan.steps_from_scratch
  assert max(plan.fork_steps) == plan.trunk_steps or plan.trunk_steps == 1
  for end, window in plan.branches.items():
    assert 0 <= window.start < window.end == end
