import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import write_image
from tests.data.pictures import photo
from vit_jax.data import pipeline, sources
from vit_jax.data.sources import ArraySource, Source
from vit_jax.errors import UserError

_AUGMENT = "random_crop(4, pad=2)|flip|value_range(-1, 1)"


class OnDemand(Source):
  """The same examples, read one by one, so that they go through the threads in small pieces."""

  def __init__(self, source):
    self.info, self._source = source.info, source

  def __getitem__(self, index):
    return self._source[index]


def _take(source, steps, **kwargs):
  defaults = dict(transforms=_AUGMENT, batch_size=12, seed=0)
  return list(itertools.islice(pipeline.train_batches(source, **(defaults | kwargs)), steps))


def _assert_equal(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])


def _differ(a, b):
  return any(not np.array_equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))


def test_the_same_seed_gives_the_same_batches_and_another_does_not(numbered):
  source = numbered(50)
  _assert_equal(_take(source, 10), _take(source, 10))
  assert _differ(_take(source, 10), _take(source, 10, seed=1))


@pytest.mark.parametrize("start", [1, 4, 5, 37])
def test_resumes_at_any_step(numbered, start):
  whole = _take(numbered(50), start + 3)
  _assert_equal(whole[start:], _take(numbered(50), 3, start_step=start))
  assert _differ(whole[start:], _take(numbered(50), 3, start_step=start - 1))


@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batch_of_one(numbered, count, on_demand):
  source = OnDemand(numbered(50)) if on_demand else numbered(50)
  whole = _take(source, 9, cache=False)
  parts = [
    _take(source, 9, process_index=i, process_count=count, cache=False) for i in range(count)
  ]
  for step, batch in enumerate(whole):
    for key, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate([p[step][key] for p in parts]))


@pytest.mark.parametrize("count", [1, 2, 6])
def test_repeats_show_an_example_again_in_its_batch_and_augmented_anew(numbered, numbers, count):
  source = numbered(50, size=8)
  for text in ("", _AUGMENT):
    parts = [
      _take(source, 9, transforms=text, repeats=3, process_index=i, process_count=count)
      for i in range(count)
    ]
    whole = [
      {k: np.concatenate([p[step][k] for p in parts]) for k in parts[0][step]} for step in range(9)
    ]
    _assert_equal(whole[4:], _take(source, 5, transforms=text, repeats=3, start_step=4))
    _assert_equal(whole, _take(source, 9, transforms=text, repeats=3))
    if not text:
      seen = [numbers(b["image"]) for b in whole]
      assert all(s.count(x) == 3 for s in seen for x in s)
      assert len({x for s in seen for x in s}) == 9 * 4  # no example twice before its epoch ends
  different = [len(np.unique(b["image"].reshape(12, -1), axis=0)) for b in whole]
  assert min(different) > 8


@pytest.mark.parametrize("repeats", [0, 13])
def test_repeats_must_fit_the_batch(numbered, repeats):
  with pytest.raises(UserError, match=f"repeats={repeats} must lie in 1..12, the batch size"):
    _take(numbered(50), 1, repeats=repeats)


@pytest.mark.parametrize("batch_size", [12, 200])
def test_threads_and_caching_do_not_change_the_batches(numbered, batch_size):
  whole = _take(numbered(50), 6, batch_size=batch_size, num_threads=0)
  for threads, cache in itertools.product((0, 1, 3), (True, False)):
    got = _take(OnDemand(numbered(50)), 6, batch_size=batch_size, num_threads=threads, cache=cache)
    _assert_equal(whole, got)


