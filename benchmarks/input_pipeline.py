"""How many images a second the input pipeline delivers, for each core it occupies.

  python benchmarks/input_pipeline.py                    # images made on the spot
  TFDS_DATA_DIR=DIR python benchmarks/input_pipeline.py  # a prepared CIFAR-10
  python benchmarks/input_pipeline.py --augmentations    # each alone, on decoded images
  python benchmarks/input_pipeline.py --jpeg [--quick]   # photographs at 224 px, see input_jpeg.py

Rates are images per second of processor time, all threads counted, so they compare between
machines with other work to do; the ratios are to decoding alone, and to a plain loop over NumPy
slices for the stages in memory. The last column is the processor time that one image takes, as a
share of what a training step takes for it on this machine, if --step-ms and --batch-size give that.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import input_jpeg
import numpy as np

from vit_jax.data import pipeline, sources
from vit_jax.data.sources import Source
from vit_jax.data.transforms import Transform

_AUGMENT = "random_crop(32, pad=4)|flip|normalize('cifar10')"

# Text, with {} for the size of the result, and the size of the images that it takes.
_DEIT = "random_resized_crop({})|flip|randaugment|normalize|random_erasing"
_AUGMENTATIONS = {
  "random_crop({}, pad=4)": (32,),
  "inception_crop({})": (32, 400),
  "random_resized_crop({})": (32, 400),
  "flip": (32, 224),
  "color_jitter(0.4, 0.4, 0.4)": (32, 224),
  "color_jitter(0.4, 0.4, 0.4, 0.1)": (32, 224),
  "randaugment": (32, 224),
  "autoaugment_cifar": (32, 224),
  "normalize": (32, 224),
  "normalize|random_erasing": (32, 224),
  "normalize|cutout(16)": (32, 224),
  "autoaugment_cifar|random_crop({}, pad=4)|flip|normalize": (32,),
  _DEIT: (32, 400),
}


def make_folder(root: Path, count: int) -> None:
  """Writes JPEG files of 32 x 32 pixels with the spectrum of photographs, roughly."""
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = root / "train" / str(i % 10) / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(coarse, (32, 32), interpolation=cv2.INTER_CUBIC))


def rate(step, images_per_step: int, seconds: float) -> float:
  """Returns images per second of processor time over at least `seconds` of it."""
  step()
  start, images = time.process_time(), 0
  while (spent := time.process_time() - start) < seconds:
    step()
    images += images_per_step
  return images / spent


def batches(source: Source, transforms: str, batch_size: int, cache: bool, threads: int):
  """Returns a function that takes the next batch."""
  iterator = pipeline.train_batches(
    source, transforms=transforms, batch_size=batch_size, seed=0, cache=cache, num_threads=threads
  )
  for _ in range(20):  # what was read ahead would come for free
    next(iterator)
  return lambda: next(iterator)


def plain_loop(source: Source, batch_size: int):
  """The same work in memory, written as one would without a library."""
  images, _ = source.read(range(len(source)))
  images, rng = np.stack(list(images)), np.random.default_rng(0)
  mean, std = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])
  padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))

  def step():
    out = np.empty((batch_size, 32, 32, 3), np.float32)
    chosen = rng.integers(len(images), size=batch_size)
    for k, (i, y, x, flip) in enumerate(
      zip(chosen, *rng.integers(9, size=(2, batch_size)), rng.random(batch_size) < 0.5, strict=True)
    ):
      image = padded[i, y : y + 32, x : x + 32]
      out[k] = image[:, ::-1] if flip else image
    return (out / 255 - mean) / std

  return step


def augmentations(seconds: float) -> None:
  """Prints the rate of each augmentation on images in memory, to 32 and to 224 pixels."""
  rng = np.random.default_rng(0)
  inputs = {}
  for size, count in ((32, 1024), (224, 64), (400, 64)):  # as many as the pipeline takes at a time
    coarse = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    inputs[size] = np.stack([cv2.resize(c, (size, size)) for c in coarse])
  print(f"{'images/s/core':68}{'32 px':>10}{'224 px':>10}")
  for text, sizes in _AUGMENTATIONS.items():
    found = {}
    for size in sizes:
      result = 32 if size == 32 else 224
      transform, images = Transform(text.format(result)), inputs[size]
      count = iter(range(0, 2**31, len(images)))

      def step(transform=transform, images=images, count=count):
        transform(images, 0, next(count) + np.arange(len(images)))

      found[result] = f"{rate(step, len(images), seconds):,.0f}"
    print(f"{text.format('s'):68}{found[32]:>10}{found.get(224, ''):>10}", flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch-size", type=int, default=512)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--seconds", type=float, default=3.0, help="of processor time a row")
  parser.add_argument("--step-ms", type=float, help="time of a training step of this batch size")
  parser.add_argument("--augmentations", action="store_true", help="measure each of them instead")
  parser.add_argument("--jpeg", action="store_true", help="measure photographs instead")
  parser.add_argument("--quick", action="store_true", help="--jpeg in half a minute, roughly")
  args = parser.parse_args()
  if args.augmentations:
    augmentations(args.seconds)
    return
  with tempfile.TemporaryDirectory() as scratch:
    if args.jpeg:
      input_jpeg.run(Path(scratch), args.quick)
      return
    if os.environ.get("TFDS_DATA_DIR"):
      source = sources.load("cifar10", "train")
    else:
      make_folder(Path(scratch), 4000)
      source = sources.load(scratch, "train")
    size = args.batch_size
    rng = np.random.default_rng(0)

    def decode():
      source.read(rng.integers(len(source), size=size))

    on_demand = lambda text: batches(source, text, size, False, args.threads)  # noqa: E731
    in_memory = lambda text: batches(source, text, size, True, args.threads)  # noqa: E731
    rows = {
      "decode": decode,
      "decode, shuffle, batch": on_demand(""),
      "decode, crop, flip, normalize": on_demand(_AUGMENT),
      "memory: plain NumPy loop": plain_loop(source, size),
      "memory: shuffle, batch": in_memory(""),
      "memory: crop, flip": in_memory("random_crop(32, pad=4)|flip"),
      "memory: crop, flip, normalize": in_memory(_AUGMENT),
    }
    print(f"{source.info.name}, {len(source):,} images, batch {size}, {args.threads} thread(s)")
    print(f"{'':32}{'images/s/core':>14}{'ratio':>8}" + ("  of a step" if args.step_ms else ""))
    base = None
    for name, step in rows.items():
      found = rate(step, size, args.seconds)
      if name in ("decode", "memory: plain NumPy loop"):
        base = found
      line = f"{name:32}{found:14,.0f}{found / base:8.2f}"
      if args.step_ms:
        line += f"{size / found / (args.step_ms / 1000):10.1%}"
      print(line, flush=True)


if __name__ == "__main__":
  main()
