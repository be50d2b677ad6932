"""What fine-tuning expects of every class of models: heads by name, layers in order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from modeling import jit
from shrunken import SHRUNKEN, create

from vit_jax import parallel, step
from vit_jax.models import fields
from vit_jax.optim import BACKBONE, frozen, groups, layerwise

every_model = pytest.mark.parametrize("name", list(SHRUNKEN))


def variables_of(model, seed=0):
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    x = 0.2 * rng.normal(size=leaf.shape)
    return np.float32(np.abs(x + 1) if path[-1].key in ("scale", "var") else x)

  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree_util.tree_map_with_path(draw, shapes)


@every_model
@pytest.mark.parametrize("scan", [False, True])
def test_every_parameter_has_a_layer(name, scan):
  if scan and "scan" not in fields.annotations(type(create(name))):
    pytest.skip("nothing to scan over")
  model = create(name, **({"scan": True} if scan else {}))
  params = variables_of(model)["params"]
  layer, last = layerwise.layers(params)
  found = dict(zip(groups.path_names(params), jax.tree.leaves(layer), strict=True))
  assert set(np.concatenate([np.ravel(x) for x in found.values()])) == set(range(last + 1))
  for path, value in found.items():
    assert (value == last) if path.startswith("head") else np.all(value <= last)


@every_model
def test_a_probe_trains_the_heads_and_sees_what_evaluation_sees(name):
  """Without dropout, the loss of a frozen model in training is that in evaluation."""
  known = fields.annotations(type(create(name)))
  rates = [key for key in known if key.endswith("dropout") or key == "drop_path"]
  model = create(name, **dict.fromkeys(rates, 0.0))
  variables = variables_of(model)
  params, stats = variables["params"], variables.get("batch_stats", {})
  rng = np.random.default_rng(1)
  batch = {
    "image": np.float32(rng.normal(size=(4, model.image_size, model.image_size, 3))),
    "label": np.array([0, 3, 1, 4]),
  }
  flags = frozen.mask((BACKBONE,), params, getattr(model, "frozen", ()))
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  loss = step.make_loss(model, cross_entropy, flags)
  gradient = jit(step.make_gradient(loss, parallel.make_mesh(), 1, flags))
  value, new_stats, grads = gradient(params, stats, batch, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, new_stats, stats)
  tops = {path.split("/")[0] for path in groups.path_names(grads)}
  assert tops == ({"head", "head_dist"} if "head_dist" in params else {"head"})
  if tops == {"head"}:
    logits = jit(lambda v, x: model.apply(v, x).logits)(variables, batch["image"])
    np.testing.assert_allclose(value, cross_entropy(logits, batch["label"]).mean(), rtol=1e-4)
