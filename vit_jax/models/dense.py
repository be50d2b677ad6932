"""The dense layer, over one or several axes."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models import target


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _of_kept(x: jax.Array, kernel: jax.Array, axes: int) -> jax.Array:
  """The product of an x that is computed once; what the derivative makes of x is up to XLA."""
  return jnp.tensordot(target.materialized(x), kernel, axes)


@_of_kept.defjvp
def _of_kept_jvp(
  axes: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x, kernel), (d_x, d_kernel) = primals, tangents
  change = jnp.tensordot(d_x, kernel, axes) + jnp.tensordot(x, d_kernel, axes)
  return _of_kept(x, kernel, axes), change


class Dense(nn.Module):
  """y = x kernel + bias over the last `axes` axes of x.

  The same parameters as `nn.DenseGeneral`. On CPUs it is computed as one product of two matrices:
  there XLA needs 1.4 times as long for the gradient of a kernel when tokens have two axes. On
  TPUs that would fix the layout of the result, and heads would have to be moved.

  Attributes:
    features: shape of the result's last axes.
    axes: how many of the input's last axes are contracted.
    kernel_init: initialiser; sees the kernel as the matrix [inputs, outputs].
    bias_init: initialiser.
    use_bias: whether there is a bias.
    costly_input: the input is worth keeping, not computing anew for each tile of the product;
      see `target.materialized`.
    dtype: of computation; the parameters are float32.
  """

  features: tuple[int, ...]
  axes: int = 1
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  use_bias: bool = True
  costly_input: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float [..., *inputs] to [..., *features]."""
    batch, inputs = x.shape[: -self.axes], x.shape[-self.axes :]
    matrix = (math.prod(inputs), math.prod(self.features))

    def init(key: jax.Array) -> jax.Array:
      return self.kernel_init(key, matrix).reshape(*inputs, *self.features)

    kernel = self.param("kernel", init).astype(self.dtype)
    x = x.astype(self.dtype)
    if target.platform() == "tpu":
      y = (_of_kept if self.costly_input else jnp.tensordot)(x, kernel, self.axes)
    else:
      y = x.reshape(-1, matrix[0]) @ kernel.reshape(matrix)
      y = y.reshape(*batch, *self.features)
    if self.use_bias:
      y = y + self.param("bias", self.bias_init, self.features).astype(self.dtype)
    return y
