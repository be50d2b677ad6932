"""DeiT: its variants, both heads in training and their mean in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from flax.traverse_util import flatten_dict
from modeling import apply, jit, random_images, random_params, shapes

from vit_jax import config as config_lib
from vit_jax import flops, job, losses, measurements, models, step, train
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError

# Resolution, parameters and 10^9 multiply-adds with 1000 classes, counted from timm's modules.
PUBLISHED = [
  ("DeiT-Ti/16", 224, 5_717_416, 1.2537),
  ("DeiT-S/16", 224, 22_050_664, 4.5989),
  ("DeiT-B/16", 224, 86_567_656, 17.5638),
  ("DeiT-Ti/16-distilled", 224, 5_910_800, 1.2610),
  ("DeiT-S/16-distilled", 224, 22_436_432, 4.6241),
  ("DeiT-B/16-distilled", 224, 87_338_192, 17.6568),
  ("DeiT-B/16-distilled", 384, 87_630_032, 55.5913),
]
TINY = dict(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=2)


def tiny(name="DeiT-Ti/16-distilled", **overrides):
  fields = dict(**TINY, num_classes=5, image_size=8, drop_path=0.0)
  return models.create(name, **{**fields, **overrides})


@pytest.mark.parametrize(("name", "image_size", "parameters", "gmac"), PUBLISHED)
def test_parameters_and_flops(name, image_size, parameters, gmac):
  model = models.create(name, num_classes=1000, image_size=image_size, scan=True)
  assert sum(x.size for x in jax.tree.leaves(shapes(model))) == parameters
  assert flops.model_flops(model, image_size) == pytest.approx(2e9 * gmac, rel=1e-4)
  assert (model.drop_path, model.gelu, model.dropout) == (0.1, "erf", 0.0)


def test_unknown_names_say_the_nearest():
  with pytest.raises(UserError, match="did you mean DeiT-S/16"):
    models.create("DeiT-s/16", num_classes=2, image_size=224)
  for other in ("DeiT-S/8", "DeiT-L/16", "DeiT-S/16-Distilled"):
    with pytest.raises(UserError, match="unknown model"):
      models.create(other, num_classes=2, image_size=224)


@pytest.mark.parametrize("scan", [False, True])
def test_kernels_positions_and_tokens_start_normal(scan):
  model = tiny(width=128, mlp_dim=256, num_heads=4, num_classes=100, image_size=32, scan=scan)
  images = jnp.zeros((1, 32, 32, 3))
  variables = jit(lambda key: model.init(key, images))(jax.random.key(0))
  tokens, seen = [], 0
  for path, x in flatten_dict(jax.device_get(variables["params"]), sep="/").items():
    if path == "embedding/kernel":  # as PyTorch's convolutions
      bound = (2 * 2 * 3) ** -0.5
      assert 0.98 * bound < np.abs(x).max() <= bound
      assert x.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    elif path in ("cls", "dist"):
      tokens.append(x.ravel())
    elif path.endswith("kernel") or path == "pos_embedding":
      assert x.std() == pytest.approx(0.02, rel=0.03), path
      assert abs(x.mean()) < 5 * 0.02 / x.size**0.5, path
      assert 3 < np.abs(x).max() / 0.02 < 6, path  # normal, and not cut at two deviations
      seen += 1
    elif path.endswith("bias"):
      assert not x.any(), path
  assert seen == (6 if scan else 12) + 3
  assert np.concatenate(tokens).std() == pytest.approx(0.02, rel=0.15)
  assert np.abs(np.corrcoef(tokens)[0, 1]) < 0.4


def numpy_logits(model, params, images):
  """Of the class token's head, of the other, and features."""
  params = jax.tree.map(np.float64, params)
  first, features = numpy_vit.forward(params, images.astype(np.float64), model, "erf")
  both, mean = numpy_vit.forward(
    params, images.astype(np.float64), model, "erf", heads=("head", "head_dist")
  )
  return first, 2 * both - first, features, 2 * mean - features


def test_evaluation_gives_the_mean_and_training_both_heads():
  model = tiny()
  params, images = random_params(model), random_images(model)
  first, second, cls, dist = numpy_logits(model, params, images)
  assert np.abs(first - second).max() > 0.5
  for training in (False, True):
    out = apply(model, params, images, train=training)
    expected = first if training else (first + second) / 2
    np.testing.assert_allclose(out.logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.distilled_logits, second, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.features, (cls + dist) / 2, rtol=1e-5, atol=1e-5)
    assert out.distilled_logits.dtype == jnp.float32


def test_without_distillation_there_is_one_head():
  model = tiny("DeiT-Ti/16")
  params, images = random_params(model), random_images(model)
  assert not {"dist", "head_dist"} & set(params)
  out = apply(model, params, images)
  assert out.distilled_logits is None
  logits, _ = numpy_vit.forward(jax.tree.map(np.float64, params), images, model, "erf")
  np.testing.assert_allclose(out.logits, logits, rtol=1e-5, atol=1e-5)


def test_each_head_learns_from_its_own_logits():
  model = tiny()
  params, images = random_params(model), random_images(model)
  label = np.array([0, 3, 4])
  loss = step.make_loss(model, losses.make("softmax_xent", 5))
  batch = {"image": images, "label": label}
  (value, _), grads = jit(
    jax.value_and_grad(lambda p: loss(p, {}, batch, jax.random.key(0)), has_aux=True)
  )(params)
  values = []
  first, second, cls, dist = numpy_logits(model, params, images)
  for name, logits, features in (("head", first, cls), ("head_dist", second, dist)):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    values.append(-np.log(p[np.arange(3), label]).mean())
    residual = (p - np.eye(5)[label]) / 3 / 2  # mean over the batch, and over the heads
    np.testing.assert_allclose(grads[name]["bias"], residual.sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads[name]["kernel"], features.T @ residual, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
  for head, other in (("logits", "head_dist"), ("distilled_logits", "head")):
    alone = jit(
      jax.grad(lambda p, h=head: getattr(model.apply({"params": p}, images, train=True), h).sum())
    )(params)
    assert not any(np.any(x) for x in jax.tree.leaves(alone[other]))


def test_a_distilled_model_trains(tmp_path):
  config = config_lib.resolve(
    dict(
      batch_size=64,
      total_steps=150,
      model=dict(
        name="DeiT-Ti/16-distilled", width=32, depth=2, mlp_dim=64, num_heads=2, patch_size=4
      ),
      data=dict(name="synthetic(glyphs=2, clutter=0.05, label_noise=0.0)", num_threads=1),
      optimizer=dict(learning_rate=3e-3),
      schedule=dict(name="cosine", warmup=10),
      evaluators=dict(test=dict(type="classification", split="test[:500]")),
    )
  )
  train.run(config, tmp_path, "deit")
  (measured,) = measurements.read(tmp_path)
  assert measured["metrics"]["test_error"] < 0.5  # chance: 0.9
  checkpoints = Checkpoints(tmp_path, read_only=True)
  state = checkpoints.restore(checkpoints.latest(), job.build(config, "deit").target)
  checkpoints.close()
  heads = [np.asarray(state.params[name]["kernel"]) for name in ("head", "head_dist")]
  assert all(x.std() > 0.04 for x in heads)  # from 0.02: both have learned
  assert np.abs(heads[0] - heads[1]).max() > 0.01


@pytest.mark.parametrize("overrides", [dict(pool="gap"), dict(cls_position=False)])
def test_distillation_needs_its_token(overrides):
  with pytest.raises(UserError, match='distilled=True has tokens .* pool="tok"'):
    tiny(**overrides)
