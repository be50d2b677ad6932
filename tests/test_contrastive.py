import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from training import SYNTHETIC, tiny

from vit_jax import contrastive, evaluate, initial, job, measurements, models, train, trained
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError
from vit_jax.evaluators.features import extract
from vit_jax.evaluators.fewshot import choose_shots
from vit_jax.evaluators.ridge import Ridge
from vit_jax.models.output import Output
from vit_jax.optim import BACKBONE

B, D = 10, 6


def vectors(seed, n=B):
  x = np.random.default_rng(seed).normal(size=(n, D))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def numpy_losses(z, labels, temperature):
  """The double loop of equation 2."""
  z, out = np.float64(z), []
  for i in range(len(z)):
    others = [a for a in range(len(z)) if a != i]
    positives = [p for p in others if labels[p] == labels[i]]
    below = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
    terms = [np.log(np.exp(z[i] @ z[p] / temperature) / below) for p in positives]
    out.append(-np.mean(terms) if terms else None)
  return out


@settings(max_examples=40, deadline=None)
@given(
  seed=st.integers(0, 10**6),
  temperature=st.floats(0.05, 2),
  labels=st.lists(st.integers(0, 3), min_size=B, max_size=B),
)
def test_losses_match_the_double_loop(seed, temperature, labels):
  z, labels = vectors(seed), np.array(labels)
  found, counts = contrastive.supcon(z, labels, temperature)
  expected = numpy_losses(z, labels, temperature)
  assert counts.tolist() == [x is not None for x in expected]
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, [x or 0 for x in expected], rtol=1e-4, atol=1e-4)
  config = tiny().contrastive.copy_and_resolve_references().unlock()
  config.temperature = temperature
  mean = contrastive.objective(config)(Output(None, z), {"label": labels})
  known = [x for x in expected if x is not None]
  np.testing.assert_allclose(mean, np.mean(known) if known else 0, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_differences():
  """Also where one view has no positive; and the gradient that pulls positives together."""
  z, labels = vectors(0), np.array([0, 1, 0, 1, 2, 2, 2, 0, 1, 3])

  def ours(z):
    found, counts = contrastive.supcon(z, labels, 0.2)
    return found.sum() / counts.sum()

  def theirs(z):
    return np.mean([x for x in numpy_losses(z, labels, 0.2) if x is not None])

  slopes = np.zeros_like(z, np.float64)
  for at in np.ndindex(z.shape):
    h = np.zeros(z.shape)
    h[at] = 1e-5
    slopes[at] = (theirs(z + h) - theirs(z - h)) / 2e-5
  np.testing.assert_allclose(jax.grad(ours)(jnp.asarray(z)), slopes, atol=2e-5)


def test_padded_rows_are_compared_with_nothing():
  z, labels = vectors(0), np.arange(B) % 3
  mask = np.arange(B) < 7
  found, counts = contrastive.supcon(z, labels, 0.1, mask)
  np.testing.assert_allclose(found[:7], numpy_losses(z[:7], labels[:7], 0.1), atol=1e-5)
  assert not counts[7:].any()
  assert not found[7:].any()


def test_several_classes_an_image_are_refused():
  with pytest.raises(UserError, match="one class an image"):
    contrastive.supcon(vectors(0), np.ones((B, 3)), 0.1)


@pytest.mark.parametrize(
  ("name", "fields"),
  [("ViT-mu/8", dict(scan=True)), ("ResNet-50", dict(width=4, depths=(1, 1), stem="cifar"))],
)
def test_the_model_keeps_its_parameters_and_paths(name, fields):
  model = models.create(name, num_classes=10, image_size=16, **fields)
  learner = contrastive.Projected(model, 8, 12)
  images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
  alone, both = (m.init(jax.random.key(0), images, train=False) for m in (model, learner))
  a, b = (flatten_dict(x, sep="/") for x in (alone, both))
  assert {path for path in b if path not in a} == {
    f"params/projection/{layer}/{kind}"
    for layer in ("hidden", "out")
    for kind in ("kernel", "bias")
  }
  for path, x in a.items():
    np.testing.assert_array_equal(b[path], x)
  features = model.apply(both, images, train=False).features
  projection = both["params"]["projection"]
  x = np.maximum(features @ projection["hidden"]["kernel"] + projection["hidden"]["bias"], 0)
  x = x @ projection["out"]["kernel"] + projection["out"]["bias"]
  out = learner.apply(both, images, train=False)
  np.testing.assert_allclose(
    out.features, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
  )
  assert contrastive.projection_flops(both["params"]) == 2 * (features.shape[1] * 12 + 12 * 8)
  found = contrastive.of_variables(model, both)
  assert (found.width, found.hidden) == (8, 12)
  assert contrastive.of_variables(model, alone) is None


VIEWS = dict(name=SYNTHETIC, image_size=16, num_threads=1, repeats=2)
SUPCON = dict(
  branches=(),
  total_steps=6,
  cooldown=0.0,
  model=dict(name="ViT-mu/8"),
  data=VIEWS,
  contrastive=dict(kind="supcon", width=16, hidden=24),
  optimizer=dict(name="sgd", learning_rate=0.1),
  schedule=dict(name="constant"),
  evaluators=dict(val=dict(type="contrastive", split="test[:70]")),
)


def test_the_loss_is_that_of_both_views_and_nothing_else_learns():
  """The first step's loss, from the features of its batch."""
  built = job.build(tiny(**SUPCON), "t")
  state = built.create_state()
  batch = next(built.batches(0))
  labels = np.asarray(batch["label"])
  np.testing.assert_array_equal(labels[:16], labels[16:])
  assert np.abs(batch["image"][:16] - batch["image"][16:]).max() > 0.1  # other crops
  z = built.learner.apply(state.variables, batch["image"], train=False).features
  expected = np.mean(numpy_losses(z, labels, 0.1))
  before = flatten_dict(jax.device_get(state.params), sep="/")
  state, metrics = built.train_step(state, batch)
  assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)
  for path, x in flatten_dict(jax.device_get(state.params), sep="/").items():
    assert np.array_equal(x, before[path]) == path.startswith("head/"), path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("supcon")
  train.run(tiny(**SUPCON, sam=dict(kind="sam", rho=0.02)), workdir, "t")
  return workdir