def test_types_and_shapes(numbered):
  (batch,) = _take(numbered(20), 1, batch_size=5)
  assert (batch["image"].shape, batch["image"].dtype) == ((5, 4, 4, 3), np.float32)
  assert (batch["label"].shape, batch["label"].dtype) == ((5,), np.int32)
  (batch,) = _take(numbered(20), 1, transforms="")
  assert batch["image"].dtype == np.uint8


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_each_epoch_has_each_example_once_with_its_label(numbered, numbers, n, batch, seed):
  epochs = 3
  steps = -(-epochs * n // batch)
  taken = _take(numbered(n), steps, transforms="", batch_size=batch, seed=seed, num_threads=0)
  seen = [i for b in taken for i in numbers(b["image"])]
  labels = np.concatenate([b["label"] for b in taken])
  for e in range(epochs):
    assert sorted(seen[e * n : (e + 1) * n]) == list(range(n))
  np.testing.assert_array_equal(labels, np.array(seen) % 10)


@settings(max_examples=25, deadline=None)
@given(
  st.integers(1, 60),
  st.integers(1, 5),
  st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=4),
  st.booleans(),
)
def test_each_epoch_is_whole_whatever_processes_share_it(numbered, numbers, n, per, legs, caching):
  """A run that is resumed by other numbers of processes misses no example and repeats none."""
  batch = per * 12  # which any of 1 to 4 processes share
  source = numbered(n) if caching else OnDemand(numbered(n))
  seen, step = [], 0
  for count, steps in legs:
    parts = [
      _take(
        source,
        steps,
        transforms="",
        batch_size=batch,
        start_step=step,
        process_index=i,
        process_count=count,
        cache=caching,
      )
      for i in range(count)
    ]
    for at in range(steps):
      rows = [numbers(part[at]["image"]) for part in parts]
      assert {len(r) for r in rows} == {batch // count}
      seen += [i for r in rows for i in r]
    step += steps
  alone = _take(numbered(n), step, transforms="", batch_size=batch)
  assert seen == [i for b in alone for i in numbers(b["image"])]
  for start in range(0, len(seen) - n + 1, n):
    assert sorted(seen[start : start + n]) == list(range(n))


@pytest.mark.parametrize("n", [1, 11, 12, 13, 30])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_sees_every_example_once(numbered, numbers, n, count):
  parts = [
    list(
      pipeline.eval_batches(
        numbered(n), transforms="", batch_size=12, process_index=i, process_count=count
      )
    )
    for i in range(count)
  ]
  assert {len(p) for p in parts} == {-(-n // 12)}
  seen = []
  for step in range(len(parts[0])):
    for part in parts:
      batch = part[step]
      assert batch["image"].shape == (12 // count, 4, 4, 3)
      assert batch["mask"].dtype == bool
      real = np.array(numbers(batch["image"]))[batch["mask"]]
      np.testing.assert_array_equal(batch["label"][batch["mask"]], real % 10)
      seen += real.tolist()
  assert seen == list(range(n))


@pytest.mark.parametrize("make", [pipeline.train_batches, pipeline.eval_batches])
def test_a_batch_that_the_processes_cannot_share(numbered, make):
  seed = {"seed": 0} if make is pipeline.train_batches else {}
  with pytest.raises(UserError, match="batch_size=10 is not divisible by 4 process.*such as 8"):
    make(numbered(9), transforms="", batch_size=10, process_count=4, **seed)


def test_a_seed_out_of_range(numbered):
  with pytest.raises(UserError, match="seed=-1 must lie in"):
    _take(numbered(9), 1, seed=-1)


def test_a_wrong_transform_is_found_before_the_first_batch(numbered):
  with pytest.raises(UserError, match="did you mean 'flip'"):
    pipeline.train_batches(numbered(9), transforms="flipp", batch_size=3, seed=0)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_corrupt_jpeg_gives_one_line_from_any_thread(image_folder, cache, threads):
  bad = image_folder / "train" / "dog" / "0.jpg"
  data = bad.read_bytes()
  bad.write_bytes(data[: len(data) // 2])
  source = sources.load(str(image_folder), "train")
  with pytest.raises(UserError) as e:
    _take(source, 20, transforms="resize(8)", num_threads=threads, cache=cache)
  assert str(e.value) == f"corrupt image {bad} (the file is cut short): replace or delete it"


def test_folders_of_unequal_images_become_batches(image_folder):
  source = sources.load(str(image_folder), "train")
  transforms = "inception_crop(8)|flip|value_range(-1, 1)"
  cached = _take(source, 4, transforms=transforms)
  _assert_equal(cached, _take(source, 4, transforms=transforms, cache=False))
  assert cached[0]["image"].shape == (12, 8, 8, 3)


@pytest.mark.parametrize("scaled", [False, True])
def test_files_decoded_in_part_keep_to_their_positions(image_folder, monkeypatch, scaled):
  for k in range(6):
    path = image_folder / "train" / "cat" / f"large{k}.jpg"
    write_image(path, photo(150 + 7 * k, 90 + 20 * k, seed=k))
  monkeypatch.setattr(pipeline, "_CHUNK", 3)  # several chunks make a batch
  source = sources.load(str(image_folder), "train")
  options = dict(transforms=f"inception_crop(20, scaled={scaled})|flip", cache=False)
  whole = _take(source, 7, num_threads=0, **options)
  for threads in (1, 2):
    _assert_equal(whole[3:], _take(source, 4, start_step=3, num_threads=threads, **options))
  parts = [_take(source, 7, process_index=i, process_count=2, **options) for i in range(2)]
  for step, batch in enumerate(whole):
    for key, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate([p[step][key] for p in parts]))
  options = dict(transforms="inception_crop(20)|flip", cache=True)
  assert _differ(whole, _take(source, 7, **options)) == scaled


def test_what_is_decoded_at_a_scale_cannot_be_kept_in_memory(image_folder):
  source = sources.load(str(image_folder), "train")
  text = "inception_crop(4, scaled=True)"
  with pytest.raises(UserError, match="cannot be kept decoded: use cache=None") as e:
    _take(source, 1, transforms=text, cache=True)
  assert "\n" not in str(e.value)
  first = _take(source, 3, transforms=text, cache=None)
  _assert_equal(first, _take(source, 3, transforms=text, cache=False))


def test_chunks_of_unequal_images_give_one_line(image_folder, monkeypatch):
  monkeypatch.setattr(pipeline, "_CHUNK", 1)
  source = sources.load(str(image_folder), "train")
  with pytest.raises(UserError, match="images of different sizes, such as .* with a crop or a res"):
    _take(source, 3, transforms="flip", cache=False)


def test_small_sets_are_decoded_once(image_folder, monkeypatch):
  source = sources.load(str(image_folder), "train")
  reads, real = [], Path.read_bytes

  def count(path):
    if path.is_relative_to(image_folder):  # threads of other tests may still read ahead
      reads.append(path)
    return real(path)

  monkeypatch.setattr(Path, "read_bytes", count)
  for _ in range(2):
    _take(source, 8, transforms="resize(8)")
  assert len(source) <= len(reads) <= len(source) + 17  # and a sample, for their sizes
  _take(source, 8, transforms="resize(8)", cache=False)
  assert len(reads) > 2 * len(source)


def test_large_sets_are_not_kept(numbered, monkeypatch):
  from vit_jax.data import memory

  source = OnDemand(numbered(50))
  monkeypatch.setattr(memory, "LIMIT", 50 * 48 - 1)
  assert memory.cached(source) is source
  assert isinstance(memory.cached(source, True), ArraySource)
  other = OnDemand(numbered(50))
  monkeypatch.setattr(memory, "LIMIT", 50 * 48)
  assert isinstance(memory.cached(other), ArraySource)


def test_reads_ahead_but_not_without_end(numbered):
  class Counting(OnDemand):
    count = 0

    def __getitem__(self, index):
      Counting.count += 1
      return super().__getitem__(index)

  batches = pipeline.train_batches(
    Counting(numbered(50)), transforms="", batch_size=8, seed=0, num_threads=2, cache=False
  )
  next(batches)
  time.sleep(0.3)
  assert 16 <= Counting.count <= 8 * 8


def test_a_dropped_iterator_leaves_no_threads(numbered):
  before = threading.active_count()
  for _ in range(5):
    batches = pipeline.train_batches(
      OnDemand(numbered(50)), transforms="", batch_size=8, seed=0, cache=False
    )
    next(batches)
    del batches
  time.sleep(0.5)
  assert threading.active_count() <= before + 3
