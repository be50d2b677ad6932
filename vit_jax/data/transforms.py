"""Preprocessing of images on the host, composed by a text: "random_crop(32, pad=4)|flip|normalize".

An operation is made once from its arguments and then called with images and with uniform random
numbers: a fixed count for each image, hashed from (seed, position in the run, place in the text).
So what an image goes through is independent of the batch, thread or process that it is in.
`batched` operations are written once for [n, H, W, C] and serve single images as n = 1.
`vit_jax.data.operations` says how to add one.
"""

import inspect

import numpy as np

# These register their operations.
from vit_jax.data import autoaugment, calls, color, crops, erasing, pixels, randaugment  # noqa: F401
from vit_jax.data.operations import REGISTRY, Entry, Op, find
from vit_jax.data.stored import Images, Stored, decoded
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError


def usages() -> dict[str, str]:
  """Returns name -> "name(arguments): what it does" of every operation."""
  return {
    name: f"{calls.usage(name, e.make)}: {(e.make.__doc__ or '').splitlines()[0]}"
    for name, e in sorted(REGISTRY.items())
  }


def describe(name: str) -> str:
  """Returns how an operation is called and all that it says about itself; errors as for `find`."""
  make = find(name).make
  return f"{calls.usage(name, make)}\n\n{inspect.getdoc(make)}"


class Transform:
  """A parsed text; call it to preprocess images."""

  def __init__(self, text: str) -> None:
    """Parses the text.

    Raises:
      UserError: an operation or argument is unknown or wrong; the nearest name is given.
    """
    self.text = text
    self.scaled = False  # whether the pixels depend on images being decoded by this transform
    self._ops: list[tuple[str, Op, Entry]] = []
    for call in calls.parse(text, "transforms"):
      name, entry = call[0], find(call[0])
      self.scaled |= calls.bind(entry.make, call, "transform").arguments.get("scaled", False)
      self._ops.append((name, calls.apply(entry.make, call, "transform"), entry))

  def __call__(self, batch: Images, seed: int, positions: np.ndarray) -> np.ndarray:
    """Preprocesses images.

    Args:
      batch: uint8 [n, H, W, C], or n images of their own sizes, decoded or not.
      seed: of the run.
      positions: integers [n], the place of each image in the run, which keys its randomness.

    Returns:
      uint8 or float32 [n, H, W, C].

    Raises:
      UserError: an operation cannot take these images, their sizes differ at the end, or one
        cannot be decoded.
    """
    for stream, (name, op, entry) in enumerate(self._ops):
      u = uniforms(seed, stream, positions, entry.draws)
      try:
        if entry.batched:
          batch = _stack(decoded(batch))
          if isinstance(batch, np.ndarray):
            batch = op(batch, u)
          else:
            batch = [op(image[None], v[None])[0] for image, v in zip(batch, u, strict=True)]
        else:
          # One image after the other: its pixels are still in the processor's cache.
          batch = [
            op(image.decode() if isinstance(image, Stored) and not entry.cropping else image, v)
            for image, v in zip(batch, u, strict=True)
          ]
      except UserError:
        raise
      except ValueError as e:
        raise UserError(f"transform {name} in {self.text!r}: {e}") from None
    batch = _stack(decoded(batch))
    if not isinstance(batch, np.ndarray):
      raise different_sizes(self.text, {image.shape for image in batch})
    return batch


def different_sizes(text: str, shapes: set[tuple[int, ...]]) -> UserError:
  """Returns the error for images that a text has left in several shapes."""
  return UserError(
    f"images of different sizes, such as {min(shapes)} and {max(shapes)}, cannot "
    f"form a batch: end transforms {text!r} with a crop or a resize"
  )


def _stack(batch: np.ndarray | list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
  """Makes one array of images of one shape."""
  if isinstance(batch, list) and len({image.shape for image in batch}) == 1:
    return np.stack(batch)
  return batch
