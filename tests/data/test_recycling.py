import gc

import jax
import numpy as np

from vit_jax.data.recycling import Recycler


def _address(array):
  return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_nobody_holds_it():
  recycler = Recycler()
  first = recycler.empty((3, 1000), np.float32)
  first[:] = 1
  address = _address(first)
  assert (first.shape, first.dtype, first.flags.writeable) == ((3, 1000), np.float32, True)
  other = recycler.empty((3, 1000), np.float32)
  assert _address(other) != address
  del first
  assert _address(recycler.empty((3, 1000), np.float32)) == address
  assert recycler.empty((3, 1000), np.int32).dtype == np.int32
  assert recycler.empty((1000,), np.float32).shape == (1000,)


def test_memory_that_is_seen_elsewhere_is_left_alone():
  recycler = Recycler()
  holders = (
    lambda x: x[1:2, ::3],
    lambda x: x.reshape(-1)[5:],
    lambda x: x.view(np.uint8),
    memoryview,
    lambda x: jax.device_put(x, may_alias=True),
    np.from_dlpack,
  )
  for k, hold in enumerate(holders):
    array = recycler.empty((64, 1024), np.float32)
    array[:] = k
    held = hold(array)
    expected = np.array(held)
    del array
    gc.collect()
    for _ in range(3):
      recycler.empty((64, 1024), np.float32)[:] = -1
    np.testing.assert_array_equal(np.array(held), expected)


def test_arrays_outlive_the_recycler():
  array = Recycler().empty((100,), np.int32)
  array[:] = 7
  gc.collect()
  assert (array == 7).all()
