import numpy as np
import pytest
from pictures import photo

from vit_jax.data import color, tones
from vit_jax.data.transforms import Transform
from vit_jax.errors import UserError


def _record(monkeypatch, **arguments):
  """What each of 4000 images goes through: (name, amount) pairs."""
  calls = []
  for name in ("brightness", "contrast", "saturation", "hue"):
    monkeypatch.setattr(
      tones, name, lambda image, x, name=name: calls[-1].append((name, x)) or image
    )
  op, rng = color.color_jitter(**arguments), np.random.default_rng(0)
  for u in rng.random((4000, 6)):
    calls.append([])
    op(np.zeros((2, 2, 3), np.uint8), u)
  return calls


def test_amounts_are_uniform_over_torchvisions_ranges(monkeypatch):
  calls = _record(monkeypatch, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
  for name, low, high in (
    ("brightness", 0.6, 1.4),
    ("contrast", 0.0, 2.5),  # never below 0
    ("saturation", 0.8, 1.2),
    ("hue", -0.1, 0.1),
  ):
    amounts = np.array([x for c in calls for n, x in c if n == name])
    assert len(amounts) == 4000
    for q in (0, 0.25, 0.5, 0.75, 1):
      assert abs(np.quantile(amounts, q) - (low + q * (high - low))) < 0.03 * (high - low)


def test_the_order_is_random_and_what_is_0_left_out(monkeypatch):
  calls = _record(monkeypatch, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
  orders = [tuple(n for n, _ in c) for c in calls]
  assert len(set(orders)) == 24
  assert max(orders.count(o) for o in set(orders)) < 4000 / 24 * 1.4
  assert {len(c) for c in _record(monkeypatch, brightness=0.4, saturation=0.1)} == {2}
  share = np.mean([bool(c) for c in _record(monkeypatch, contrast=0.1, probability=0.8)])
  assert abs(share - 0.8) < 0.02


def test_it_equals_pillow_in_its_order():
  enhance = pytest.importorskip("PIL.ImageEnhance")
  image = pytest.importorskip("PIL.Image")
  picture = photo(20, 24)
  op = color.color_jitter(brightness=0.5, contrast=0.5, saturation=0.5)
  u = np.array([0.1, 0.9, 0.3, 0.5, 23.5 / 24, 0.0])  # the last order is the reversed one
  pillow = image.fromarray(picture)
  for name, factor in (("Color", 0.8), ("Contrast", 1.4), ("Brightness", 0.6)):
    pillow = getattr(enhance, name)(pillow).enhance(factor)
  assert np.abs(op(picture, u).astype(int) - np.asarray(pillow)).max() <= 2


def test_grayscale_has_equal_channels_of_its_luma():
  batch = np.stack([photo(16, 16, i) for i in range(400)])
  got = Transform("grayscale(0.3)")(batch, 0, np.arange(400))
  grey = (got == got[..., :1]).all((1, 2, 3))
  assert abs(grey.mean() - 0.3) < 0.06
  luma = batch @ np.array([0.299, 0.587, 0.114])
  assert np.abs(got[grey][..., 0] - luma[grey]).max() <= 0.51
  np.testing.assert_array_equal(got[~grey], batch[~grey])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("color_jitter(-0.1)", "must be at least 0"),
    ("color_jitter(hue=0.6)", "hue in 0..0.5"),
    ("color_jitter(0.4, probability=-1)", "probability=-1.0 must lie in 0..1"),
    ("grayscale(1.5)", "probability=1.5 must lie"),
  ],
)
def test_a_wrong_argument_gives_one_line(text, message):
  with pytest.raises(UserError, match=message):
    Transform(text)


@pytest.mark.parametrize("name", ["color_jitter(0.4)", "grayscale"])
def test_they_come_before_normalize(name):
  with pytest.raises(UserError, match="put it before value_range and normalize"):
    Transform(f"value_range|{name}")(photo()[None], 0, np.arange(1))
