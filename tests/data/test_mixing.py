import dataclasses
import math
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import run_on_devices

from vit_jax import losses
from vit_jax.data import mixing
from vit_jax.data.mixing import Mixing
from vit_jax.errors import UserError

B, H, W, C, K = 6, 9, 12, 3, 5
BOTH = Mixing(mixup=0.8, cutmix=1.0)


def batch(seed=0, size=B):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.normal(size=(size, H, W, C)).astype(np.float32),
    "label": rng.integers(0, K, size).astype(np.int32),
  }


def numpy_mixed(data, kind, boxed, ratio, box=None):
  """One example at a time, in float64; box is (top, bottom, left, right)."""
  images, labels = np.float64(data["image"]), data["label"]
  n = len(images)
  out, targets = [], []
  for i in range(n):
    j = n - 1 - i if kind == "timm" else (i - 1) % n
    image = images[i].copy()
    if boxed:
      top, bottom, left, right = box
      image[top:bottom, left:right] = images[j, top:bottom, left:right]
    else:
      image = ratio * images[i] + (1 - ratio) * images[j]
    target = np.zeros(K)
    target[labels[i]] += ratio
    target[labels[j]] += 1 - ratio
    out.append(image)
    targets.append(target)
  return np.array(out), np.array(targets)


def numpy_box(ratio, row, column, height=H, width=W):
  """Returns the box as timm cuts it, and the share of the image that stays."""
  side = math.sqrt(1 - ratio)
  rows, columns = int(height * side), int(width * side)
  top, bottom = max(row - rows // 2, 0), min(row + rows // 2, height)
  left, right = max(column - columns // 2, 0), min(column + columns // 2, width)
  return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)


def draws(key, options):
  """Returns the numbers that a key stands for: (mixes, boxed, ratio, row, column)."""
  keys = jax.random.split(key, 6)
  boxed = bool(options.cutmix)
  if options.mixup and options.cutmix:
    boxed = bool(jax.random.uniform(keys[1]) < options.switch)
  alpha = options.cutmix if boxed else options.mixup
  ratio = float(jax.random.beta(keys[3] if boxed else keys[2], alpha, alpha))
  row, column = (
    int(jax.random.randint(k, (), 0, n)) for k, n in zip(keys[4:], (H, W), strict=True)
  )
  return bool(jax.random.uniform(keys[0]) < options.prob), boxed, ratio, row, column


@pytest.mark.parametrize(
  "options",
  [
    Mixing(mixup=0.8),
    Mixing(cutmix=1.0),
    BOTH,
    Mixing(mixup=0.2, cutmix=0.4, switch=0.3, prob=0.6),
    Mixing(mixup=0.2, kind="big_vision"),
  ],
)
def test_equals_numpy_with_the_same_draws(options):
  data, mix = batch(), jax.jit(mixing.make(options, K))
  seen = set()
  for number in range(24):
    key = jax.random.key(number)
    mixes, boxed, ratio, row, column = draws(key, options)
    if options.kind == "big_vision":
      ratio = max(ratio, 1 - ratio)
    box, left = numpy_box(ratio, row, column)
    if not mixes:
      boxed, ratio = False, 1.0
    images, labels = numpy_mixed(data, options.kind, boxed, left if boxed else ratio, box)
    got = mix(data, key, number)
    np.testing.assert_allclose(got["image"], images, atol=5e-6)
    np.testing.assert_allclose(got["label"], labels, atol=1e-6)
    seen.add((mixes, boxed))
  expected = {(True, False), (True, True)} if options.mixup and options.cutmix else set()
  assert seen >= expected
  assert (options.prob == 1) == all(mixes for mixes, _ in seen)


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(6))
def test_equals_timm_with_its_draws(seed):
  """Its own random numbers, read off what it did to a batch of constant images."""
  timm = pytest.importorskip("timm")
  import torch

  data = batch(seed)
  theirs = timm.data.Mixup(
    mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=K
  )
  np.random.seed(seed)  # noqa: NPY002 - whose numbers timm takes
  if seed % 2:
    theirs.mixup_alpha = 0.0
  image = torch.from_numpy(data["image"].transpose(0, 3, 1, 2).copy())
  image[0], image[-1] = 1.0, 0.0  # shows what stays of each pixel
  data["image"][0], data["image"][-1] = 1.0, 0.0
  images, labels = theirs(image, torch.from_numpy(data["label"]).long())
  images = images.numpy().transpose(0, 2, 3, 1)
  w = jnp.asarray(images[0, ..., :1])
  if seed % 2:
    assert set(np.unique(w)) <= {0, 1}
  got = mixing.apply(data, w, jnp.mean(w), K, "timm")
  np.testing.assert_allclose(got["image"], images, atol=5e-6)
  smooth = 0.9 * np.asarray(got["label"]) + 0.1 / K
  np.testing.assert_allclose(smooth, labels.numpy(), atol=1e-6)


