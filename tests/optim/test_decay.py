import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.optim import decay

VIT = {
  "embedding": {"kernel": (4, 4, 3, 8), "bias": (8,)},
  "pos_embedding": (1, 16, 8),
  "encoder": {
    "attention": {"query": {"kernel": (8, 2, 4), "bias": (2, 4)}},
    "norm": {"scale": (8,), "bias": (8,)},
  },
  "head": {"kernel": (8, 10), "bias": (10,)},
}
PARAMS = jax.tree.map(
  lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
  VIT,
  is_leaf=lambda x: isinstance(x, tuple),
)


def test_default_groups_decay_the_head_most_and_only_kernels():
  assert decay.per_parameter(decay.DEFAULT_GROUPS, PARAMS) == {
    "embedding": {"kernel": 0.03, "bias": 0.0},
    "pos_embedding": 0.0,
    "encoder": {
      "attention": {"query": {"kernel": 0.03, "bias": 0.0}},
      "norm": {"scale": 0.0, "bias": 0.0},
    },
    "head": {"kernel": 3.0, "bias": 0.0},
  }


def test_the_first_match_wins_and_the_whole_path_must_match():
  values = decay.per_parameter(((".*", 1.0), ("head/kernel", 2.0)), PARAMS)
  assert set(jax.tree.leaves(values)) == {1.0}
  with pytest.raises(UserError, match="pattern 'kernel' matches no parameter"):
    decay.per_parameter((("kernel", 1.0), (".*", 0.0)), PARAMS)


def test_a_path_that_only_begins_like_the_pattern_does_not_match():
  params = {"head": {"kernel": np.zeros(2), "kernel_scale": np.zeros(2)}}
  assert decay.per_parameter((("head/kernel", 2.0), (".*", 0.0)), params) == {
    "head": {"kernel": 2.0, "kernel_scale": 0.0}
  }


def test_stacked_parameters_have_the_value_of_their_layers():
  stacked = jax.tree.map(lambda p: jax.ShapeDtypeStruct((12, *p.shape), p.dtype), PARAMS)
  groups = decay.DEFAULT_GROUPS
  assert decay.per_parameter(groups, stacked) == decay.per_parameter(groups, PARAMS)


@pytest.mark.parametrize(
  "groups",
  [
    [["head/kernel", 3], [".*", 0]],
    ml_collections.ConfigDict({"g": [["head/kernel", 3.0], [".*", 0.0]]}).g,
    ml_collections.FrozenConfigDict({"g": [["head/kernel", 3.0], [".*", 0.0]]}).g,
    ml_collections.ConfigDict({"g": (("head/kernel", 3.0), (".*", 0.0))}).g,
  ],
)
def test_lists_and_configs_do_as_well_as_tuples(groups):
  values = decay.per_parameter(groups, PARAMS)
  assert values["head"] == {"kernel": 3.0, "bias": 0.0}
  assert values["encoder"]["norm"]["scale"] == 0.0


def test_adds_the_decayed_parameter_and_leaves_the_others_alone():
  params = jax.tree.map(lambda p: jnp.full(p.shape, 2.0), PARAMS)
  updates = jax.tree.map(lambda p: jnp.full(p.shape, 0.25), PARAMS)
  values = decay.per_parameter(decay.DEFAULT_GROUPS, PARAMS)
  tx = decay.add_decay(values)
  got, _ = jax.jit(tx.update)(updates, tx.init(params), params)
  jax.tree.map(lambda u, wd: np.testing.assert_allclose(u, 0.25 + 2 * wd, rtol=1e-6), got, values)
  assert float(got["head"]["kernel"][0, 0]) == 6.25
  with pytest.raises(ValueError, match="needs the parameters"):
    tx.update(updates, tx.init(params))


@pytest.mark.parametrize(
  ("groups", "message"),
  [
    ((("head/kernel", 3.0), (".*bias", 0.0)), "no pattern for the parameter 'embedding/kernel'"),
    ((("head/kernl", 3.0), (".*", 0.0)), "'head/kernl' matches no parameter; .* 'head/kernel'"),
    ((("head/(", 3.0), (".*", 0.0)), r"'head/\(' is no regular expression"),
    (0.1, "must be a list of .pattern, value. pairs.*got 0.1"),
    (".*", "must be a list of .pattern, value. pairs"),
    ((".*", 0.1), "got the entry '.*'"),
    (((".*", 0.1, 2),), "got the entry"),
    (((0.1, ".*"),), "got the entry"),
    (((".*", "0.1"),), r"weight_decay of '\.\*' must be a number .*got '0.1'"),
    (((".*", -0.1),), r"weight_decay of '\.\*' must be a number"),
    ((), "no pattern for the parameter"),
  ],
)
def test_mistakes_are_named(groups, message):
  with pytest.raises(UserError, match=message) as error:
    decay.per_parameter(groups, PARAMS)
  assert "\n" not in str(error.value)
