"""Both layouts hold the same numbers."""

import jax
import numpy as np
import pytest
from modeling import random_params, shapes, tiny

from vit_jax.models import stacking


def test_round_trips_are_exact():
  params = random_params(tiny(depth=11, pool="map"))  # block_10 comes after block_9
  stacked = stacking.stack(params)
  jax.tree.map(np.testing.assert_array_equal, stacking.unstack(stacked), params)
  jax.tree.map(np.testing.assert_array_equal, stacking.stack(stacking.unstack(stacked)), stacked)
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(stacked))


def test_layouts_are_those_of_the_models():
  unrolled, scanned = shapes(tiny(depth=11)), shapes(tiny(depth=11, scan=True))
  described = jax.tree.map(lambda x: (x.shape, x.dtype), scanned)
  got = jax.eval_shape(stacking.stack, unrolled)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == described
  back = jax.eval_shape(stacking.unstack, scanned)
  assert jax.tree.map(lambda x: x.shape, back) == jax.tree.map(lambda x: x.shape, unrolled)


def test_layer_order_is_numeric():
  params = {"encoder": {f"block_{i}": {"w": np.full(2, i)} for i in reversed(range(12))}}
  np.testing.assert_array_equal(stacking.stack(params)["encoder"]["blocks"]["w"][:, 0], range(12))


def test_other_trees_pass_unchanged_and_gaps_are_refused():
  assert stacking.stack({"a": {"b": 1}}) == {"a": {"b": 1}} == stacking.unstack({"a": {"b": 1}})
  with pytest.raises(ValueError, match="block_1 is missing among 2 blocks"):
    stacking.stack({"block_0": {}, "block_2": {}})
