import jax
import jax.numpy as jnp
import numpy as np
import numpy_schedules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax.errors import UserError
from vit_jax.optim import schedules

TOTAL = 100_000_000

# Something to every option of its own, for a decay of about 2000 steps.
OPTIONS = {
  "constant": {},
  "rsqrt": {"timescale": 700, "shift": 30},
  "step": {"boundaries": (300, 301, 1500), "factor": 0.3},
  "linear": {"end": 0.1, "hold": 30},
  "cosine": {"end": 0.02},
  "cosine_restarts": {
    **{"period": 301, "period_factor": 1.5, "cycles": 3, "cycle_decay": 0.5, "end": 0.01},
  },
  "envelopes": {"end": 0.01, "upper_end": 0.2, "lower_start": 0.4, "hold": 10},
}
FALLING = ["constant", "cosine", "linear", "rsqrt", "step"]
WARMUPS = {
  "none": {},
  "one step": {"warmup": 1},
  "long": {"warmup": 250},
  "from above zero": {"warmup": 250, "warmup_start": 0.03},
  "harmonic": {"warmup": 250, "warmup_shape": "harmonic", "every": 25},
}


def options_of(name, total=2000):
  return (
    OPTIONS[name] if schedules.is_horizon_free(name) else {**OPTIONS[name], "total_steps": total}
  )


def table(name, steps, **options):
  return np.array([numpy_schedules.rate(name, int(s), **options) for s in steps])


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", schedules.names())
def test_every_step_matches_the_definition(name, warmup):
  options = {"learning_rate": 8e-4, **options_of(name), **WARMUPS[warmup]}
  schedule = schedules.make(name, **options)
  steps = np.arange(2300)
  got = jax.jit(schedule)(steps)
  assert got.dtype == jnp.float32
  want = table(name, steps, **options)
  # Relative where the curve is smooth; where it oscillates, in units of the peak.
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-13 if name in FALLING else 8e-10)
  if name != "constant" or WARMUPS[warmup].get("warmup", 0) > 1:  # sees an error of a single step
    with pytest.raises(AssertionError):
      np.testing.assert_allclose(schedule(steps + 1), want, rtol=2e-6, atol=8e-10)


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_restarts", "envelopes"])
def test_a_warmup_over_the_decay(name):
  options = {**options_of(name), "warmup": 250, "warmup_start": 0.02, "warmup_prefix": False}
  steps = np.arange(2300)
  got = schedules.make(name, learning_rate=1.0, **options)(steps)
  np.testing.assert_allclose(got, table(name, steps, **options), rtol=2e-6, atol=1e-6)
  # It rises towards the peak; the decay, that has gone on from step 0, is lower where it ends.
  assert got[249] == pytest.approx(0.02 + 0.98 * 249 / 250)
  without = {**options, "warmup": 0, "warmup_start": 0.0, "warmup_prefix": True}
  np.testing.assert_array_equal(
    got[250:], schedules.make(name, learning_rate=1.0, **without)(steps[250:])
  )


@pytest.mark.parametrize("name", schedules.names())
def test_a_rate_that_changes_with_the_epoch(name):
  options = {**options_of(name), "warmup": 200, "every": 100}
  steps = np.arange(2300)
  got = np.asarray(schedules.make(name, learning_rate=1.0, **options)(steps)).reshape(-1, 100)
  np.testing.assert_array_equal(got, np.repeat(got[:, :1], 100, axis=1))
  one_a_step = schedules.make(name, learning_rate=1.0, **{**options, "every": 1})
  np.testing.assert_array_equal(got[:, 0], one_a_step(steps[::100]))


@pytest.mark.parametrize("name", ["linear", "cosine", "envelopes"])
def test_a_run_is_held_at_its_end(name):
  options = {"warmup": 100, "end": 0.05}
  held = schedules.make(name, learning_rate=1.0, total_steps=1300, hold=300, **options)
  short = schedules.make(name, learning_rate=1.0, total_steps=1000, **options)
  steps = np.arange(1300)
  np.testing.assert_array_equal(held(steps), short(steps))
  np.testing.assert_array_equal(held(steps[1000:]), np.full(300, np.float32(0.05)))
  assert held(999) > np.float32(0.05)


@pytest.mark.parametrize("name", schedules.names())
def test_large_steps_keep_float32_precision(name):
  options = {**options_of(name, TOTAL), "warmup": 10_000}
  if name == "step":
    options["boundaries"] = (16_777_217, 33_554_433, 99_000_001)
  if name == "cosine_restarts":
    options |= {"period": 33_000_001, "period_factor": 1.25}
  schedule = jax.jit(schedules.make(name, learning_rate=1.0, **options))
  for step in (16_777_217, 33_554_433, 33_554_434, 99_000_001, TOTAL - 3, TOTAL - 1, TOTAL):
    want = numpy_schedules.rate(name, step, **options)
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
  options = {"learning_rate": 0.3, **options_of(name)} | ({"shift": 0} if name == "rsqrt" else {})
  assert schedules.make(name, warmup=10, **options)(0) == 0
  assert schedules.make(name, warmup=10, warmup_start=0.1, **options)(0) == pytest.approx(0.03)
  assert schedules.make(name, **options)(0) == np.float32(0.3)


