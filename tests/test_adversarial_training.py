"""Gradients of attacked batches, in the loop's every part; contrastive ones on several devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from training import SYNTHETIC, run_on_devices, tiny

from vit_jax import adversarial_training, job, parallel, step
from vit_jax.data import pixel_range
from vit_jax.errors import UserError
from vit_jax.state import TrainState

B, H, C = 8, 2, 3
EPSILON = 8 / 255


def options(**changes):
  config = tiny(adversarial={"kind": "fgsm", "epsilon": EPSILON, **changes})
  return adversarial_training.resolve(config.adversarial)


def test_options_have_their_defaults():
  assert adversarial_training.resolve(tiny().adversarial) is None
  fast = options()
  assert (fast.steps, fast.threat.norm, fast.threat.random_start) == (1, "linf", True)
  assert fast.step_size == pytest.approx(1.25 * EPSILON)
  slow = options(kind="pgd", steps=5, norm="l2", random_start=False)
  assert slow.step_size == pytest.approx(EPSILON / 4)
  assert slow.forward_passes == 10


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(kind="fast"), "config.adversarial.kind"),
    (dict(epsilon=None), "config.adversarial.epsilon must be set"),
    (dict(kind="pgd"), "config.adversarial.steps must be set"),
    (dict(steps=3), "does not use steps=3"),
    (dict(kind="none"), "does not use epsilon"),
    (dict(norm="l1"), "config.adversarial.norm"),
    (dict(epsilon=-0.1), "config.adversarial.epsilon must be a number"),
    (dict(kind="pgd", steps=0), "config.adversarial.steps must be an integer"),
    (dict(step_size=-1.0), "config.adversarial.step_size must be a number"),
  ],
)
def test_wrong_options_are_named(changes, message):
  with pytest.raises(UserError, match=message):
    options(**changes)


def test_preprocessing_whose_range_is_not_known_is_refused_before_training():
  data = dict(name=SYNTHETIC, image_size=16, train="normalize|random_erasing", split="train[:64]")
  with pytest.raises(UserError, match=r"config\.data\.train.*normalize must come last"):
    job.build(tiny(data=data, adversarial=dict(kind="fgsm", epsilon=EPSILON)), "t")


@pytest.mark.parametrize(("attacked", "sam", "passes"), [(0, 0, 3), (1, 0, 5), (1, 1, 8)])
def test_what_a_step_costs(attacked, sam, passes):
  changes = {}
  if attacked:
    changes["adversarial"] = dict(kind="fgsm", epsilon=EPSILON)
  if sam:
    changes["sam"] = dict(kind="sam", rho=0.1)
  assert job.build(tiny(**changes), "t").forward_passes == passes


def loss(params, stats, batch, key):
  """Depends on all of a part's images by a mean, as BatchNorm does, and has running statistics."""
  del key
  x = batch["image"].reshape(len(batch["image"]), -1)
  out = jnp.tanh((x - x.mean(0)) @ params["w"])
  return ((out - batch["label"]) ** 2).mean(), {"mean": 0.9 * stats["mean"] + 0.1 * x.mean(0)}


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_is_that_of_attacked_images(parts):
  """FGSM by hand in float64, its slope by differences; statistics move with attacked images."""
  rng = np.random.default_rng(0)
  images = rng.uniform(0.2, 0.8, (B, H, H, C))  # far from the ends
  pixels = pixel_range.of_text("value_range(-1, 2)", C, "t")
  x = 3 * images - 1
  labels, w = rng.normal(size=B), rng.normal(size=H * H * C)

  def mean_loss(x, labels, w):
    flat = x.reshape(len(x), -1)
    return np.mean((np.tanh((flat - flat.mean(0)) @ w) - labels) ** 2)

  changed = x.copy()
  for j in range(parts):
    part = x[j::parts]
    for at in np.ndindex(part.shape):
      h = np.zeros(part.shape)
      h[at] = 1e-6
      slope = mean_loss(part + h, labels[j::parts], w) - mean_loss(part - h, labels[j::parts], w)
      changed[j::parts][at] += 3 * EPSILON * np.sign(slope)
  mesh = parallel.make_mesh()
  made = adversarial_training.make_gradient(
    step.of_state(step.make_gradient(loss, mesh, parts)),
    loss,
    options(random_start=False),
    pixels,
    mesh,
    parts,
  )
  zero = jnp.int32(0)
  state = TrainState(
    step=zero,
    params={"w": jnp.asarray(w, jnp.float32)},
    batch_stats={"mean": jnp.zeros(H * H * C)},
    opt_state=(),
    cooldown_start=zero,
    cooldown_end=zero,
  )
  batch = {"image": jnp.asarray(x, jnp.float32), "label": jnp.asarray(labels, jnp.float32)}
  value, after, grads = jax.jit(made)(state, batch, jax.random.key(0), jnp.float32(0))
  expected = [mean_loss(changed[j::parts], labels[j::parts], w) for j in range(parts)]
  np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
  assert np.mean(expected) > mean_loss(x, labels, w)
  stats = np.zeros(H * H * C)
  for j in range(parts):
    stats = 0.9 * stats + 0.1 * changed[j::parts].reshape(B // parts, -1).mean(0)
  np.testing.assert_allclose(after.batch_stats["mean"], stats, rtol=1e-4, atol=1e-6)
  slopes = []
  for h in 1e-6 * np.eye(len(w)):
    ends = [
      np.mean([mean_loss(changed[j::parts], labels[j::parts], v) for j in range(parts)])
      for v in (w + h, w - h)
    ]
    slopes.append((ends[0] - ends[1]) / 2e-6)
  np.testing.assert_allclose(grads["w"], slopes, rtol=1e-3, atol=1e-5)


FSDP = dict(data=2, fsdp=4)
MODEL = dict(name="ViT-mu/8", width=32, mlp_dim=64, depth=1, head_zeroinit=False)
SPLIT = "test[:50]"
CASES = {
  "fast_sam": dict(
    adversarial=dict(kind="fgsm", epsilon=EPSILON),
    sam=dict(kind="sam", rho=0.05, m=4),
    mixing=dict(mixup=0.3),
    evaluators=dict(
      pgd=dict(type="adversarial", split=SPLIT, epsilon=EPSILON, steps=(1, 3), restarts=2)
    ),
  ),
  "pgd": dict(
    adversarial=dict(kind="pgd", epsilon=0.5, steps=2, norm="l2"),
    accumulate=2,
    model=dict(name="ResNet-50", width=8, depths=(1,), stem="cifar"),
    mesh=FSDP,
    evaluators=dict(
      pgd=dict(type="adversarial", split=SPLIT, epsilon=0.5, steps=2, norm="l2", examples=20)
    ),
  ),
  "supcon": dict(
    contrastive=dict(kind="supcon", hidden=64),
    sam=dict(kind="sam", rho=0.02),
    data=dict(name=SYNTHETIC, image_size=16, num_threads=0, repeats=2),
    mesh=FSDP,
    evaluators=dict(val=dict(type="contrastive", split=SPLIT)),
  ),
}


def train_for(name, mesh):
  """Returns the state after two steps, by path, and what is measured of it."""
  base = dict(
    model=MODEL,
    optimizer=dict(name="sgd", learning_rate=0.05),
    schedule=dict(name="constant"),
  )
  changes = {k: v for k, v in CASES[name].items() if mesh or k != "mesh"}
  built = job.build(tiny(**{**base, **changes}), "t")
  state = built.create_state()
  for _, batch in zip(range(2), built.batches(0), strict=False):
    state, _ = built.train_step(state, batch)
  metrics = {k: v for e in built.evaluators.values() for k, v in e(state).items()}
  tree = jax.device_get({"params": state.params, "stats": state.batch_stats})
  return {path: np.asarray(x) for path, x in flatten_dict(tree, sep="/").items()}, metrics


SCRIPT = """
from test_adversarial_training import CASES, train_for
assert jax.device_count() == 8
for name in CASES:
  arrays, metrics = train_for(name, True)
  np.savez({out!r} + "/" + name, **arrays)
  open({out!r} + "/" + name + ".json", "w").write(json.dumps(metrics))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
  """Arrays and metrics of every case on eight devices."""
  out = tmp_path_factory.mktemp("eight")
  run_on_devices(8, SCRIPT.format(out=str(out)))
  return {
    name: (dict(np.load(out / f"{name}.npz")), json.loads((out / f"{name}.json").read_text()))
    for name in CASES
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_and_eight_devices_agree(eight, name):
  expected, metrics = train_for(name, False)
  arrays, found = eight[name]
  assert arrays.keys() == expected.keys()
  for path, x in expected.items():
    np.testing.assert_allclose(arrays[path], x, rtol=1e-3, atol=2e-5, err_msg=path)
  assert found == pytest.approx(metrics, rel=2e-3)
