from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy_optimizers as reference
import optax
import pytest

from vit_jax.errors import UserError
from vit_jax.optim import adafactor

STEPS = 24


def run(tx, grads, params):
  """Yields (update, state) of each step, as flat float64 dictionaries and the raw state."""
  update = jax.jit(tx.update)
  state = tx.init(params)
  for g in grads:
    u, state = update(g, state, params)
    yield reference.flat(u), state


def histories():
  """Parameters, gradient trees, and each parameter's gradients as a list of float64 arrays."""
  params, grads = reference.random_tree(0), reference.gradients(STEPS)
  flat = [reference.flat(g) for g in grads]
  return params, grads, {path: [g[path] for g in flat] for path in flat[0]}


def test_second_moment_matches_numpy_at_every_step():
  params, grads, past = histories()
  for t, (updates, _) in enumerate(run(adafactor.scale_by_factored_rms(), grads, params), 1):
    for path, u in updates.items():
      want = reference.adafactor_rms(past[path][:t])
      np.testing.assert_allclose(u, want, rtol=2e-5, atol=1e-7, err_msg=f"{path} at {t}")


def test_only_axes_of_32_entries_are_factored():
  params = reference.random_tree(0)
  state = adafactor.scale_by_factored_rms().init(params)
  rows, full = reference.flat(state.v_row), reference.flat(state.v)
  assert {path for path in rows if rows[path].size > 1} == set(reference.FACTORED)
  assert all((full[p].size == 1) == (p in reference.FACTORED) for p in full)
  tx = adafactor.scale_by_factored_rms()
  for width, factored in ((31, False), (32, True)):
    v = tx.init({"kernel": jnp.zeros((64, width))}).v["kernel"]
    assert (v.size == 1) == factored


def test_decay_of_the_second_moment_reaches_its_cap_at_5624():
  decays = np.asarray(adafactor.second_moment_decay(np.arange(6000), 0.999))
  t = np.arange(1, 6001.0)
  np.testing.assert_allclose(1 - decays, np.maximum(1 - 0.999, t**-0.8), rtol=1e-4)
  assert decays[0] == 0.0
  below = np.float32(0.999)
  assert decays[5622] < below  # t = 5623
  assert (decays[5623:] == below).all()
  assert adafactor.second_moment_decay(10**8, 0.999) == below


@pytest.mark.parametrize("bf16_coefficient", [False, True])
def test_momentum_matches_numpy_with_bfloat16_storage(bf16_coefficient):
  """From the moment that was stored, each step gives what float64 gives, then rounds it once."""
  params, grads, past = histories()
  tx = adafactor.scale_by_adafactor(bf16_coefficient=bf16_coefficient)
  beta = float(ml_dtypes.bfloat16(0.9)) if bf16_coefficient else 0.9
  assert beta == (0.8984375 if bf16_coefficient else 0.9)

  def check(beta):
    stored = {path: 0.0 for path in past}
    for t, (updates, (_, ema)) in enumerate(run(tx, grads, params), 1):
      assert {m.dtype for m in jax.tree.leaves(ema.ema)} == {jnp.dtype(jnp.bfloat16)}
      moments = reference.flat(ema.ema)
      for path, u in updates.items():
        want = beta * stored[path] + 0.1 * reference.adafactor_rms(past[path][:t])
        np.testing.assert_allclose(u, want, rtol=2e-5, atol=2e-7, err_msg=f"{path} at {t}")
        np.testing.assert_array_equal(moments[path], reference.bf16(u))
      stored = moments

  check(beta)
  with pytest.raises(AssertionError):  # the other coefficient is not taken for this one
    check(0.9 if bf16_coefficient else 0.8984375)


def against_float32(bf16_coefficient):
  """Relative error and gain of the momentum, against the same optimiser that never rounds it."""
  rng = np.random.default_rng(0)
  signal = rng.normal(size=4000)
  grads = [{"bias": (signal + rng.normal(size=4000)).astype(np.float32)} for _ in range(150)]
  half = adafactor.scale_by_adafactor(bf16_coefficient=bf16_coefficient)
  full = adafactor.scale_by_adafactor(momentum_dtype=jnp.float32)
  got, want = (
    np.array([u["bias"] for u, _ in run(tx, grads, grads[0])][50:]) for tx in (half, full)
  )
  power = (want**2).sum()
  return np.sqrt(((got - want) ** 2).sum() / power), (got * want).sum() / power