def test_the_run_measures_its_loss(pretrained):
  (last,) = measurements.read(pretrained)
  assert last["metrics"]["val_examples"] == 70
  assert 0 < last["metrics"]["val_loss"] < np.log(32) + 10
  assert last["train_flops"] == 6 * last["flops_per_image"] * 6 * 32
  plain = job.build(tiny(branches=(), total_steps=1, model=SUPCON["model"]), "t")
  assert last["flops_per_image"] == plain.flops_per_image + 2 * (32 * 24 + 24 * 16)


def test_a_head_is_trained_on_what_was_learned(pretrained, tmp_path):
  lines = []
  config = tiny(
    branches=(),
    total_steps=3,
    cooldown=0.0,
    model=dict(name="ViT-mu/8"),
    init_from=str(pretrained),
    init_head="fresh",
    freeze=(BACKBONE,),
    evaluators=dict(test=dict(type="classification", split="test[:50]")),
  )
  initial.read(config, job.build(config, "t").model, jax.random.key(0), lines.append)
  assert any("not used" in line and "projection/hidden/kernel" in line for line in lines)
  train.run(config, tmp_path, "t")
  found = []
  for directory, step in ((pretrained, 6), (tmp_path, 3)):
    checkpoints = Checkpoints(directory, read_only=True)
    found.append(flatten_dict(checkpoints.weights(step)["params"], sep="/"))
    checkpoints.close()
  first, second = found
  assert {p for p in first if p not in second} == {p for p in first if p.startswith("projection/")}
  for path, x in second.items():
    assert np.array_equal(x, first[path]) == (not path.startswith("head/")), path
  (last,) = measurements.read(tmp_path)
  assert last["metrics"]["test_examples"] == 50


def test_what_was_learned_is_measured_afterwards(pretrained, tmp_path):
  """On the features themselves, not their projection."""
  workdir = str(shutil.copytree(pretrained, tmp_path / "run"))
  splits = ("train_split=train[:64]", "test_split=test[:30]")
  flags = [f"--{name}.{split}" for name in ("fewshot", "knn") for split in splits]
  options = ("--fewshot.shots=(1, 5)", "--knn.k=3")
  evaluate.main(["--workdir", workdir, "--evaluators", "fewshot,knn", *flags, *options])
  _, few, near = measurements.read(Path(workdir))
  assert few["metrics"]["fewshot_examples"] == near["metrics"]["knn_examples"] == 30
  model = trained.of_run(pretrained)
  train, test = (
    extract(model.job.context, model.variables, model.load(split), model.job.config.data.eval)
    for split in ("train[:64]", "test[:30]")
  )
  assert train.x.shape == (64, 32)
  shots = np.concatenate([i[:5] for i in choose_shots(train.labels, 10, 1)])
  ridge = Ridge(train.x[shots], train.labels[shots], 10)
  wrong = ridge.predict(test.x, 2.0**10) != test.labels
  assert few["metrics"]["fewshot_5shot_seed1_error"] == pytest.approx(wrong.mean())


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (
      "test=classification",
      "evaluators.test: type 'classification' asks the head, which .* leaves",
    ),
    ("pgd=adversarial", "evaluators.pgd: type 'adversarial' asks the head"),
    ("val", "val: the weights have no projection: .* use fewshot, linear_probe or knn"),
  ],
)
def test_what_asks_for_what_is_not_there_is_refused(pretrained, tmp_path, name, message):
  workdir = str(shutil.copytree(pretrained, tmp_path / "run"))
  with pytest.raises(UserError, match=message):
    evaluate.main(["--workdir", workdir, "--evaluators", name, "--again"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(contrastive=dict(kind="simclr")), "config.contrastive.kind"),
    (dict(contrastive=dict(kind="supcon", temperature=0.0)), "temperature=0.0 must be above 0"),
    (dict(contrastive=dict(kind="supcon", width=0)), "contrastive.width must be an integer"),
    (dict(data={**VIEWS, "repeats": 1}), "set config.data.repeats to 2"),
    (dict(accumulate=2), "config.accumulate=2 does not go with it"),
    (dict(sam=dict(kind="sam", rho=0.1, m=8)), "config.sam.m=8 does not go with it"),
    (dict(mixing=dict(mixup=0.2)), "config.mixing.mixup=0.2 does not go with it"),
    (dict(evaluators=dict(test=dict(type="classification"))), "leaves untrained"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    job.build(tiny(**{**SUPCON, **changes}), "t")