def many(options, count=20_000, step=0, size=(H, W)):
  keys = jax.random.split(jax.random.key(3), count)
  f = jax.vmap(lambda key: mixing.weights(options, key, step, *size))
  return [np.asarray(x) for x in jax.jit(f)(keys)]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_lambda_is_beta_distributed(alpha):
  _, ratios = many(Mixing(mixup=alpha))
  assert abs(ratios.mean() - 0.5) < 0.01
  assert ratios.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)
  _, larger = many(Mixing(mixup=alpha, kind="big_vision"))
  np.testing.assert_allclose(larger, np.maximum(ratios, 1 - ratios), atol=1e-6)


def test_boxes_have_the_drawn_area_until_the_border_cuts_them():
  """Before it, 1 - l of the image; after it, a quarter remains of the largest in a corner."""
  size = (64, 64)
  w, ratios = many(Mixing(cutmix=1.0), 4000, size=size)
  np.testing.assert_allclose(w.mean((1, 2, 3)), ratios, atol=1e-5)
  assert set(np.unique(w)) == {0, 1}
  # Along one side of length 1 a box of length s around a uniform centre keeps s - s^2 / 4; with
  # s^2 uniform, E (s - s^2 / 4)^2 = 1/2 - 1/5 + 1/48. Less the half pixels that floor takes.
  assert 1 - ratios.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)
  rows, columns = (1 - w).max((2, 3)).mean(0), (1 - w).max((1, 3)).mean(0)
  np.testing.assert_allclose(rows, rows[::-1], atol=0.05)
  np.testing.assert_allclose(rows, columns, atol=0.05)


def test_switch_and_prob_are_the_shares_they_say():
  w, ratios = many(Mixing(mixup=1.0, cutmix=1.0, switch=0.3, prob=0.7), 4000)
  untouched = (w == 1).all((1, 2, 3))
  blended = ~np.isin(w, (0, 1)).all((1, 2, 3))
  assert blended.mean() == pytest.approx(0.7 * 0.7, abs=0.03)
  # Tiny boxes cover no pixel: their sides are below two.
  assert 0.3 <= untouched.mean() <= 0.37
  assert (ratios[untouched] == 1).all()


@settings(max_examples=60, deadline=None)
@given(
  seed=st.integers(0, 10**6),
  size=st.integers(1, 9),
  mixup=st.sampled_from([0.0, 0.1, 1.0, 8.0]),
  cutmix=st.sampled_from([0.0, 0.1, 1.0, 8.0]),
)
def test_labels_keep_their_mass_and_images_their_sum(seed, size, mixup, cutmix):
  options = Mixing(mixup=mixup, cutmix=cutmix)
  data = batch(seed, size)
  got = mixing.make(options, K)(data, jax.random.key(seed), jnp.int32(0))
  assert got["label"].shape == (size, K)
  assert got["label"].dtype == jnp.float32
  np.testing.assert_allclose(got["label"].sum(-1), 1, atol=1e-6)
  assert (np.asarray(got["label"]) >= 0).all()
  # What one example gives away, its partner receives.
  np.testing.assert_allclose(got["image"].sum(0), data["image"].sum(0), atol=1e-4)
  ratio = np.asarray(mixing.weights(options, jax.random.key(seed), jnp.int32(0), H, W)[1])
  assert 0 <= ratio <= 1
  own = np.asarray(got["label"])[np.arange(size), data["label"]]
  assert (own >= ratio - 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
  ratio=st.floats(0, 1, width=32),
  row=st.integers(0, H - 1),
  column=st.integers(0, W - 1),
)
def test_the_box_is_timms(ratio, row, column):
  covered = np.asarray(
    mixing.rectangle(jnp.float32(ratio), jnp.array([row, column], jnp.int32), H, W)
  )
  sides = [n * math.sqrt(1 - ratio) for n in (H, W)]
  if any(abs(s - round(s)) < 1e-5 and s > 0 for s in sides):
    return  # a side that is whole in exact numbers is floored as it happens to be rounded
  top, bottom, left, right = numpy_box(ratio, row, column)[0]
  expected = np.zeros((H, W), bool)
  expected[top:bottom, left:right] = True
  np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize("kind", mixing.KINDS)
def test_switched_off_it_leaves_every_bit(kind):
  options = Mixing(mixup=0.8, cutmix=0.0 if kind == "big_vision" else 1.0, until=3, kind=kind)
  mix, data = jax.jit(mixing.make(options, K)), batch()
  on = jax.jit(mixing.make(dataclasses.replace(options, until=None), K))
  for step in range(6):
    key = jax.random.key(step)
    got = mix(data, key, jnp.int32(step))
    if step < 3:
      np.testing.assert_array_equal(got["image"], on(data, key, step)["image"])
      assert not np.array_equal(got["image"], data["image"])
    else:
      np.testing.assert_array_equal(got["image"], data["image"])
      np.testing.assert_array_equal(got["label"], np.eye(K)[data["label"]])
  assert mix._cache_size() == 1


