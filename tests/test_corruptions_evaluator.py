import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from training import run_on_devices

from vit_jax import corruptions, evaluators, parallel
from vit_jax.corruptions import Corruption, cache
from vit_jax.data.sources import ArraySource, Info
from vit_jax.errors import UserError

N, CLASSES, SIZE = 37, 10, 16


def images(n=N, size=SIZE):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
  return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def logits(x):
  """Of images in 0..255: the mean colours of ten bands of columns and rows."""
  bands = [x[:, :, k : k + 4].mean((1, 2, 3)) for k in range(0, 12, 2)]
  bands += [x[:, k : k + 4].mean((1, 2, 3)) for k in range(0, 8, 2)]
  return np.stack(bands, -1) if isinstance(x, np.ndarray) else jnp.stack(bands, -1)


def context(array=None, labels=None, batch_size=8, text="value_range(0, 255)", image_size=SIZE):
  array = images() if array is None else array
  labels = logits(array.astype(np.float32)).argmax(-1) if labels is None else labels
  info = Info(
    name="t", split="test", num_classes=CLASSES, size=len(array), class_names=("",) * CLASSES
  )
  source = ArraySource(info, array, labels.astype(np.int32))
  return evaluators.Context(
    model=SimpleNamespace(
      apply=lambda variables, x, train: SimpleNamespace(logits=logits(x.astype(jnp.float32)))
    ),
    loss_fn=optax.softmax_cross_entropy_with_integer_labels,
    mesh=parallel.make_mesh(),
    load={"test": source}.__getitem__,
    data=ml_collections.ConfigDict(
      dict(eval=text, image_size=image_size, num_threads=2, cache=False)
    ),
    batch_size=batch_size,
  )


def make(made=None, **entry):
  entries = {"c": {"type": "corruptions", "cache": "none", **entry}}
  return evaluators.make(entries, made or context())["c"]


def measure(evaluator):
  return evaluator(SimpleNamespace(variables={}))


PAIR = dict(names=("shot_noise", "snow"), severities=(2, 5))


def test_errors_are_those_of_the_corrupted_images():
  found = measure(make(**PAIR, seed=3))
  array = images()
  labels = logits(array.astype(np.float32)).argmax(-1)
  for name in PAIR["names"]:
    errors = []
    for severity in PAIR["severities"]:
      one = Corruption(name=name, severity=severity, variant="cifar", seed=3)
      out = one(array, np.arange(N)).astype(np.float32)
      errors.append(np.mean(logits(out).argmax(-1) != labels))
      assert found[f"c_{name}_{severity}_error"] == pytest.approx(errors[-1])
    assert found[f"c_{name}_error"] == pytest.approx(np.mean(errors))
  assert found["c_examples"] == N
  assert 0 < found["c_snow_error"] < 1
  assert len(found) == 4 + 2 + 1


def test_one_corruption_at_one_severity_needs_no_tuples():
  found = measure(make(names="snow", severities=5))
  assert set(found) == {"c_snow_5_error", "c_snow_error", "c_examples"}


def test_all_corruptions_give_the_means(tmp_path):
  path = tmp_path / "base.json"
  path.write_text(json.dumps(dict.fromkeys(corruptions.NAMES, 0.5)))
  found = measure(make(baseline=str(path)))
  means = [found[f"c_{name}_error"] for name in corruptions.NAMES]
  assert found["c_mean19_error"] == pytest.approx(np.mean(means))
  assert found["c_mean15_error"] == pytest.approx(np.mean(means[:15]))
  assert found["c_mce"] == pytest.approx(np.mean(means[:15]) / 0.5)
  assert len(found) == 95 + 19 + 4


def test_kept_images_give_the_same_and_are_used(tmp_path, monkeypatch, capsys):
  expected = measure(make(**PAIR))
  kept = make(**PAIR, cache=str(tmp_path))
  assert "will keep 4 sets of 37 corrupted images, 111 KiB" in capsys.readouterr().out
  assert measure(kept) == expected
  files = sorted(p.name for p in tmp_path.rglob("*.npy"))
  assert files == ["shot_noise-2.npy", "shot_noise-5.npy", "snow-2.npy", "snow-5.npy"]
  again = make(**PAIR, cache=str(tmp_path))
  assert "will keep" not in capsys.readouterr().out

  def refuse(*_):
    raise AssertionError("made anew")

  monkeypatch.setattr(cache, "write", refuse)
  assert measure(again) == expected
  with pytest.raises(AssertionError, match="made anew"):
    measure(make(**PAIR, cache=str(tmp_path), seed=1))


def test_a_disk_that_fills_up_costs_no_result(tmp_path, monkeypatch, capsys):
  expected = measure(make(**PAIR))
  kept = make(**PAIR, cache=str(tmp_path))

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(cache, "write", full)
  assert measure(kept) == expected
  assert "cannot be written (No space left on device)" in capsys.readouterr().out


