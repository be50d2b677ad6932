"""A ViT whose encoder is any given module."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from modeling import apply, jit, random_images, random_params, shapes, tiny

from vit_jax import flops, losses, models, step
from vit_jax.errors import UserError
from vit_jax.optim import decay


def mix(x):
  """A dense layer over the tokens, to be called inside a module."""
  return jnp.swapaxes(nn.Dense(x.shape[1], dtype=x.dtype, name="mix")(jnp.swapaxes(x, 1, 2)), 1, 2)


class Plain(nn.Module):
  """Mixes tokens and channels; knows nothing of training."""

  @nn.compact
  def __call__(self, x):
    x = x + mix(x)
    return x + nn.Dense(x.shape[-1], dtype=x.dtype, name="dense")(nn.gelu(x))


class Noisy(nn.Module):
  """Drops half of its branch in training."""

  @nn.compact
  def __call__(self, x, *, train=False):
    y = nn.Dense(x.shape[-1], dtype=x.dtype, name="dense")(mix(x))
    return x + nn.Dropout(0.5, deterministic=not train)(y)


class ByPosition(nn.Module):
  """Takes `train` by position, as `nn.remat` needs it."""

  @nn.compact
  def __call__(self, x, train):
    y = nn.Dense(x.shape[-1], dtype=x.dtype, name="dense")(nn.gelu(mix(x)))
    return x + nn.Dropout(0.5, deterministic=not train)(y)


BODIES = {
  "plain": Plain,
  "noisy": Noisy,
  "by position": ByPosition,
  "remat": lambda: nn.remat(ByPosition, static_argnums=(2,))(),
  "sequential": lambda: nn.Sequential([nn.LayerNorm(), nn.Dense(24), nn.gelu, nn.Dense(16)]),
}
any_body = pytest.mark.parametrize("body", BODIES)


def test_forward_is_the_body_between_embedding_and_norm():
  model = tiny(body=Plain(), pool="gap")
  params, images = random_params(model), random_images(model)
  p = jax.tree.map(np.float64, params)
  x = images.astype(np.float64).reshape(3, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(3, 16, 12) @ p["embedding"]["kernel"].reshape(12, 16) + p["embedding"]["bias"]
  x = x + p["pos_embedding"]
  mixed = np.swapaxes(x, 1, 2) @ p["body"]["mix"]["kernel"] + p["body"]["mix"]["bias"]
  x = x + np.swapaxes(mixed, 1, 2)
  hidden = x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
  x = x + hidden @ p["body"]["dense"]["kernel"] + p["body"]["dense"]["bias"]
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
  features = (x * p["encoder_norm"]["scale"] + p["encoder_norm"]["bias"]).mean(1)
  out = apply(model, params, images)
  np.testing.assert_allclose(out.features, features, rtol=1e-5, atol=1e-5)
  logits = features @ p["head"]["kernel"] + p["head"]["bias"]
  np.testing.assert_allclose(out.logits, logits, rtol=1e-5, atol=1e-5)


@any_body
@pytest.mark.parametrize("pool", ["tok", "gap", "map"])
def test_parameters_are_those_of_a_vit_but_for_the_encoder(body, pool):
  with_body, plain = (shapes(tiny(pool=pool, body=b)) for b in (BODIES[body](), None))
  assert with_body.keys() - plain.keys() == {"body"}
  assert plain.keys() - with_body.keys() == {"encoder"}
  values = decay.per_parameter(decay.DEFAULT_GROUPS, with_body)["body"]
  for path, value in flatten_dict(values, sep="/").items():
    assert value == (0.03 if path.endswith("kernel") else 0), path


@any_body
def test_computes_in_either_dtype(body):
  model, rough = (tiny(body=BODIES[body](), dtype=dtype) for dtype in ("float32", "bfloat16"))
  params, images = random_params(model), random_images(model)
  a, b = apply(model, params, images).logits, apply(rough, params, images).logits
  assert b.dtype == jnp.float32
  assert 1e-6 < np.abs(a - b).max() / np.abs(a).max() < 0.1
  assert {x.dtype for x in jax.tree.leaves(shapes(rough))} == {jnp.dtype("float32")}


@any_body
def test_its_dropout_acts_in_training_only(body):
  model = tiny(body=BODIES[body]())
  params, images = random_params(model), random_images(model)
  a, b = (
    apply(model, params, images, train=True, rngs={"dropout": key}).features
    for key in jax.random.split(jax.random.key(0))
  )
  assert (np.abs(a - b).max() > 0.01) == (body not in ("plain", "sequential"))
  quiet = apply(model, params, images).features
  np.testing.assert_array_equal(quiet, apply(model, params, images).features)


def test_remat_changes_nothing():
  plain, again = (tiny(body=BODIES[name]()) for name in ("by position", "remat"))
  params, images = random_params(plain), random_images(plain)

  def grads(model):
    def loss(p):
      out = model.apply({"params": p}, images, train=True, rngs={"dropout": jax.random.key(1)})
      return (out.logits**2).sum()

    return jit(jax.grad(loss))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads(plain), grads(again)
  )


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("body", ["plain", "noisy", "remat"])
def test_trains(body, distilled):
  model = tiny(body=BODIES[body](), distilled=distilled, pool="tok" if distilled else "gap")
  images = random_images(model, 32)
  batch = {"image": images, "label": np.arange(32) % 5}
  params = jit(lambda key: model.init(key, images))(jax.random.key(0))["params"]
  loss = step.make_loss(model, losses.make("softmax_xent", 5))
  tx = optax.adam(1e-2)

  def advance(carry, key):
    params, state = carry
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, {}, batch, key)
    updates, state = tx.update(grads, state)
    return (optax.apply_updates(params, updates), state), value

  keys = jax.random.split(jax.random.key(1), 60)
  (_, _), values = jit(lambda p: jax.lax.scan(advance, (p, tx.init(p)), keys))(params)
  assert values[0] == pytest.approx(np.log(5), rel=1e-5)
  assert values[-5:].mean() < 0.5 * values[0]


def test_distilled_has_two_heads_of_two_tokens():
  model = tiny(body=Plain(), distilled=True)
  params, images = random_params(model), random_images(model)
  assert params["body"]["mix"]["kernel"].shape == (18, 18)
  training, evaluation = (apply(model, params, images, train=train) for train in (True, False))
  mean = (training.logits + training.distilled_logits) / 2
  np.testing.assert_allclose(evaluation.logits, mean, rtol=1e-5, atol=1e-6)
  assert np.abs(training.logits - training.distilled_logits).max() > 0.1


class Counting(nn.Module):
  """Has running statistics, as BatchNorm would."""

  @nn.compact
  def __call__(self, x, train):
    return nn.BatchNorm(use_running_average=not train, name="norm")(x)


def test_running_statistics_of_a_body_are_kept():
  model = tiny(body=Counting())
  images = random_images(model)
  variables = jit(model.init)(jax.random.key(0), images)
  assert variables["batch_stats"]["body"]["norm"]["mean"].shape == (16,)
  _, changed = jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))(variables)
  assert np.abs(changed["batch_stats"]["body"]["norm"]["mean"]).max() > 0


def test_named_variants_take_a_body_and_count_its_flops():
  model = models.create("DeiT-Ti/16-distilled", num_classes=10, image_size=32, body=nn.Dense(192))
  assert shapes(model)["body"]["kernel"].shape == (192, 192)
  assert flops.model_flops(model, 32) == 2 * (4 * 768 * 192 + 6 * 192 * 192 + 2 * 192 * 10)


def test_heads_of_the_encoder_need_not_divide_the_width():
  assert shapes(tiny(body=nn.Dense(18), width=18, num_heads=4))["body"]["kernel"].shape == (18, 18)
  with pytest.raises(UserError, match="width=18 is not a multiple of num_heads=4"):
    tiny(body=nn.Dense(18), width=18, num_heads=4, pool="map")


class Pair(nn.Module):
  """Returns something else than tokens."""

  def __call__(self, x):
    return x, None


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (
      nn.Dense(8),
      r"the body Dense must map tokens to the same shape, \(1, 17, 16\), but .* 17, 8\)",
    ),
    (Pair(), r"the body Pair must map tokens to the same shape, .* but returned tuple"),
  ],
)
def test_bodies_that_return_no_tokens_are_refused(body, message):
  with pytest.raises(UserError, match=message):
    shapes(tiny(body=body))


@pytest.mark.parametrize("body", [nn.Dense, "Dense", lambda x: x])
def test_a_body_is_a_module(body):
  with pytest.raises(UserError, match="model field body must be a Linen module, got"):
    tiny(body=body)
