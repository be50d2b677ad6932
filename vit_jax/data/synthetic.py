"""The embedded data set: images made by rule, endless in variety, with a known error floor.

An image shows one of many glyphs (small smooth colour patterns) somewhere on a cluttered ground;
its class is the class of the glyph. A class owns many glyphs without anything in common, and they
come at Zipf-distributed frequencies: a network first learns the few common ones, and each further
glyph costs more images and more width and is worth less. Such a tail of ever rarer skills is what
gives a power law (Hutter 2021, "Learning Curve Theory"; Michaud et al. 2023, "The Quantization
Model of Neural Scaling").

The task itself has no error floor to speak of: who knows the glyphs, recognises every image
(tests/data/test_synthetic.py does, by matching templates). The floor is set instead: a share
`label_noise` of the labels is drawn again, uniformly over all classes, on train and test alike.
The best possible classifier answers the class of the glyph and errs on
label_noise * (1 - 1 / classes) of the images. The number of wrong labels is that very number,
rounded, not a random one, so the true constant c of a law fitted on the test error is exact.
"""

import dataclasses
from functools import lru_cache

import numpy as np

from vit_jax.data.sources import ArraySource, Info

SPLITS = ("train", "test")
_CHUNK = 4096  # images that share one random generator


@dataclasses.dataclass(frozen=True)
class Spec:
  """What the set looks like; the last six make it easier or harder.

  Raises:
    ValueError: a value is out of range.
  """

  size: int = 16  # pixels, height and width
  classes: int = 10
  train_size: int = 65_536  # images
  test_size: int = 10_000  # images
  seed: int = 0  # of the whole set, glyphs included
  label_noise: float = 0.2  # share of labels drawn again
  glyphs: int = 100  # of each class; more: a longer tail, for larger networks to gain from
  zipf: float = 1.3  # frequency of glyph k is (k + 1) ** -zipf; larger: easier, steeper at first
  jitter: int = 1  # pixels that a glyph may lie off the centre, each way; the strongest knob
  negative: float = 0.0  # share of glyphs in inverted colours; at 0.5 a linear classifier is lost
  contrast: float = 0.5  # mean contrast of a glyph, as a share of the grey scale's half
  clutter: float = 0.15  # contrast of the ground; at `contrast` and above the floor rises

  def __post_init__(self) -> None:
    if not (
      self.size >= 8
      and self.classes >= 2
      and self.glyphs >= 1
      and self.train_size > 0
      and self.test_size > 0
      and self.seed >= 0
    ):
      raise ValueError("needs size >= 8, classes >= 2, glyphs, train_size, test_size >= 1")
    if not 0 <= self.label_noise <= 1 or not 0 <= self.negative <= 1:
      raise ValueError("label_noise and negative are shares, from 0 to 1")
    if not 0 <= 2 * self.jitter <= self.size - 4:
      raise ValueError(f"jitter={self.jitter} leaves a glyph less than 4 of {self.size} pixels")


def _upsampling(low: int, high: int) -> np.ndarray:
  """Returns the matrix [high, low] of linear interpolation, with pixel centres at i + 1/2."""
  x = np.clip((np.arange(high) + 0.5) * low / high - 0.5, 0, low - 1)
  return np.maximum(0, 1 - np.abs(x[:, None] - np.arange(low))).astype(np.float32)