def test_exact_coefficients_leave_only_the_rounding():
  error, gain = against_float32(bf16_coefficient=False)
  assert error < 0.005
  assert abs(gain - 1) < 0.001
  error, gain = against_float32(bf16_coefficient=True)
  assert error > 0.01
  assert gain < 0.99


def test_float32_momentum_is_a_plain_average():
  params, grads, past = histories()
  tx = adafactor.scale_by_adafactor(momentum_dtype=jnp.float32)
  m = {path: 0.0 for path in past}
  for t, (updates, _) in enumerate(run(tx, grads, params), 1):
    for path, u in updates.items():
      m[path] = 0.9 * m[path] + 0.1 * reference.adafactor_rms(past[path][:t])
      np.testing.assert_allclose(u, m[path], rtol=2e-5, atol=1e-6)


LAYERS = 34  # more than 32: the layer axis would be worth factoring
STACK = {"kernel": (40, 48), "query": (36, 2, 34), "bias": (40,), "scale": (34,)}


def stacked_and_single(seed):
  single = {f"layer{i}": reference.random_tree(seed + i, 0.1, STACK) for i in range(LAYERS)}
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *single.values())
  head = {"kernel": np.ones((40, 33), np.float32)}
  return {"layers": stacked, "head": head}, {**single, "head": head}


def compare_stacked(pattern):
  tx = adafactor.scale_by_adafactor(momentum_dtype=jnp.float32, stacked=pattern)
  plain = adafactor.scale_by_adafactor(momentum_dtype=jnp.float32)
  trees = [stacked_and_single(100 * t) for t in range(4)]
  got = run(tx, [s for s, _ in trees], trees[0][0])
  want = run(plain, [s for _, s in trees], trees[0][1])
  for (u, _), (w, _) in zip(got, want, strict=True):
    np.testing.assert_allclose(u["head/kernel"], w["head/kernel"], rtol=1e-6)
    for name in STACK:
      layers = np.stack([w[f"layer{i}/{name}"] for i in range(LAYERS)])
      np.testing.assert_allclose(u[f"layers/{name}"], layers, rtol=1e-5, atol=1e-7)


def test_stacked_layers_train_as_if_they_were_apart():
  compare_stacked("layers/.*")
  with pytest.raises(AssertionError):  # and without the pattern, they do not
    compare_stacked(None)


def test_a_pattern_of_stacked_parameters_that_matches_none_is_an_error():
  with pytest.raises(UserError, match="stacked parameters 'layer/.*' matches no parameter"):
    adafactor.scale_by_adafactor(stacked="layer/.*").init(stacked_and_single(0)[0])


def test_a_parameter_without_gradient_does_not_move():
  params = reference.random_tree(0)
  zeros = jax.tree.map(np.zeros_like, params)
  for updates, state in run(adafactor.scale_by_adafactor(), [zeros] * 3, params):
    assert all((u == 0).all() for u in updates.values())
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("stacked", [None, "block/mlp/kernel"])
def test_it_clips_as_if_that_were_done_before(stacked):
  params, grads = reference.random_tree(0), reference.gradients(6)
  make = partial(adafactor.scale_by_factored_rms, stacked=stacked)
  inside, before, free = (
    list(run(tx, grads, params))
    for tx in (make(clip_norm=1.0), optax.chain(optax.clip_by_global_norm(1.0), make()), make())
  )
  for (got, _), (want, _) in zip(inside, before, strict=True):
    for path, u in got.items():
      np.testing.assert_allclose(u, want[path], rtol=2e-5, atol=1e-7, err_msg=path)
  last, unclipped = inside[-1][0], free[-1][0]
  assert any(np.abs(last[path] - unclipped[path]).max() > 0.01 for path in last)


def test_a_gradient_whose_squares_overflow_moves_nothing():
  params, grads = reference.random_tree(0), [reference.random_tree(1, 1e25)]
  for updates, state in run(adafactor.scale_by_factored_rms(clip_norm=1.0), grads, params):
    assert all((u == 0).all() for u in updates.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
