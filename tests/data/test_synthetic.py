import numpy as np
import pytest

from vit_jax.data import sources, synthetic
from vit_jax.data.synthetic import Spec
from vit_jax.errors import UserError

_SMALL = Spec(train_size=6000, test_size=2000)


def _match(spec, images):
  """Answers the class of the glyph that fits best, anywhere and in either polarity."""
  patterns = synthetic.glyphs(spec)
  classes, count, side = patterns.shape[:3]
  edge = np.minimum(1, (np.arange(side) + 0.5) / 2)
  window = np.minimum(edge, edge[::-1])
  window = window[:, None] * window
  templates = (patterns * window[..., None]).reshape(classes * count, -1).astype(np.float32)
  templates /= np.linalg.norm(templates, axis=1, keepdims=True)
  pixels = images.astype(np.float32) - 128
  places = range(spec.size - side + 1)
  scores = np.full((len(images), classes * count), -np.inf, np.float32)
  for y in places:
    for x in places:
      cut = pixels[:, y : y + side, x : x + side].reshape(len(images), -1)
      np.maximum(scores, np.abs(cut @ templates.T), out=scores)
  return scores.argmax(1) // count


@pytest.mark.parametrize(
  "spec",
  [
    _SMALL,
    Spec(test_size=1000, negative=0.5, jitter=2),
    Spec(test_size=1000, size=20, classes=4, glyphs=20),
  ],
)
def test_who_knows_the_glyphs_errs_on_the_known_share_only(spec):
  images, classes, _ = synthetic.clean(spec, "test")
  answers = _match(spec, images)
  assert np.mean(answers != classes) <= 0.001
  source = synthetic.open_split(spec, "synthetic", "test")
  error = np.mean(answers != source.read(range(len(source)))[1])
  assert abs(error - source.info.irreducible_error) <= 0.001
  assert source.info.irreducible_error == pytest.approx(
    spec.label_noise * (1 - 1 / spec.classes), abs=0.5 / spec.test_size
  )


def test_more_clutter_than_glyph_would_raise_the_floor():
  spec = Spec(test_size=500, clutter=1.0)
  images, classes, _ = synthetic.clean(spec, "test")
  assert np.mean(_match(spec, images) != classes) > 0.05


@pytest.mark.parametrize("negative", [0.0, 0.5])
def test_a_linear_classifier_is_poor(negative):
  spec = Spec(train_size=20_000, test_size=2000, negative=negative)
  (x, y, _), (x_test, y_test, _) = (synthetic.clean(spec, s) for s in ("train", "test"))
  x, x_test = (
    np.pad(a.reshape(len(a), -1) / 128 - 1, ((0, 0), (0, 1)), constant_values=1)
    for a in (x, x_test)
  )
  ridge = 10 * np.eye(x.shape[1])
  weights = np.linalg.solve(x.T @ x + ridge, x.T @ np.eye(10)[y])
  assert np.mean((x_test @ weights).argmax(1) != y_test) > (0.3 if negative == 0 else 0.7)


def test_default_floor_is_exact_on_the_whole_test_split():
  assert sources.load("synthetic", "test").info.irreducible_error == 0.18


def test_the_floor_of_a_slice_is_its_own():
  whole = synthetic.open_split(_SMALL, "synthetic", "test")
  clean = synthetic.clean(_SMALL, "test")[1]
  name = "synthetic(train_size=6000, test_size=2000)"
  part = sources.load(name, "test[:10%]+test[1000:1100]")
  chosen = np.r_[0:200, 1000:1100]
  wrong = whole.read(chosen)[1] != clean[chosen]
  assert part.info.irreducible_error == pytest.approx(wrong.mean())
  assert len(part) == 300


def test_noise_is_uniform_over_the_other_classes():
  labels = np.repeat(np.arange(4, dtype=np.int32), 10_000)
  noisy = synthetic.noisy_labels(Spec(classes=4, label_noise=0.4), "train", labels)
  table = np.zeros((4, 4), int)
  np.add.at(table, (labels, noisy), 1)
  assert np.sum(labels != noisy) == round(40_000 * 0.4 * 0.75)
  off = table[~np.eye(4, dtype=bool)]
  assert np.abs(off - 1000).max() < 5 * np.sqrt(1000)


def test_is_a_function_of_its_seed():
  first, again = (synthetic.clean(_SMALL, "train") for _ in range(2))
  other = synthetic.clean(Spec(train_size=6000, seed=1), "train")
  for a, b, c in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_train_and_test_share_glyphs_but_no_image():
  train, test = (synthetic.clean(_SMALL, s) for s in ("train", "test"))
  keys = [{image.tobytes() for image in images} for images, _, _ in (train, test)]
  assert len(keys[0]) == 6000
  assert not keys[0] & keys[1]
  common = [
    {*zip(labels[g < 3].tolist(), g[g < 3].tolist(), strict=True)} for _, labels, g in (train, test)
  ]
  assert common[0] == common[1]


def test_glyphs_come_at_zipf_frequencies():
  spec = Spec(train_size=50_000, glyphs=5, zipf=1.0)
  _, labels, glyph = synthetic.clean(spec, "train")
  expected = 1 / np.arange(1, 6) / np.sum(1 / np.arange(1, 6))
  np.testing.assert_allclose(np.bincount(glyph) / 50_000, expected, atol=0.01)
  np.testing.assert_allclose(np.bincount(labels) / 50_000, 0.1, atol=0.01)


def test_images_fill_the_scale_without_clipping_much():
  images, _, _ = synthetic.clean(_SMALL, "test")
  assert images.dtype == np.uint8
  assert np.mean((images == 0) | (images == 255)) < 0.06
  assert images.std() > 30


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("synthetic(noise=0.1)", "unexpected keyword argument 'noise'; it takes synthetic(size"),
    ("synthetic(label_noise=1.5)", "label_noise and negative are shares"),
    ("synthetic(jitter=7)", "jitter=7 leaves a glyph less than 4 of 16 pixels"),
    ("synthetic(size=4)", "needs size >= 8"),
    ("synthetic(size=16", "cannot be read"),
    ("synthetic|synthetic", "must be one call"),
  ],
)
def test_wrong_options_give_one_line(name, message):
  with pytest.raises(UserError) as e:
    sources.load(name, "train")
  assert message in str(e.value)
  assert "\n" not in str(e.value)