@settings(max_examples=25, deadline=None)
@given(
  name=st.sampled_from(["rsqrt", "constant", "linear", "cosine"]),
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
  want = {
    "linear": 1 - progress,
    "1-sqrt": 1 - np.sqrt(progress),
    "cosine": np.sin(np.pi / 2 * (1 - progress)) ** 2,  # (1 + cos(pi p)) / 2
  }[shape]
  assert 0.0 <= factor <= 1.0
  assert factor == pytest.approx(want, rel=1e-5, abs=1e-12)
  assert (factor == 1.0) == (step <= start) or 1 - want < 1e-7  # 1 up to and including the start
  assert (factor == 0.0) == (step >= start + length)


def test_cooldown_shapes_differ():
  quarter = {
    shape: float(schedules.cooldown(125, 100, 200, shape)) for shape in schedules.COOLDOWNS
  }
  assert quarter == pytest.approx({"linear": 0.75, "1-sqrt": 0.5, "cosine": (2 + 2**0.5) / 4})


@pytest.mark.parametrize("shape", schedules.COOLDOWNS)
def test_a_run_that_never_cools_down_has_factor_one(shape):
  steps = np.array([0, 1, 10**8, schedules.NEVER - 1, schedules.NEVER])
  never = jnp.int32(schedules.NEVER)
  factor = jax.jit(schedules.cooldown, static_argnums=3)(steps, never, never, shape)
  np.testing.assert_array_equal(factor, np.ones(5, np.float32))


@pytest.mark.parametrize("name", schedules.names())
def test_trunk_and_branches_share_one_compilation(name):
  schedule = schedules.make(name, learning_rate=1.0, warmup=10, **options_of(name))
  traces = []

  @jax.jit
  def rate(step, start, end):
    traces.append(1)
    return schedule(step) * schedules.cooldown(step, start, end, "1-sqrt")

  never = jnp.int32(schedules.NEVER)
  np.testing.assert_allclose(rate(jnp.int32(350), never, never), schedule(350), rtol=1e-6)
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


def test_a_trunk_needs_no_length_and_never_rises_again():
  trunks = []
  for name in schedules.names():
    try:
      schedules.check_trunk(name)
    except UserError as e:
      assert "cannot be the trunk" in str(e)  # noqa: PT017
    else:
      trunks.append(name)
  assert trunks == ["constant", "rsqrt", "step"]
  steps = np.arange(2300)
  for name in schedules.names():
    if schedules.is_horizon_free(name):  # needs no length: here is none
      after = np.asarray(schedules.make(name, learning_rate=1.0, **OPTIONS[name])(steps))
      assert (name in trunks) == (np.diff(after) <= 0).all()
    else:
      with pytest.raises(UserError, match="set total_steps"):
        schedules.make(name, learning_rate=1.0, **OPTIONS[name])


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: schedules.make("rsqr", learning_rate=1.0), "unknown schedule 'rsqr': .*'rsqrt'"),
    (lambda: schedules.is_horizon_free("cosin"), "did you mean 'cosine'"),
    (lambda: schedules.make("zzz", learning_rate=1.0), "choose one of constant, cosine, cosine_re"),
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
    (
      lambda: schedules.make("rsqrt", learning_rate=1.0, warm_up=3),
      "unknown schedule option 'warm_up'",
    ),
    (
      lambda: schedules.make("constant", learning_rate=1.0, warmup_prefix=False),
      "'constant' does not use warmup_prefix=False",
    ),
    (lambda: schedules.make("constant", learning_rate=1.0, warmup_start=0.1), "without a linear"),
    (
      lambda: schedules.make("constant", learning_rate=1.0, warmup=9, warmup_shape="line"),
      "unknown warmup_shape 'line': did you mean 'linear'",
    ),
    (lambda: schedules.make("constant", learning_rate=1.0, every=0), "every must be an integer"),
    (
      lambda: schedules.make("linear", learning_rate=1.0, warmup=4, hold=5, total_steps=9),
      "total_steps=9 must be more than warmup=4 [+] hold=5",
    ),
    (lambda: schedules.make("step", learning_rate=1.0), "'step' needs boundaries"),
    (lambda: schedules.make("step", learning_rate=1.0, boundaries=(9, 9)), "must rise"),
    (
      lambda: schedules.make("step", learning_rate=1.0, boundaries=(9,), warmup=10),
      r"boundaries must be an integer in \[10, .*got 9",
    ),
    (lambda: schedules.make("step", learning_rate=1.0, boundaries=(9,), factor=2.0), "factor must"),
    (lambda: schedules.make("cosine_restarts", learning_rate=1.0), "needs period"),
    (
      lambda: schedules.make("cosine_restarts", learning_rate=1.0, period=9, period_factor=0.5),
      "period_factor must be",
    ),
    (
      lambda: schedules.make("cosine_restarts", learning_rate=1.0, period=9, hold=3),
      "'cosine_restarts' does not use hold=3",
    ),
    (
      lambda: schedules.make("envelopes", learning_rate=1.0, total_steps=9),
      "'envelopes': end=0 must be above 0",
    ),
    (
      lambda: schedules.make("envelopes", learning_rate=1.0, total_steps=9, end=0.1, upper="log"),
      "unknown upper envelope 'log'",
    ),
    (lambda: schedules.cooldown(0, 0, 1, "1-sqr"), "unknown cooldown shape '1-sqr': .*'1-sqrt'"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
