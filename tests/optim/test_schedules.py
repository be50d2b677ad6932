import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax.errors import UserError
from vit_jax.optim import schedules

TOTAL = 100_000_000


def expected(name, step, *, peak, warmup, timescale, shift, total, end):
  """One step, in Python floats, from the definitions."""
  at = max(step, warmup)
  if name == "rsqrt":
    share = (timescale / (timescale + at - warmup + shift)) ** 0.5
  elif name == "constant":
    share = 1.0
  else:
    progress = min(1.0, (at - warmup) / (total - warmup))
    fall = progress if name == "linear" else (1 - np.cos(np.pi * progress)) / 2
    share = 1 + fall * (end - 1)
  return peak * share * (step / warmup if step < warmup else 1.0)


def options_of(name, warmup, total):
  if name == "rsqrt":
    return {"warmup": warmup, "timescale": 700, "shift": 30}
  if name == "constant":
    return {"warmup": warmup}
  return {"warmup": warmup, "total_steps": total, "end": 0.1 if name == "linear" else 0.0}


@pytest.mark.parametrize("warmup", [0, 1, 250])
@pytest.mark.parametrize("name", schedules.names())
def test_every_step_matches_the_definition(name, warmup):
  options = options_of(name, warmup, 2000)
  schedule = schedules.make(name, learning_rate=8e-4, **options)
  steps = np.arange(2300)
  got = jax.jit(schedule)(steps)
  assert got.dtype == jnp.float32
  full = {"timescale": 10_000, "shift": 0, "end": 0.0, "total": 2000, **options}
  full.pop("total_steps", None)
  want = np.array([expected(name, int(s), peak=8e-4, **full) for s in steps])
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-13)
  if name != "constant" or warmup > 1:  # the test sees an error of a single step
    with pytest.raises(AssertionError):
      np.testing.assert_allclose(schedule(steps + 1), want, rtol=2e-6, atol=1e-13)


@pytest.mark.parametrize("name", schedules.names())
def test_large_steps_keep_float32_precision(name):
  options = options_of(name, 10_000, TOTAL)
  schedule = jax.jit(schedules.make(name, learning_rate=1.0, **options))
  full = {"timescale": 10_000, "shift": 0, "end": 0.0, "total": TOTAL, **options}
  full.pop("total_steps", None)
  for step in (16_777_217, 33_554_433, 99_000_001, TOTAL - 3, TOTAL - 1, TOTAL):
    want = expected(name, step, peak=1.0, **full)
    if name == "cosine":  # near its end the definition itself cancels in float64
      want = np.sin(np.pi / 2 * (TOTAL - step) / (TOTAL - 10_000)) ** 2
    np.testing.assert_allclose(schedule(step), want, rtol=1e-6)


@pytest.mark.parametrize(
  ("step", "share"),
  [
    (0, 0.0),
    (5_000, 0.5),
    (10_000, 1.0),
    (20_000, 0.7071),
    (100_000, 0.3162),
    (500_000, 0.1414),
    (950_000, 0.1026),
    (975_000, 0.0506),
    (1_000_000, 0.0),
  ],
)
def test_values_of_the_published_vit_g_run(step, share):
  schedule = schedules.make("rsqrt", learning_rate=8e-4, warmup=10_000, timescale=10_000)
  rate = schedule(step) * schedules.cooldown(step, 950_000, 1_000_000, "linear")
  assert rate == pytest.approx(8e-4 * share, abs=8e-4 * 5e-5)


@pytest.mark.parametrize("name", schedules.names())
def test_first_step_of_a_warmup_is_zero_and_without_one_is_the_peak(name):
  total = None if schedules.is_horizon_free(name) else 100
  assert schedules.make(name, learning_rate=0.3, warmup=10, total_steps=total)(0) == 0
  assert schedules.make(name, learning_rate=0.3, warmup=0, total_steps=total)(0) == np.float32(0.3)


@settings(max_examples=25, deadline=None)
@given(
  name=st.sampled_from(schedules.names()),
  warmup=st.integers(0, 5000),
  start=st.integers(0, 10**8 - 200),
  peak=st.floats(1e-6, 10.0),
)
def test_rises_in_the_warmup_and_never_after(name, warmup, start, peak):
  total = None if schedules.is_horizon_free(name) else 10**8
  schedule = schedules.make(name, learning_rate=peak, warmup=warmup, total_steps=total)
  after = np.asarray(schedule(warmup + start + np.arange(200)))
  ulp = peak * 2e-7
  assert (np.diff(after) <= ulp).all()
  assert (after >= 0).all()
  assert (after <= peak + ulp).all()
  before = np.asarray(schedule(np.linspace(0, warmup, 200).astype(int)))
  assert (np.diff(before) >= -ulp).all()
  assert before[-1] == pytest.approx(peak, abs=ulp)


