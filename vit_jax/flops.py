"""FLOPs of a function, counted from its jaxpr: nothing is compiled or run.

Only matrix products and convolutions count, a multiply and an add as two operations: the
convention of "Scaling Vision Transformers" (2106.04560, Table 2), in which ViT-B/16 at 224 px has
35.1 GFLOPs. It is independent of the device, and of `scan` and `remat`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def _dot_general(eqn: Any) -> int:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  lhs = eqn.invars[0].aval.shape
  return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)


def _convolution(eqn: Any) -> int:
  # The kernel's input channels are already those of one group. Padding counts as if computed.
  kernel = eqn.invars[1].aval.shape
  output_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  return 2 * math.prod(eqn.outvars[0].aval.shape) * (math.prod(kernel) // output_channels)


_COUNTED = {"dot_general": _dot_general, "conv_general_dilated": _convolution}


def _inner(value: Any) -> Iterator[Any]:
  """Yields the jaxprs in a parameter of an equation."""
  if isinstance(value, (tuple, list)):
    for v in value:
      yield from _inner(v)
  elif hasattr(value, "eqns"):
    yield value
  elif hasattr(getattr(value, "jaxpr", None), "eqns"):  # with its constants
    yield value.jaxpr


def _count(jaxpr: Any) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name in _COUNTED:
      total += _COUNTED[name](eqn)
      continue
    inner = [_count(j) for value in eqn.params.values() for j in _inner(value)]
    if name == "cond":
      total += max(inner)
    elif name == "scan":
      total += eqn.params["length"] * sum(inner)
    elif name in ("while", "shard_map", "pallas_call") and any(inner):
      raise ValueError(
        f"the FLOPs of a '{name}' with matrix products inside cannot be counted: "
        "how often they run is not in the program"
      )
    else:
      total += sum(inner)
  return total


def forward_flops(fn: Callable[..., Any], *args: Any) -> int:
  """Returns the FLOPs of one call of `fn`.

  A scan counts its body times its length, a `cond` its most expensive branch. Element-wise
  operations, reductions, normalisations, sorts and linear solvers count nothing.

  Args:
    fn: a function that JAX can trace.
    *args: its arguments, pytrees of arrays or of `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: a matrix product in a loop of unknown length, or in a kernel of Pallas.
  """
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def model_flops(module: nn.Module, image_size: int, channels: int = 3) -> int:
  """Returns the FLOPs of the forward pass for one image, head included.

  Args:
    module: a model of `vit_jax.models`.
    image_size: height and width in pixels.
    channels: of the image.
  """
  module = module.clone(dtype=jnp.float32)  # in bfloat16 attention may be a kernel of cuDNN
  images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
  variables = jax.eval_shape(
    lambda key, x: module.init(key, x, train=False), jax.random.key(0), images
  )
  return forward_flops(lambda v, x: module.apply(v, x, train=False), variables, images)
