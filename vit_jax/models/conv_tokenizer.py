"""The convolutional tokenizer of Compact Convolutional Transformers (2104.05704, §3.3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.max_pool import max_pool

HIDDEN = 64  # channels between the layers

# He et al. (1502.01852), cut nowhere: what the official code starts every convolution from.
KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def stride_and_padding(kernel: int) -> tuple[int, int]:
  """Returns those of the convolutions: 1 and 1 for kernels of 3 pixels, 2 and 3 for 7."""
  return max(1, kernel // 2 - 1), max(1, kernel // 2)


def grid(size: int, kernel: int, layers: int) -> int:
  """Returns the side of the grid of tokens that an image of size x size pixels becomes."""
  stride, padding = stride_and_padding(kernel)
  for _ in range(layers):
    size = (size + 2 * padding - kernel) // stride + 1  # the convolution
    size = (size - 1) // 2 + 1  # the pooling
  return size


def check_grid(size: int, kernel: int, layers: int) -> None:
  """Raises UserError, with the smallest size that fits, for images of less than two tokens a side.

  Attention, positions and pooling say nothing of a single token.
  """
  if kernel % 2 == 0:
    raise UserError(f"conv_kernel={kernel} has no middle pixel: use an odd one, such as 3 or 7")
  if grid(size, kernel, layers) < 2:
    smallest = size
    while grid(smallest, kernel, layers) < 2:
      smallest += 1
    raise UserError(
      f"image_size={size} is too small: conv_layers={layers} with conv_kernel={kernel} leave a "
      f"single token; use at least {smallest} pixels or fewer layers"
    )


class ConvTokenizer(nn.Module):
  """Layers of convolution without bias, ReLU, and maximum over 3 x 3 pixels with stride 2.

  Kernels start Kaiming normal, as in the official code. Parameter paths: conv_0/kernel, ...

  Attributes:
    width: of a token.
    kernel: of the convolutions, in pixels; odd.
    layers: how many.
    dtype: of computation.
  """

  width: int
  kernel: int = 3
  layers: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Maps [B, H, W, C] to tokens [B, N, width], row by row."""
    stride, padding = stride_and_padding(self.kernel)
    x = images
    for i in range(self.layers):
      x = nn.Conv(
        self.width if i == self.layers - 1 else HIDDEN,
        (self.kernel, self.kernel),
        stride,
        padding,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=KAIMING,
        name=f"conv_{i}",
      )(x)
      x = max_pool(nn.relu(x))
    return x.reshape(len(x), -1, self.width)
