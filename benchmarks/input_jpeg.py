"""The input pipeline on photographs: what `python benchmarks/input_pipeline.py --jpeg` prints.

The photographs are made: noise whose amplitude falls as 1 / frequency, as in natural images (Field
1987), with weaker colours, 500 x 375 or 375 x 500 pixels, quality 90, 4:2:0. They take 108 kB each,
about as much as ImageNet's files: most of decoding goes into a file's bytes, not its pixels.

The limit is libjpeg-turbo decoding whole files that lie in memory: OpenCV's copy, or simplejpeg's
where that is installed, whichever is faster. Stages are timed on eight images at a time, each eight
several times over; the best counts, so that other work on the machine does not. The whole pipeline,
with Grain's threads, is timed over several batches in turns with the limit; the median counts.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from vit_jax import devices
from vit_jax.data import pipeline, sources
from vit_jax.data.sources import Source
from vit_jax.data.transforms import Transform

TRAIN = "inception_crop(224)|flip|value_range(-1, 1)"
SCALED = "inception_crop({}, scaled=True)|flip|value_range(-1, 1)"
EVAL = "resize_small(256)|central_crop(224)|value_range(-1, 1)"
_GROUP, _IMAGES, _BATCH = 8, 64, 128

# Images/s on a TPUv3 core in "Scaling Vision Transformers" (2106.04560), from its Fig. 2, and its
# Table 2's GFLOPs of a forward pass at 224 pixels.
_MODELS = {
  "Ti/16": (1099.7, 2.5),
  "S/16": (598.1, 9.2),
  "B/16": (231.7, 35.1),
  "L/16": (74.5, 122.9),
  "g/14": (17.5, 533.1),
  "G/14": (8.6, 965.3),
}
_UTILISATION = 0.5  # of an H100 in training


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns noise with the spectrum of a natural image, uint8 [H, W, 3]."""
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
  frequency[0, 0] = np.inf  # the mean is set below
  planes = []
  for mean, deviation in ((118, 50), (0, 10), (0, 10)):  # Y, Cb, Cr
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.08
    plane = np.fft.irfft2(spectrum, (height, width))
    planes.append(plane * (deviation / plane.std()) + mean)
  y, cb, cr = planes
  rgb = np.stack([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], -1)
  return np.clip(rgb, 0, 255).astype(np.uint8)


