import jax
import jax.numpy as jnp
import numpy as np
import numpy_optimizers as reference
import optax
import pytest
from flax import linen as nn

from vit_jax import optim, parallel, step
from vit_jax.errors import UserError
from vit_jax.models.output import Output
from vit_jax.optim import BACKBONE, frozen

NAMES = {"head": {"kernel": 1.0}, "head_dist": {"kernel": 1.0}, "header": {"kernel": 1.0}, "cls": 1}


def test_patterns_match_whole_paths():
  assert frozen.mask(("head/.*", "cls"), NAMES) == {
    "head": {"kernel": True},
    "head_dist": {"kernel": False},
    "header": {"kernel": False},
    "cls": True,
  }
  assert not any(jax.tree.leaves(frozen.mask((), NAMES)))


def test_the_backbone_is_everything_but_both_heads():
  flags = frozen.mask((BACKBONE,), NAMES)
  assert (flags["head"], flags["head_dist"]) == ({"kernel": False}, {"kernel": False})
  assert flags["header"] == {"kernel": True}
  assert flags["cls"]


def test_a_models_own_tables_are_frozen_too():
  assert frozen.mask((), NAMES, ("cls", "nothing"))["cls"]


@pytest.mark.parametrize(
  ("patterns", "message"),
  [
    (("heat/.*",), "config.freeze pattern 'heat/.*' matches no parameter; the nearest is 'head/"),
    (("head",), "'head' matches no parameter"),
    ((".*",), "freezes every parameter"),
    (("(head|cls).*", "he.*", "cls"), "freezes every parameter"),
    (("head(",), "no regular expression"),
    ("head/.*", "must be a list of regular expressions"),
    ((1,), "must be a list of regular expressions"),
  ],
)
def test_mistakes_are_named(patterns, message):
  with pytest.raises(UserError, match=message) as error:
    frozen.mask(patterns, NAMES)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", optim.names())
def test_training_is_as_if_frozen_parameters_were_not_there(name):
  """Updates, state and clipping, against the optimiser of the trained parameters alone."""
  params, grads = reference.random_tree(0), reference.gradients(3)
  flags = frozen.mask((BACKBONE,), params)
  groups = (("head/kernel", 0.5), (".*", 0.2))  # decay would move what is frozen
  config = {"name": name, "weight_decay": groups, "clip_norm": 0.1}
  tx = optim.make(config, params, frozen=flags)
  alone = {"head": params["head"]}
  other = optim.make(config, alone)
  state, state_alone = tx.init(params), other.init(alone)
  sizes = [[x.shape for x in jax.tree.leaves(s)] for s in (state, state_alone)]
  assert sizes[0] == sizes[1]
  start = params
  for g in grads:
    # A gradient of a frozen parameter has no say: nan would spread.
    g = jax.tree.map(lambda f, x: x * np.nan if f else x, flags, g)
    updates, state = tx.update(g, state, params, learning_rate=0.1)
    moved, state_alone = other.update({"head": g["head"]}, state_alone, alone, learning_rate=0.1)
    params, alone = optax.apply_updates(params, updates), optax.apply_updates(alone, moved)
  jax.tree.map(np.testing.assert_array_equal, params["head"], alone["head"])
  assert np.any(params["head"]["kernel"] != start["head"]["kernel"])
  for path, value in reference.flat(start).items():
    if not path.startswith("head/"):
      np.testing.assert_array_equal(reference.flat(params)[path], value)


def test_the_pattern_of_scanned_layers_may_match_frozen_ones_only():
  params = {"blocks": {"kernel": jnp.ones((3, 64, 64))}, "head": {"kernel": jnp.ones((64, 10))}}
  flags = frozen.mask((BACKBONE,), params)
  config = {"name": "adafactor", "weight_decay": ((".*", 0.0),)}
  tx = optim.make(config, params, stacked="blocks/.*", frozen=flags)
  updates, _ = tx.update(params, tx.init(params), params, learning_rate=1.0)
  assert not np.any(updates["blocks"]["kernel"])
  with pytest.raises(UserError, match="stacked parameters"):
    optim.make(config, params, stacked="layers/.*", frozen=flags).init(params)


