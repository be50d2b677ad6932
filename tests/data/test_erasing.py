import math

import numpy as np
import pytest

from vit_jax.data.erasing import erased_box
from vit_jax.data.transforms import Transform
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError

_N = 4000


def _run(text, n=_N, size=32, channels=3, dtype=np.float32, fill=7):
  batch = np.full((n, size, size, channels), fill, dtype)
  got = Transform(text)(batch, 1, np.arange(n))
  assert (batch == fill).all()  # the images may be the ones kept in memory
  assert got.dtype == dtype
  return got, (got != fill).any(-1)


def _boxes(mask):
  """Height, width and place of what is erased in each image that lost something."""
  boxes = []
  for m in mask[mask.any((1, 2))]:
    ys, xs = np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))
    assert m.sum() == len(ys) * len(xs) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
    boxes.append((len(ys), len(xs), ys[0], xs[0]))
  return np.array(boxes)


def test_boxes_are_distributed_as_timms():
  _, mask = _run("random_erasing(1, mode='constant')", size=64)
  h, w, y, x = _boxes(mask).T
  assert len(h) > 0.99 * _N
  # Independent: area uniform, log aspect uniform, drawn again where a side is too long.
  rng = np.random.default_rng(0)
  area = rng.uniform(0.02, 1 / 3, 200_000)
  aspect = np.exp(rng.uniform(math.log(0.3), math.log(10 / 3), area.shape))
  fits = (np.sqrt(area * aspect) < 1) & (np.sqrt(area / aspect) < 1)
  for q in (0.1, 0.25, 0.5, 0.75, 0.9):
    assert abs(np.quantile(h * w / 64**2, q) - np.quantile(area[fits], q)) < 0.02
    assert abs(np.quantile(np.log(h / w), q) - np.quantile(np.log(aspect[fits]), q)) < 0.1
  # The place is uniform, and the last row and column are reached.
  assert abs(np.mean(y / (64 - h)) - 0.5) < 0.03
  assert abs(np.mean(x / (64 - w)) - 0.5) < 0.03
  assert (y + h).max() == (x + w).max() == 64
  assert y.min() == x.min() == 0


def test_it_happens_with_its_probability():
  _, mask = _run("random_erasing")
  assert abs(mask.any((1, 2)).mean() - 0.25) < 0.025
  assert not _run("random_erasing(0)")[1].any()


def test_noise_is_normal_and_differs_between_images_pixels_and_channels():
  got, mask = _run("random_erasing(1)", n=400, size=48)
  noise = got[mask]
  assert abs(noise.mean()) < 0.01
  assert abs(noise.std() - 1) < 0.01
  for x, share in ((1, 0.8413), (2, 0.9772), (3, 0.99865)):
    assert abs((noise < x).mean() - share) < 0.002
  assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.01
  inner = [image[m].ravel()[:90] for image, m in zip(got, mask, strict=True) if m.sum() >= 30]
  together = np.corrcoef(np.stack(inner)[:, :60])
  off = together[~np.eye(len(together), dtype=bool)]
  assert np.abs(off).max() < 0.75
  assert abs(off.std() - 1 / math.sqrt(60)) < 0.01


def test_other_modes():
  got, mask = _run("random_erasing(1, mode='color')", n=300)
  for image, m in zip(got, mask, strict=True):
    assert len(np.unique(image[m], axis=0)) <= 1
  colours = np.array([image[m][0] for image, m in zip(got, mask, strict=True) if m.any()])
  assert abs(colours.std() - 1) < 0.08
  got, mask = _run("random_erasing(1, mode='constant', value=200)", dtype=np.uint8)
  assert (got[mask] == 200).all()


def test_narrow_bounds_are_kept():
  _, mask = _run("random_erasing(1, 0.1, 0.1, 1, 1, mode='constant')", n=50, size=40)
  h, w, _, _ = _boxes(mask).T
  assert (h == 13).all()  # sqrt(160) = 12.65
  assert (w == 13).all()
  u = uniforms(0, 0, np.arange(1), 24)[0]
  assert erased_box(4, 400, u, (0.3, 0.33), (0.0, 0.0)) is None


def test_cutout_is_a_square_around_any_pixel():
  _, mask = _run("cutout(8)", size=20)
  assert mask.any((1, 2)).all()
  h, w, y, x = _boxes(mask).T
  assert h.max() == w.max() == 8
  assert h.min() == w.min() == 4  # cut off by the edge
  centre = np.where(y > 0, y + 4, h - 4)  # the pixel drawn; below 0 lies the square's first row
  counts = np.bincount(centre, minlength=20)
  assert ((counts - _N / 20) ** 2 / (_N / 20)).sum() < 50  # 19 degrees of freedom, 1 in 10,000
  got, mask = _run("cutout(40, value=3)", n=4)
  assert mask.any()
  assert (got[mask] == 3).all()
  assert (_boxes(_run("cutout(5)", n=200, size=20)[1])[:, :2].max(0) == 5).all()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("random_erasing(-0.1)", "probability=-0.1 must lie in 0..1"),
    ("random_erasing(min_area=0)", "needs 0 < min_area"),
    ("random_erasing(min_aspect=4)", "min_aspect <= max_aspect"),
    ("random_erasing(mode='rand')", "mode='rand' must be 'pixel', 'color' or 'constant'"),
    ("cutout(0)", "size=0 must be at least 1 pixel"),
  ],
)
def test_a_wrong_argument_gives_one_line(text, message):
  with pytest.raises(UserError, match=message):
    Transform(text)


def test_noise_comes_after_normalize():
  with pytest.raises(UserError, match="put it after normalize"):
    _run("random_erasing", n=2, dtype=np.uint8)