def make_folder(root: Path, count: int, height: int = 375, width: int = 500) -> int:
  """Writes photographs, three in four of them lying, and returns their mean size in bytes."""
  rng = np.random.default_rng(0)
  sizes = []
  for i in range(count):
    shape = (height, width) if i % 4 else (width, height)
    image = cv2.cvtColor(photograph(rng, *shape), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    path = root / "train" / str(i % 10) / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    sizes.append(len(data))
  return round(np.mean(sizes))


def decoders(files: list[bytes]) -> dict[str, Callable[[Iterable[int]], object]]:
  """Returns name -> function that decodes some of the files whole, to RGB."""

  def with_opencv(at: Iterable[int]) -> None:
    for i in at:
      cv2.imdecode(np.frombuffer(files[i], np.uint8), cv2.IMREAD_COLOR_RGB)

  found = {"decode only: OpenCV": with_opencv}
  try:
    import simplejpeg  # noqa: PLC0415
  except ImportError:
    return found

  def with_simplejpeg(at: Iterable[int]) -> None:
    for i in at:
      simplejpeg.decode_jpeg(files[i])

  return found | {"decode only: simplejpeg": with_simplejpeg}


def microseconds(step: Callable[[Iterable[int]], object], repeats: int) -> float:
  """Returns processor time for an image: of each group of images the best, averaged."""
  total = 0.0
  for start in range(0, _IMAGES, _GROUP):
    group, best = range(start, start + _GROUP), float("inf")
    for _ in range(repeats):
      before = time.process_time()
      step(group)
      best = min(best, time.process_time() - before)
    total += best
  return total / _IMAGES * 1e6


def stage(source: Source, text: str, whole: bool = False) -> Callable[[Iterable[int]], object]:
  """Returns a function that reads and transforms images; `whole`: as if they were all needed."""
  transform = Transform(text)
  batch: dict[int, np.ndarray] = {}

  def step(at: range) -> None:
    found, _ = (source.read if whole else source.stored)(at)
    done = transform(found, 0, np.array(at))
    rows = batch.setdefault(at.start, np.empty_like(done))
    rows[...] = done  # as into the batch

  return step


def stages(source: Source, large: Source, tiny: Source, repeats: int) -> tuple[float, float]:
  """Prints the stages; returns microseconds an image of the limit and of the pipeline's work."""
  files = [source._files[i][0].read_bytes() for i in range(_IMAGES)]
  big = [large._files[i][0].read_bytes() for i in range(_IMAGES)]
  np.empty(31 * 2**20, np.uint8)  # as the pipeline does, see there
  print(f"{'':58}{'us/image':>9}{'images/s/core':>15}{'of the limit':>14}")

  def row(name: str, step: Callable[[Iterable[int]], object], limit: float | None = None) -> float:
    spent = microseconds(step, repeats)
    share = f"{limit / spent:13.0%}" if limit else ""
    print(f"{name:58}{spent:9.0f}{1e6 / spent:15,.0f} {share}", flush=True)
    return spent

  limit = min(row(name, step) for name, step in decoders(files).items())
  row("decode, checked", lambda at: source.read(at), limit)
  first = "inception_crop(224)"
  row(f"{first}, of a whole image", stage(source, first, whole=True), limit)
  for text in (first, f"{first}|flip"):
    row(text, stage(source, text), limit)
  work = row(TRAIN, stage(source, TRAIN), limit)
  icons = TRAIN.replace("224", "16")
  row(f"of images of 16 x 16, which Python is busy with: {icons[:18]}|...", stage(tiny, icons))
  row(SCALED.format(224), stage(source, SCALED.format(224)), limit)
  row(TRAIN.replace("224", "112"), stage(source, TRAIN.replace("224", "112")), limit)
  row(SCALED.format(112), stage(source, SCALED.format(112)), limit)
  deit = "random_resized_crop(224)|flip|normalize"
  row(deit, stage(source, deit), limit)
  row(EVAL, stage(source, EVAL), limit)
  bilinear = EVAL.replace("256", "256, 'bilinear'")
  row(bilinear, stage(source, bilinear), limit)
  print("images of 1000 x 750:")
  own = min(row(name, step) for name, step in decoders(big).items())
  row(TRAIN, stage(large, TRAIN), own)
  row(SCALED.format(224), stage(large, SCALED.format(224)), own)
  return limit, work


def threads(source: Source, rounds: int, batches: int) -> None:
  """Prints the rate of the whole pipeline, by threads."""
  files = [source._files[i][0].read_bytes() for i in range(len(source))]
  decode = list(decoders(files).values())[-1]  # simplejpeg where it is installed, a little faster
  counts: list[int] = []
  real = source.stored
  source.stored = lambda at: counts.append(len(at)) or real(at)

  def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Returns images per second of processor time, and of time."""
    spent, passed = time.process_time(), time.perf_counter()
    done = work()
    return done / (time.process_time() - spent), done / (time.perf_counter() - passed)

  def only_decode() -> int:
    decode(range(2 * _BATCH))
    return 2 * _BATCH

  print(f"{'whole pipeline':58}{'images/s/core':>15}{'of the limit':>14}{'images/s':>10}")
  for number in (0, 1, 2):
    found = []
    for seed in range(rounds):
      limit, _ = timed(only_decode)
      iterator = pipeline.train_batches(
        source, transforms=TRAIN, batch_size=_BATCH, seed=seed, cache=False, num_threads=number
      )
      for _ in range(6):  # until the memory of the batches is being used again
        next(iterator)

      def consume(iterator: object = iterator) -> int:
        before = sum(counts)  # what is read, not what is taken: some is read ahead
        for _ in range(batches):
          next(iterator)
        return sum(counts) - before

      core, clock = timed(consume)
      iterator.close()
      found.append((core, core / limit, clock))
    core, share, clock = (statistics.median(column) for column in zip(*found, strict=True))
    name = "in the caller's thread" if not number else f"{number} thread(s)"
    print(f"{name:58}{core:15,.0f} {share:13.0%}{clock:10,.0f}", flush=True)


def cores(rate: float) -> None:
  """Prints how many cores feed a device, at so many images/s/core."""
  peak = devices.peak_flops("H100")
  print(f"cores that feed a device, at {rate:,.0f} images/s/core:")
  print(f"{'':8}{'TPU v3 core':>24}{f'H100 at {_UTILISATION:.0%} of its peak':>32}")
  for name, (measured, gflops) in _MODELS.items():
    possible = _UTILISATION * peak / (3e9 * gflops)  # a training step is three forward passes
    columns = [f"{x:,.0f} images/s {x / rate:8.2f}" for x in (measured, possible)]
    print(f"{name:8}{columns[0]:>24}{columns[1]:>32}")


def run(scratch: Path, quick: bool) -> None:
  """Prints everything; `quick` with few repeats."""
  mean = make_folder(scratch / "photos", 256)
  mean_large = make_folder(scratch / "large", _IMAGES, 750, 1000)
  make_folder(scratch / "tiny", _IMAGES, 16, 16)
  tiny = sources.load(str(scratch / "tiny"), "train")
  source = sources.load(str(scratch / "photos"), "train")
  large = sources.load(str(scratch / "large"), "train")
  print(f"500 x 375: {mean:,} bytes a file; 1000 x 750: {mean_large:,}")
  _, work = stages(source, large, tiny, 3 if quick else 15)
  threads(source, *((1, 2) if quick else (7, 8)))
  cores(1e6 / work)