class Normed(nn.Module):
  """Two BatchNorms with the flag as an argument and as an attribute, scanned and not."""

  @nn.compact
  def __call__(self, images, *, train=False):
    x = images.reshape(images.shape[0], -1)
    x = nn.BatchNorm(name="stem_norm")(nn.Dense(4, name="stem")(x), use_running_average=not train)
    x = nn.remat(Block)(train, name="stage_0")(x)
    return Output(nn.Dense(3, name="head")(x), x)


class Block(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x):
    layer = nn.scan(
      Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2
    )
    return layer(self.train, name="blocks")(x, None)[0]


class Layer(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x, _):
    return nn.BatchNorm(use_running_average=not self.train, name="norm")(x) + x, None


def _loss_of(patterns):
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.normal(2, 3, (8, 2, 2, 1)), jnp.float32),
    "label": jnp.arange(8) % 3,
  }
  variables = Normed().init(jax.random.key(0), batch["image"])
  params, stats = variables["params"], variables["batch_stats"]
  flags = frozen.mask(patterns, params)
  loss = step.make_loss(Normed(), optax.softmax_cross_entropy_with_integer_labels, flags)
  fn = jax.jit(step.make_gradient(loss, parallel.make_mesh(), 1, flags))
  value, new, grads = fn(params, stats, batch, jax.random.key(0))
  evaluated = optax.softmax_cross_entropy_with_integer_labels(
    Normed().apply(variables, batch["image"]).logits, batch["label"]
  ).mean()
  moved = {
    name: not jax.tree.all(jax.tree.map(np.array_equal, new[name], stats[name])) for name in stats
  }
  return float(value), float(evaluated), moved, grads


def test_statistics_of_frozen_norms_do_not_move_and_normalise_as_in_evaluation():
  value, evaluated, moved, grads = _loss_of((BACKBONE,))
  assert moved == {"stem_norm": False, "stage_0": False}
  assert value == pytest.approx(evaluated, rel=1e-6)
  assert [x.shape for x in jax.tree.leaves(grads)] == [(3,), (4, 3)]


@pytest.mark.parametrize(
  ("patterns", "moved"),
  [
    ((), {"stem_norm": True, "stage_0": True}),
    (("stem.*",), {"stem_norm": False, "stage_0": True}),
    (("stage_0/.*",), {"stem_norm": True, "stage_0": False}),
    (("stem_norm/bias",), {"stem_norm": True, "stage_0": True}),  # only half of it
  ],
)
def test_norms_that_are_trained_follow_the_batches(patterns, moved):
  value, evaluated, found, _ = _loss_of(patterns)
  assert found == moved
  assert abs(value - evaluated) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nothing_is_computed_for_frozen_parameters(accumulate):
  """FLOPs of a head-only step, of many layers: those of the forward pass, a third of the whole."""

  def loss(params, stats, batch, key):
    x = batch["image"]
    for w in params["body"].values():
      x = jnp.tanh(x @ w)
    return jnp.mean((x @ params["head"]["kernel"]) ** 2), stats

  params = {
    "body": {f"w{i}": jnp.ones((64, 64)) for i in range(8)},
    "head": {"kernel": jnp.ones(64)},
  }
  batch = {"image": jnp.ones((32, 64)), "label": jnp.zeros(32)}

  def flops(patterns):
    flags = frozen.mask(patterns, params)
    fn = jax.jit(step.make_gradient(loss, parallel.make_mesh(), accumulate, flags))
    return fn.lower(params, {}, batch, jax.random.key(0)).compile().cost_analysis()["flops"]

  assert flops((BACKBONE,)) < 0.4 * flops(())
