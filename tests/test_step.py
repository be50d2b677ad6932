import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import parallel, step
from vit_jax.errors import UserError
from vit_jax.state import TrainState


def loss(params, batch_stats, batch, key):
  del key
  prediction = jnp.tanh(batch["image"] @ params["w"]) + params["b"]
  return jnp.mean((prediction - batch["label"]) ** 2), batch_stats


@pytest.fixture
def problem():
  rng = np.random.default_rng(0)
  params = {"w": jnp.asarray(rng.normal(size=(5,)), jnp.float32), "b": jnp.float32(0.3)}
  batch = {
    "image": jnp.asarray(rng.normal(size=(12, 5)), jnp.float32),
    "label": jnp.asarray(rng.normal(size=12), jnp.float32),
  }
  return params, batch


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_accumulated_gradient_is_that_of_the_batch(problem, accumulate):
  params, batch = problem
  mesh = parallel.make_mesh()
  key = jax.random.key(0)
  value, _, grads = step.make_gradient(loss, mesh, 1)(params, {}, batch, key)
  value2, _, grads2 = jax.jit(step.make_gradient(loss, mesh, accumulate))(params, {}, batch, key)
  np.testing.assert_allclose(value2, value, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads2, grads)
  eps = 1e-3  # and that of the loss: finite differences
  plus, minus = (loss({**params, "b": params["b"] + s}, {}, batch, key)[0] for s in (eps, -eps))
  np.testing.assert_allclose(grads["b"], (plus - minus) / (2 * eps), rtol=1e-3)


def test_step_counts_and_cools_down(problem):
  params, batch = problem
  tx = optax.GradientTransformationExtraArgs(
    lambda p: (), lambda g, s, p, learning_rate: (jax.tree.map(lambda x: -learning_rate * x, g), s)
  )
  fn = jax.jit(
    step.make_train_step(
      step.of_state(step.make_gradient(loss, parallel.make_mesh(), 1)),
      tx,
      lambda t: jnp.float32(0.1),
      "linear",
      seed=0,
    )
  )
  state = TrainState(
    step=jnp.int32(0),
    params=params,
    batch_stats={},
    opt_state=(),
    cooldown_start=jnp.int32(2),
    cooldown_end=jnp.int32(4),
  )
  rates = []
  for _ in range(5):
    state, metrics = fn(state, batch)
    rates.append(float(metrics["learning_rate"]))
  np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.05, 0.0], rtol=1e-6)
  assert int(state.step) == 5


def test_batch_must_split_evenly():
  mesh = parallel.make_mesh()
  with pytest.raises(UserError, match="batch_size=10 is not divisible by 1 .*accumulate=3.*as 9"):
    parallel.check_batch_size(10, mesh, 3)
  with pytest.raises(UserError, match="does not cover the 1 device"):
    parallel.make_mesh(data=3)