def test_too_small_a_disk_is_refused_before_training(tmp_path, monkeypatch):
  usage = SimpleNamespace(free=1000)
  monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
  with pytest.raises(UserError, match=r"would keep 111 KiB .* 1 KiB are free"):
    make(**PAIR, cache=str(tmp_path))


def test_a_part_of_the_examples_is_spread_over_the_split():
  found = measure(make(names=("contrast",), severities=(5,), examples=10))
  array = images()
  at = np.arange(10) * N // 10
  labels = logits(array.astype(np.float32)).argmax(-1)[at]
  out = Corruption(name="contrast", severity=5, variant="cifar")(array[at], at)
  assert found["c_examples"] == 10
  error = np.mean(logits(out.astype(np.float32)).argmax(-1) != labels)
  assert found["c_contrast_5_error"] == pytest.approx(error)


def test_two_processes_share_the_examples(monkeypatch, tmp_path):
  made = context()
  rows, parts = [], []
  for index in range(2):
    with monkeypatch.context() as patched:
      patched.setattr(jax, "process_count", lambda: 2)
      patched.setattr(jax, "process_index", lambda index=index: index)
      one = make(made, names=("snow",), severities=(5,), cache=str(tmp_path))
      rows.append(one._rows)
      kept = one._store.get("snow", 5)
      local = list(evaluators.batches.read(one._reading, kept, one._after))
      parts.append(local)
  assert set(rows[0]) | set(rows[1]) == set(range(N))
  whole = make(made, names=("snow",), severities=(5,))
  expected = list(
    evaluators.batches.read(whole._reading, whole._store.get("snow", 5), whole._after)
  )
  for batch, first, second in zip(expected, *parts, strict=True):
    for key in batch:
      np.testing.assert_array_equal(batch[key], np.concatenate([first[key], second[key]]))
  assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_images_of_cifar_are_enlarged_after_the_corruption():
  made = make(context(text="resize(32)|value_range(0, 255)", image_size=32), **PAIR)
  assert made.protocol["variant"] == "cifar"
  assert made.protocol["corruptions"] == ["shot_noise", "snow"]
  assert made.protocol["examples"] == N
  assert made.protocol["before"] == ""
  assert made.protocol["transforms"] == "resize(32)|value_range(0, 255)"
  assert made.protocol["jpeg_quality"] is None


@pytest.mark.parametrize(("size", "resized"), [(224, ""), (64, "resize(64, 'bicubic', True)|")])
def test_images_of_imagenet_are_corrupted_at_224_pixels(size, resized):
  text = f"resize_small({size + 8})|central_crop({size})|normalize('imagenet')"
  made = make(context(images(3, 300), text=text, image_size=size), **PAIR)
  assert made.protocol["variant"] == "imagenet"
  assert made.protocol["before"] == "resize_small(256, 'bilinear', True)|central_crop(224)"
  assert made.protocol["transforms"] == f"{resized}normalize('imagenet')"
  assert made.protocol["jpeg_quality"] == 85
  assert (
    make(context(images(3, 300), text=text, image_size=size), **PAIR, as_files=False).protocol[
      "jpeg_quality"
    ]
    is None
  )
  own = make(
    context(images(3, 300), text=text, image_size=size), **PAIR, geometry=f"resize({size})"
  )
  assert own.protocol["transforms"] == "normalize('imagenet')"
  json.dumps(made.protocol)


@pytest.mark.parametrize(
  ("entry", "words"),
  [
    (dict(names=("fogg",)), "did you mean 'fog'"),
    (dict(names=("fog", "fog")), "several different"),
    (dict(severities=(0, 1)), "must be 1, 2, 3, 4 or 5"),
    (dict(severities=()), "several different"),
    (dict(variant="tiny"), "unknown variant"),
    (dict(seed=-1), "c.seed"),
    (dict(examples=0), "c.examples"),
    (dict(severities=(2.0,)), "must be 1, 2, 3, 4 or 5"),
    (dict(baseline="alexnet"), "is of ImageNet-C"),
    (dict(baseline="alexnet", severities=(1,)), "all 5 severities"),
    (dict(baseline="alexnet", names=("fog",)), "at least the 15"),
    (dict(baseline="nothing.json"), "cannot be read"),
    (dict(frost="nowhere"), "frost picture nowhere/frost1.png"),
    (dict(geometry="resize(24)", variant="imagenet"), "too small"),
  ],
)
def test_a_wrong_option_is_refused_before_training(entry, words):
  with pytest.raises(UserError, match=words):
    make(**entry)


_EIGHT = """
import test_corruptions_evaluator as t
assert jax.device_count() == 8
print(json.dumps(t.measure(t.make(**t.PAIR))))
"""


def test_eight_devices_measure_what_one_does():
  out = run_on_devices(8, _EIGHT)
  assert json.loads(out.splitlines()[-1]) == measure(make(**PAIR))