def test_smoothing_is_the_losss_and_gives_timms_targets():
  """Off values e / K, on values 1 - e + e / K, mixed."""
  data, e, ratio = batch(), 0.1, 0.3
  logits = np.random.default_rng(1).normal(size=(B, K)).astype(np.float32)
  w = jnp.full((H, W, 1), ratio)
  mixed = mixing.apply(data, w, jnp.float32(ratio), K, "timm")["label"]
  smooth = np.full((B, K), e / K)
  smooth[np.arange(B), data["label"]] = 1 - e + e / K
  targets = ratio * smooth + (1 - ratio) * smooth[::-1]
  log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    losses.make("softmax_xent", K, e)(logits, mixed), -(targets * log_p).sum(-1), rtol=1e-5
  )


def test_dtypes_and_labels_of_several_classes():
  data = batch()
  soft = np.random.default_rng(0).dirichlet(np.ones(K), B).astype(np.float32)
  w, ratio = jnp.full((H, W, 1), 0.25), jnp.float32(0.25)
  for dtype, expected in ((jnp.bfloat16, jnp.bfloat16), (jnp.uint8, jnp.float32)):
    images = jnp.asarray(np.abs(data["image"]) * 60).astype(dtype)
    got = mixing.apply({"image": images, "label": soft, "extra": 1}, w, ratio, K, "timm")
    assert got["image"].dtype == expected
    exact = 0.25 * images.astype(jnp.float32) + 0.75 * images[::-1].astype(jnp.float32)
    np.testing.assert_array_equal(got["image"], exact.astype(expected))
    np.testing.assert_allclose(got["label"], 0.25 * soft + 0.75 * soft[::-1], rtol=1e-6)
    assert got["extra"] == 1
  wrong = {**data, "label": np.int32([0, 1, K, 3, 4, 0])}
  nan = np.isnan(mixing.apply(wrong, w, ratio, K, "timm")["label"]).all(-1)
  assert list(nan) == [False, False, True, True, False, False]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "tim"}, "unknown config.mixing.kind 'tim': did you mean 'timm'"),
    ({"mixup": -1.0}, "config.mixing.mixup=-1.0 must be at least 0"),
    ({"cutmix": math.nan}, "config.mixing.cutmix=nan must be at least 0"),
    ({"switch": 1.5}, "config.mixing.switch=1.5 must lie in 0..1"),
    ({"prob": -0.1}, "config.mixing.prob=-0.1 must lie in 0..1"),
    ({"until": -1}, "config.mixing.until=-1 must be at least 0 steps"),
    ({"cutmix": 1.0, "kind": "big_vision"}, "not among big_vision's conventions"),
  ],
)
def test_mistakes_are_named(changes, message):
  with pytest.raises(UserError, match=message):
    Mixing(**changes)


def test_is_off_unless_asked_for():
  assert not Mixing()
  assert not Mixing(mixup=0.8, prob=0.0)
  assert Mixing(mixup=0.8)
  assert Mixing(cutmix=1.0)


DEVICES = """
  from vit_jax.data import mixing
  mesh = parallel.make_mesh()
  rng = np.random.default_rng(0)
  data = {
    "image": rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
    "label": rng.integers(0, 5, 16).astype(np.int32),
  }
  sharding = parallel.batch_sharding(mesh)
  data = jax.device_put(data, sharding)
  found = {}
  for kind, cutmix in (("timm", 1.0), ("big_vision", 0.0)):
    f = jax.jit(mixing.make(mixing.Mixing(mixup=0.8, cutmix=cutmix, kind=kind), 5))
    for step in range(8):
      out = f(data, jax.random.key(step), step)
      assert out["image"].sharding.is_equivalent_to(sharding, 4), out["image"].sharding
      for name in ("image", "label"):
        found[f"{kind} {step} {name}"] = np.asarray(out[name])
  np.savez("{out}", **found)
  print(mesh.size)
"""


def test_one_and_eight_devices_agree(tmp_path):
  """To the rounding of one product: compiled for another shape, it may be fused with the sum."""
  found = {}
  for devices in (1, 8):
    path = tmp_path / f"{devices}.npz"
    out = run_on_devices(devices, textwrap.dedent(DEVICES).replace("{out}", str(path)))
    assert int(out) == devices
    found[devices] = np.load(path)
  assert len(found[1].files) == 32
  for name in found[1].files:
    np.testing.assert_allclose(found[1][name], found[8][name], rtol=0, atol=5e-7, err_msg=name)