@settings(max_examples=60, deadline=None)
@given(
  start=st.integers(0, 10**8),
  length=st.integers(1, 10**7),
  offset=st.integers(-50, 10**7),
  shape=st.sampled_from(schedules.COOLDOWNS),
)
def test_cooldown_matches_its_definition_and_stays_a_share(start, length, offset, shape):
  step = max(0, start + offset)
  factor = float(schedules.cooldown(step, start, start + length, shape))
  progress = min(1.0, max(0.0, (step - start) / length))
  want = 1 - (progress if shape == "linear" else np.sqrt(progress))
  assert 0.0 <= factor <= 1.0
  assert factor == pytest.approx(want, rel=1e-5, abs=1e-12)
  assert (factor == 1.0) == (step <= start) or 1 - want < 1e-7  # 1 up to and including the start
  assert (factor == 0.0) == (step >= start + length)


def test_cooldown_shapes_differ():
  quarter = [float(schedules.cooldown(125, 100, 200, shape)) for shape in schedules.COOLDOWNS]
  assert quarter == [0.75, 0.5]


@pytest.mark.parametrize("shape", schedules.COOLDOWNS)
def test_a_run_that_never_cools_down_has_factor_one(shape):
  steps = np.array([0, 1, 10**8, schedules.NEVER - 1, schedules.NEVER])
  never = jnp.int32(schedules.NEVER)
  factor = jax.jit(schedules.cooldown, static_argnums=3)(steps, never, never, shape)
  np.testing.assert_array_equal(factor, np.ones(5, np.float32))


@pytest.mark.parametrize("name", schedules.names())
def test_trunk_and_branches_share_one_compilation(name):
  total = None if schedules.is_horizon_free(name) else 1000
  schedule = schedules.make(name, learning_rate=1.0, warmup=10, total_steps=total)
  traces = []

  @jax.jit
  def rate(step, start, end):
    traces.append(1)
    return schedule(step) * schedules.cooldown(step, start, end, "1-sqrt")

  never = jnp.int32(schedules.NEVER)
  assert rate(jnp.int32(350), never, never) == schedule(350)
  np.testing.assert_allclose(
    rate(jnp.int32(350), jnp.int32(325), jnp.int32(425)), 0.5 * schedule(350), rtol=1e-6
  )
  assert rate(jnp.int32(450), jnp.int32(400), jnp.int32(450)) == 0
  assert len(traces) == 1


def test_linear_decay_and_a_cooldown_of_a_constant_are_one_curve():
  linear = schedules.make("linear", learning_rate=0.5, warmup=10, total_steps=60)
  constant = schedules.make("constant", learning_rate=0.5, warmup=10)
  steps = np.arange(80)
  np.testing.assert_allclose(
    linear(steps), constant(steps) * schedules.cooldown(steps, 10, 60), rtol=1e-6
  )


def test_names_of_the_horizon_free():
  assert [n for n in schedules.names() if schedules.is_horizon_free(n)] == ["constant", "rsqrt"]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: schedules.make("rsqr", learning_rate=1.0), "unknown schedule 'rsqr': .*'rsqrt'"),
    (lambda: schedules.is_horizon_free("cosin"), "did you mean 'cosine'"),
    (lambda: schedules.make("zzz", learning_rate=1.0), "choose one of constant, cosine, linear"),
    (lambda: schedules.make("cosine", learning_rate=1.0), "set total_steps"),
    (
      lambda: schedules.make("linear", learning_rate=1.0, warmup=9, total_steps=9),
      "total_steps=9 must be more than warmup=9",
    ),
    (
      lambda: schedules.make("cosine", learning_rate=1.0, total_steps=9, timescale=5),
      "'cosine' does not use timescale=5",
    ),
    (lambda: schedules.make("rsqrt", learning_rate=1.0, end=0.1), "'rsqrt' does not use end=0.1"),
    (lambda: schedules.make("rsqrt", learning_rate=1.0, warmup=-1), r"warmup must be an integer"),
    (lambda: schedules.make("rsqrt", learning_rate=1.0, warmup=0.5), r"warmup must be an integer"),
    (lambda: schedules.make("rsqrt", learning_rate=float("nan")), "learning_rate must be a number"),
    (lambda: schedules.make("rsqrt", learning_rate=1.0, timescale=0), "timescale must be"),
    (lambda: schedules.make("linear", learning_rate=1.0, total_steps=5, end=1.5), "end must be"),
    (lambda: schedules.cooldown(0, 0, 1, "1-sqr"), "unknown cooldown shape '1-sqr': .*'1-sqrt'"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
