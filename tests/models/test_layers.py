"""GELU, normalisation and the dense layer: exact derivatives, digits, and the form for TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.models import dense, layers, target


class Tpu:
  platform = "tpu"


@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_and_its_derivatives_are_flaxs(form):
  x = jnp.linspace(-6, 6, 401)
  for order in (0, 1, 2):
    ours, theirs = (lambda x: layers.gelu(x, form)), (lambda x: nn.gelu(x, form == "tanh"))
    for _ in range(order):
      ours, theirs = jax.grad(ours), jax.grad(theirs)
    # 0.5 + 0.5 tanh loses digits at the left end, in either way of writing it.
    np.testing.assert_allclose(jax.vmap(ours)(x), jax.vmap(theirs)(x), atol=5e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
def test_layer_norm_of_what_it_is_given_is_exact(dtype, mean):
  x = (mean + jax.random.normal(jax.random.key(0), (64, 256))).astype(dtype)
  module = layers.LayerNorm(jnp.float32)
  variables = {"params": {"scale": 1 + jnp.arange(256) / 256, "bias": jnp.arange(256) / 64}}
  wide = np.asarray(x, np.float64)
  centred = wide - wide.mean(-1, keepdims=True)
  exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  exact = exact * (1 + np.arange(256) / 256) + np.arange(256) / 64
  np.testing.assert_allclose(module.apply(variables, x), exact, atol=2e-3 if mean > 3 else 2e-5)


def test_layer_norm_of_a_constant_in_bfloat16_is_its_bias():
  x = jnp.full((4, 256), 1000.0, jnp.bfloat16)
  y, variables = layers.LayerNorm(jnp.bfloat16).init_with_output(jax.random.key(0), x)
  assert np.isfinite(np.asarray(y, np.float32)).all()
  assert np.abs(np.asarray(y, np.float32)).max() < 0.1


def test_a_costly_input_is_kept_for_the_product_in_loops_on_tpus_and_not_for_its_derivative():
  module = dense.Dense((7,), costly_input=True)
  x = jax.random.normal(jax.random.key(0), (3, 4, 5))
  variables = module.init(jax.random.key(1), x)

  def loss(variables, x):
    with target.loop():
      return jnp.sum(jnp.sin(module.apply(variables, x)))

  there = target.traced_for(Tpu(), loss)
  assert "optimization_barrier" in str(jax.make_jaxpr(there)(variables, x))
  assert "optimization_barrier" not in str(jax.make_jaxpr(loss)(variables, x))
  _, pull = jax.vjp(there, variables, x)
  assert "optimization_barrier" not in str(jax.make_jaxpr(pull)(jnp.float32(1)))
  for a, b in zip(
    jax.tree.leaves(jax.grad(there, argnums=(0, 1))(variables, x)),
    jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(variables, x)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
