import numpy as np
import pytest
from pictures import distance, photo

from vit_jax.data.randaugment import randaugment
from vit_jax.data.strengths import OPERATIONS, Canvas
from vit_jax.data.transforms import Transform
from vit_jax.data.uniforms import uniforms
from vit_jax.errors import UserError

_FIXED = {"autocontrast", "equalize", "invert"}
_CANVAS = Canvas((128.0,), "bicubic")
_TIMM = {
  "autocontrast": "AutoContrast",
  "equalize": "Equalize",
  "invert": "Invert",
  "rotate": "Rotate",
  "posterize": "PosterizeIncreasing",
  "solarize": "SolarizeIncreasing",
  "solarize_add": "SolarizeAdd",
  "color": "ColorIncreasing",
  "contrast": "ContrastIncreasing",
  "brightness": "BrightnessIncreasing",
  "sharpness": "SharpnessIncreasing",
  "shear_x": "ShearX",
  "shear_y": "ShearY",
  "translate_x": "TranslateXRel",
  "translate_y": "TranslateYRel",
}


def _mean_distance(name, m):
  """Of several pictures and both directions to what magnitude m makes of them."""
  pictures = [photo(40, 36, seed, cells=3) for seed in range(6)]
  return np.mean(
    [
      distance(OPERATIONS[name](p, sign * m / 10, _CANVAS), p)[1]
      for p in pictures
      for sign in (1, -1)
    ]
  )


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_larger_magnitude_changes_an_image_more(name):
  found = np.array([_mean_distance(name, m) for m in range(11)])
  if name in _FIXED:
    assert np.ptp(found) == 0
    assert found[0] > 1
  elif name == "posterize":  # a whole number of bits: at 10 as many as before
    assert (np.diff(found) >= 0).all()
    assert np.count_nonzero(np.diff(found)) == 3
  else:
    assert found[0] == 0
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found[::2]) > 0).all()  # pictures have few levels above 230
  if name not in _FIXED | {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}:
    beyond = [_mean_distance(name, m) for m in (10, 12, 15, 20, 30)]
    assert (np.diff(beyond) >= 0).all()


@pytest.mark.torch
@pytest.mark.parametrize("m", [0, 2.7, 7.3, 9, 10])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_timms(name, m, monkeypatch):
  theirs = pytest.importorskip("timm.data.auto_augment")
  image = pytest.importorskip("PIL.Image")
  if (name, m) == ("posterize", 10):
    pytest.skip("0 bits, which Pillow refuses")
  fill = (100, 110, 120)
  for kernel, resample, tolerance in (
    ("nearest", image.Resampling.NEAREST, 0.01),
    ("bilinear", image.Resampling.BILINEAR, 1.3),  # the ring around moved pictures
    ("bicubic", image.Resampling.BICUBIC, 1.9),  # of another sharpness: a is -0.75 or -1
  ):
    for sign in (1, -1):
      monkeypatch.setattr(theirs, "_randomly_negate", lambda v, s=sign: v * s)
      op = theirs.AugmentOp(
        _TIMM[name], prob=1.0, magnitude=m, hparams=dict(img_mean=fill, interpolation=resample)
      )
      picture = photo()
      got = OPERATIONS[name](picture, sign * m / 10, Canvas(fill, kernel))
      largest, mean = distance(got, op(image.fromarray(picture)))
      assert largest <= 2 or mean <= tolerance


@pytest.mark.torch
def test_the_operations_are_timms_increasing_ones():
  theirs = pytest.importorskip("timm.data.auto_augment")
  assert sorted(_TIMM.values()) == sorted(theirs._RAND_INCREASING_TRANSFORMS)
  ops = theirs.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
  assert (ops.num_layers, {o.prob for o in ops.ops}) == (2, {0.5})
  assert {(o.magnitude, o.magnitude_std, o.magnitude_max) for o in ops.ops} == {(9, 0.5, None)}


def _recorded(monkeypatch, **arguments):
  """The (name, strength) that each of 4000 images goes through, as (uniforms, list) pairs."""
  calls = []
  for name in OPERATIONS:
    monkeypatch.setitem(
      OPERATIONS, name, lambda image, s, c, name=name: calls[-1].append((name, s, c)) or image
    )
  op, picture = randaugment(**arguments), photo(4, 4)
  for u in uniforms(3, 0, np.arange(4000), 40):
    calls.append([])
    op(picture, u)
  return calls


def test_draws_are_distributed_as_stated(monkeypatch):
  calls = _recorded(monkeypatch)
  counts = np.bincount([len(c) for c in calls], minlength=3) / 4000
  np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.03)
  names, strengths, canvases = zip(*[x for c in calls for x in c], strict=True)
  for name in OPERATIONS:
    assert abs(names.count(name) / len(names) - 1 / 15) < 0.015
  m = 10 * np.abs(strengths)
  assert m.max() == 10  # cut off
  assert abs(np.quantile(m, 0.5) - 9) < 0.05
  assert abs(np.quantile(m, 0.841) - 9.5) < 0.05
  assert abs(np.quantile(m, 0.159) - 8.5) < 0.05
  assert abs(np.mean(np.array(strengths) > 0) - 0.5) < 0.03
  assert set(canvases) == {Canvas((128.0,), "bicubic")}


def test_arguments_do_what_they_say(monkeypatch):
  calls = _recorded(
    monkeypatch, n=3, m=15, mstd=0, probability=1, max_m=20, fill=(1, 2, 3), interpolation="random"
  )
  assert {len(c) for c in calls} == {3}
  _, strengths, canvases = zip(*[x for c in calls for x in c], strict=True)
  assert set(strengths) == {1.5, -1.5}
  assert {c.fill for c in canvases} == {(1.0, 2.0, 3.0)}
  bicubic = np.mean([c.interpolation == "bicubic" for c in canvases])
  assert abs(bicubic - 0.5) < 0.03


def test_probability_0_changes_nothing():
  batch = np.stack([photo(32, 32, i) for i in range(8)])
  got = Transform("randaugment(probability=0)")(batch, 0, np.arange(8))
  np.testing.assert_array_equal(got, batch)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("randaugment(n=9)", "n=9 must lie in 1..8"),
    ("randaugment(m=11)", "needs 0 <= m <= max_m"),
    ("randaugment(mstd=-1)", "mstd >= 0"),
    ("randaugment(probability=2)", "probability=2.0 must lie in 0..1"),
    ("randaugment(fill=300)", "fill=300 must be a number from 0 to 255"),
    ("randaugment(fill='grey')", "fill='grey' must be a number"),
    ("randaugment(interpolation='lanczos')", "must be one of nearest, bilinear"),
  ],
)
def test_a_wrong_argument_gives_one_line(text, message):
  with pytest.raises(UserError, match=message):
    Transform(text)


def test_it_comes_before_normalize():
  with pytest.raises(UserError, match="put it before value_range and normalize"):
    Transform("normalize|randaugment")(photo()[None], 0, np.arange(1))
