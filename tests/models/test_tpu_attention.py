"""Attention as TPUs compute it: the same function and derivatives as the textbook's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import attention, target, tpu_attention


def inputs(dtype, head_dim=24, queries=10, keys=14, size=1.0):
  shapes = ((2, 3, queries, head_dim), (2, 3, keys, head_dim), (2, 3, keys, head_dim))
  keys_ = jax.random.split(jax.random.key(0), 3)
  return [size * jax.random.normal(k, s, dtype=dtype) for k, s in zip(keys_, shapes, strict=True)]


def textbook(query, key, value):
  weights = jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", query, key), axis=-1)
  return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


def scalar(fn):
  return lambda x: jnp.sum(jnp.sin(fn(*x)))


@pytest.mark.parametrize("head_dim", [24, 128])  # with a column of ones, and where lanes are full
def test_value_and_derivatives_are_the_textbooks(head_dim):
  x = inputs(jnp.float32, head_dim, size=0.5)
  along = [0.1 * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in x]
  for of in (
    lambda f: f(*x),
    lambda f: jax.jvp(f, x, along)[1],
    lambda f: jax.grad(scalar(f))(x),
    lambda f: jax.jvp(jax.grad(scalar(f)), (x,), (along,))[1],  # a Hessian's product
    lambda f: jax.vmap(f)(*(a[:, None] for a in x)),
    lambda f: jax.grad(scalar(jax.vmap(jax.checkpoint(f))))([a[:, None] for a in x]),
  ):
    ours, theirs = (jax.jit(lambda f=f, of=of: of(f))() for f in (tpu_attention.attend, textbook))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_it_loses_no_more_to_bfloat16_than_a_softmax_of_stored_scores():
  x = inputs(jnp.bfloat16, 64, 50, 50)
  x[0] *= 0.5
  exact = textbook(*(a.astype(jnp.float32) for a in x))

  def stored(query, key, value):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key).astype(jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)

  def error(fn):
    return jnp.sqrt(jnp.mean((fn(*x).astype(jnp.float32) - exact) ** 2))

  assert error(tpu_attention.attend) < 1.1 * error(stored)
  assert error(stored) < 0.02 * jnp.std(exact)


def test_large_scores_do_not_overflow():
  query, key, value = inputs(jnp.bfloat16, size=100.0)
  y, pull = jax.vjp(tpu_attention.attend, query, key, value)
  assert np.isfinite(np.asarray(y, np.float32)).all()
  assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in pull(y))


def test_attention_takes_it_on_tpus_in_bfloat16_alone():
  def takes(kind, dtype, **more):
    query, key, value = (jnp.swapaxes(a, 1, 2) for a in inputs(dtype))

    def attend(*x):
      return attention.attend(*x, **more)

    text = str(jax.make_jaxpr(target.traced_for(kind, attend))(query, key, value))
    return "custom_jvp_call" in text and "_attend_jvp" in text

  class Tpu:
    platform = "tpu"

  assert takes(Tpu(), jnp.bfloat16)
  assert not takes(Tpu(), jnp.float32)
  assert not takes(Tpu(), jnp.bfloat16, bias=jnp.zeros((10, 14)))
  assert not takes(jax.devices()[0], jnp.bfloat16)