def glyphs(spec: Spec) -> np.ndarray:
  """Returns the patterns, float32 [classes, glyphs, s, s, 3], mean 0 and standard deviation 1."""
  side = spec.size - 2 * spec.jitter
  rng = np.random.Generator(np.random.Philox(key=[spec.seed, 0]))
  cells = max(side // 3, 2)
  coarse = rng.standard_normal((spec.classes, spec.glyphs, cells, cells, 3), dtype=np.float32)
  up = _upsampling(cells, side)
  fine = np.einsum("ya,xb,kgabc->kgyxc", up, up, coarse, optimize=True)
  fine -= fine.mean((2, 3), keepdims=True)
  return fine / fine.std((2, 3, 4), keepdims=True)


def frequencies(spec: Spec) -> np.ndarray:
  """Returns the probability of each glyph within its class, float64 [glyphs]."""
  weights = np.arange(1, spec.glyphs + 1, dtype=np.float64) ** -spec.zipf
  return weights / weights.sum()


def _chunk(
  spec: Spec, patterns: np.ndarray, rng: np.random.Generator, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws n images: uint8 [n, size, size, 3], their classes and their glyphs' numbers."""
  size, side = spec.size, patterns.shape[2]
  label = rng.integers(spec.classes, size=n)
  glyph = rng.choice(spec.glyphs, size=n, p=frequencies(spec))
  offset = rng.integers(2 * spec.jitter + 1, size=(n, 2))
  gain = spec.contrast * rng.uniform(0.6, 1.4, (n, 1, 1, 1)).astype(np.float32)
  gain *= np.where(rng.random((n, 1, 1, 1)) < spec.negative, np.float32(-1), np.float32(1))
  tint = 0.15 * rng.standard_normal((n, 1, 1, 3), dtype=np.float32)

  # Ground: smooth blobs of the glyphs' own scale, so that no filter alone tells them apart.
  cells = max(size // 3, 2)
  up = spec.clutter * _upsampling(cells, size)
  coarse = rng.standard_normal((n, cells, cells * 3), dtype=np.float32)
  rows = np.matmul(up, coarse).reshape(n, size, cells, 3)
  canvas = np.matmul(_upsampling(cells, size), rows) + tint

  # A glyph fades out towards its border, so that no edge gives its place away.
  ramp = np.minimum(1, (np.arange(side) + 0.5) / 2)
  window = np.minimum(ramp, ramp[::-1]).astype(np.float32)
  stamp = (window[:, None] * window)[..., None]
  for y in range(2 * spec.jitter + 1):
    for x in range(2 * spec.jitter + 1):
      at = np.flatnonzero((offset[:, 0] == y) & (offset[:, 1] == x))
      drawn = stamp * gain[at] * patterns[label[at], glyph[at]]
      canvas[at, y : y + side, x : x + side] += drawn
  pixels = np.clip(canvas * 128 + 128, 0, 255).astype(np.uint8)
  return pixels, label.astype(np.int32), glyph


def clean(spec: Spec, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns (images uint8 [n, size, size, 3], classes int32 [n], glyphs int64 [n]), no noise."""
  patterns = glyphs(spec)
  total = spec.train_size if split == "train" else spec.test_size
  chunks = []
  for number, start in enumerate(range(0, total, _CHUNK)):
    stream = (SPLITS.index(split) + 1) * 2**32 + number
    rng = np.random.Generator(np.random.Philox(key=[spec.seed, stream]))
    chunks.append(_chunk(spec, patterns, rng, min(_CHUNK, total - start)))
  images, labels, numbers = (np.concatenate(x) for x in zip(*chunks, strict=True))
  return images, labels, numbers


def noisy_labels(spec: Spec, split: str, labels: np.ndarray) -> np.ndarray:
  """Gives exactly round(n * label_noise * (1 - 1 / classes)) of the labels another class."""
  rng = np.random.Generator(np.random.Philox(key=[spec.seed, 2**48 + SPLITS.index(split)]))
  count = round(len(labels) * spec.label_noise * (1 - 1 / spec.classes))
  chosen = rng.choice(len(labels), size=count, replace=False)
  noisy = labels.copy()
  noisy[chosen] = (labels[chosen] + rng.integers(1, spec.classes, size=count)) % spec.classes
  return noisy


class SyntheticSource(ArraySource):
  """One split of the embedded set, made and held in memory."""

  def __init__(self, info: Info, images: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> None:
    super().__init__(info, images, labels)
    self._wrong = wrong

  def irreducible_error(self, start: int, stop: int) -> float:
    return float(self._wrong[start:stop].mean())


@lru_cache(maxsize=2)  # a ladder opens the same set for each of its runs
def _make(spec: Spec, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  images, labels, _ = clean(spec, split)
  noisy = noisy_labels(spec, split, labels)
  for array in (images, noisy):
    array.flags.writeable = False
  return images, noisy, noisy != labels


def open_split(spec: Spec, name: str, split: str) -> SyntheticSource:
  """Makes one split, a second or two for 65,536 images.

  It is called as it was asked for, since another spec is another data set.
  """
  images, labels, wrong = _make(spec, split)
  info = Info(
    name=name,
    split=split,
    num_classes=spec.classes,
    size=len(labels),
    class_names=tuple(f"class {i}" for i in range(spec.classes)),
    irreducible_error=float(wrong.mean()),
  )
  return SyntheticSource(info, images, labels, wrong)
