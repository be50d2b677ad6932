"""Attention as TPUs compute it fastest in bfloat16.

What costs there is not the products but the passes of the vector units over the scores [Q, K].
So the weights are never normalised, the result is: it has D columns, not K. The row sums that this
takes come from a column of ones beside the values, which the matrix unit adds up in float32 in
lanes that lie idle anyway (heads of 64 to 104 dimensions fill no 128). And the derivative takes
the weights' mean of dy/dw from the result, as FlashAttention does (2205.14135, appendix B.2).

Estimated cycles of a training step of ViT-B/16 with remat, by the compiler, beside the best
softmax between two products that was found, whose sums were rounded to bfloat16: on v3 120.7
million, not 126.5; on v4, which sums in passing, 45.8, not 44.3.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

_LANES = 128


def _exponentials(query: jax.Array, key: jax.Array) -> jax.Array:
  """Returns exp(score - row's maximum), computed in float32, stored in the dtype of `query`."""
  scores = jnp.einsum("bhqd,bhkd->bhqk", query, key)
  most = jnp.max(scores, axis=-1, keepdims=True).astype(jnp.float32)
  return jnp.exp(scores.astype(jnp.float32) - most).astype(query.dtype)


def _normalized(e: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the result [B, H, Q, D], and the float32 inverses [B, H, Q, 1] of the row sums."""
  if value.shape[-1] % _LANES:
    ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
    sums = jnp.einsum(
      "bhqk,bhkd->bhqd",
      e,
      jnp.concatenate([value, ones], axis=-1),
      preferred_element_type=jnp.float32,
    )
    y, total = sums[..., :-1], sums[..., -1:]
  else:
    y = jnp.einsum("bhqk,bhkd->bhqd", e, value, preferred_element_type=jnp.float32)
    total = jnp.sum(e, axis=-1, keepdims=True, dtype=jnp.float32)
  inverse = 1 / total
  return (y * inverse).astype(value.dtype), inverse


@jax.custom_jvp
def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Returns softmax(query key^T) value; the softmax in float32, its exponentials stored.

  Args:
    query: [B, H, Q, D], already scaled.
    key: [B, H, K, D].
    value: [B, H, K, D].

  Returns:
    [B, H, Q, D] in the dtype of `value`.
  """
  return _normalized(_exponentials(query, key), value)[0]


def _same_layout(x: jax.Array) -> jax.Array:
  """Keeps queries in the lanes, as the scores have them: XLA would copy them for the backward."""
  return with_layout_constraint(x, Layout(major_to_minor=(0, 1, 3, 2)))


@attend.defjvp
def _attend_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  query, key, value = primals
  d_query, d_key, d_value = tangents
  e = _exponentials(query, key)
  y, inverse = _normalized(e, value)
  d_scores = jnp.einsum("bhqd,bhkd->bhqk", d_query, key)
  d_scores = d_scores + jnp.einsum("bhqd,bhkd->bhqk", query, d_key)
  d_e = e * _same_layout(d_scores)
  change = jnp.einsum("bhqk,bhkd->bhqd", d_e, value) + jnp.einsum("bhqk,bhkd->bhqd", e, d_value)
  change = change - y * jnp.sum(d_e, axis=-1, keepdims=True)
  return y, (change * inverse).astype(y.dtype)
