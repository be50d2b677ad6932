import json
import shutil
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import StopAt, final_state, finish, start, tiny, write_config

from vit_jax import config as config_lib
from vit_jax import (
  distillation,
  initial,
  job,
  losses,
  measurements,
  models,
  parallel,
  pretrained,
  signals,
  step,
  train,
)
from vit_jax.errors import UserError
from vit_jax.models.output import Output

B, K = 6, 5
# A head of zeros would learn nothing of what is below it in the first step.
MODEL = {"name": "ViT-mu/8", "head_zeroinit": False}


def options(**changes):
  base = dict(kind="hard", alpha=0.3, temperature=1.0, teacher=None)
  return ml_collections.ConfigDict(base | changes)


def logits(seed, scale=2.0):
  return (scale * np.random.default_rng(seed).normal(size=(B, K))).astype(np.float32)


def log_softmax(x):
  x = np.float64(x)
  return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def numpy_loss(kind, alpha, temperature, own, taught, teacher, labels, smoothing=0.1):
  """One example at a time."""
  total = []
  for i in range(B):
    y = np.full(K, smoothing / K)
    y[labels[i]] += 1 - smoothing
    ce = -(y * log_softmax(own[i])).sum()
    if kind == "hard":
      kd = -log_softmax(taught[i])[np.argmax(teacher[i])]
    else:
      p = np.exp(log_softmax(teacher[i] / temperature))
      q = np.exp(log_softmax(taught[i] / temperature))
      kd = temperature**2 * sum(p[k] * np.log(p[k] / q[k]) for k in range(K))
    total.append((1 - alpha) * ce + alpha * kd)
  return np.mean(total)


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize(
  ("kind", "alpha", "temperature"),
  [
    ("hard", 0.5, 1.0),
    ("soft", 0.3, 1.0),
    ("soft", 0.1, 3.0),
    ("hard", 0.0, 1.0),
    ("soft", 1, 2.0),
  ],
)
def test_losses_match_numpy(kind, alpha, temperature, token):
  own, distilled, teacher = logits(0), logits(1), logits(2)
  labels = np.random.default_rng(3).integers(0, K, B, dtype=np.int32)
  loss = distillation.objective(
    options(kind=kind, alpha=alpha, temperature=temperature), losses.make("softmax_xent", K, 0.1)
  )
  out = Output(own, None, distilled if token else None)
  got = loss(out, {"label": labels, distillation.LOGITS: jnp.asarray(teacher)})
  args = own, distilled if token else own, teacher, labels
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, numpy_loss(kind, alpha, temperature, *args), rtol=2e-6)
  if 0 < alpha < 1:  # the test would see DeiT's published division, or T instead of T^2
    taught = numpy_loss(kind, 1.0, temperature, *args)
    assert abs(alpha * taught * (1 - 1 / K)) > 1e-2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 20))
def test_soft_loss_is_a_divergence(seed, temperature):
  a, b = logits(seed), logits(seed + 1)
  assert (distillation.soft_loss(a, b, temperature) >= -1e-5).all()
  np.testing.assert_allclose(distillation.soft_loss(a, a + 7, temperature), 0, atol=2e-4)
  # d/dx T^2 KL = T (softmax(x / T) - softmax(t / T)).
  grads = jax.grad(lambda x: distillation.soft_loss(x, b, temperature).sum())(a)
  p, q = (np.exp(log_softmax(x / temperature)) for x in (b, a))
  np.testing.assert_allclose(grads, temperature * (q - p), atol=1e-4)


@pytest.mark.torch
def test_the_published_code_divides_by_the_number_of_classes_too():
  torch = pytest.importorskip("torch")
  student, teacher, temperature = logits(0), logits(1), 3.0
  s, t = (torch.from_numpy(x) / temperature for x in (student, teacher))
  kl = torch.nn.functional.kl_div(
    s.log_softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True
  )
  theirs = float(kl * temperature**2 / s.numel())
  ours = distillation.soft_loss(student, teacher, temperature).mean()
  np.testing.assert_allclose(ours, K * theirs, rtol=1e-5)


def test_each_head_learns_from_its_own():
  loss = distillation.objective(options(alpha=0.4), losses.make("softmax_xent", K))
  labels, teacher = np.arange(B) % K, logits(2)

  def value(own, distilled, teacher):
    return loss(Output(own, None, distilled), {"label": labels, distillation.LOGITS: teacher})

  own, distilled, taught = jax.grad(value, (0, 1, 2))(logits(0), logits(1), teacher)
  p, q = np.exp(log_softmax(logits(0))), np.exp(log_softmax(logits(1)))
  np.testing.assert_allclose(own, 0.6 * (p - np.eye(K)[labels]) / B, atol=1e-6)
  np.testing.assert_allclose(distilled, 0.4 * (q - np.eye(K)[teacher.argmax(-1)]) / B, atol=1e-6)
  assert not taught.any()


@pytest.mark.parametrize("parts", [1, 3])
def test_the_teacher_answers_in_evaluation_and_is_not_trained(parts):
  """Dropout off, its dtype its own, in parts as in one piece; no gradient reaches it."""
  mesh = parallel.make_mesh()
  teacher = models.create("ViT-mu/8", num_classes=K, image_size=16, dropout=0.5, dtype="bfloat16")
  images = np.random.default_rng(0).normal(size=(B, 16, 16, 3)).astype(np.float32)
  variables = teacher.clone(head_zeroinit=False).init(jax.random.key(1), images)
  ask = jax.jit(distillation.asking(teacher, mesh, parts))
  batch = {"image": images, "label": np.arange(B) % K}
  got = ask(batch, variables)
  expected = teacher.apply(variables, images, train=False).logits
  np.testing.assert_allclose(got[distillation.LOGITS], expected, atol=0.02)
  assert got[distillation.LOGITS].shape == (B, K)
  assert np.std(expected) > 0.1
  student = models.create("ViT-mu/8", num_classes=K, image_size=16, head_zeroinit=False)
  loss_fn = losses.make("softmax_xent", K)
  objective = distillation.objective(options(kind="soft", alpha=1.0), loss_fn)
  loss = step.make_loss(student, loss_fn, objective=objective)

  def value(params, variables):
    return loss(params, {}, ask(batch, variables), jax.random.key(0))[0]

  params = student.init(jax.random.key(0), images)["params"]
  own, its = jax.grad(value, (0, 1))(params, variables)
  assert jax.tree.reduce(lambda n, g: n + float(jnp.abs(g).sum()), own, 0.0) > 0.01
  assert not any(np.any(g) for g in jax.tree.leaves(its))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """A run of a model that says something."""
  workdir = tmp_path_factory.mktemp("teacher")
  model = MODEL | {"width": 16, "mlp_dim": 32}
  train.run(tiny(seed=5, branches=(4,), model=model), workdir, "teacher")
  return workdir


def taught(teacher, student=MODEL, **distill):
  return tiny(branches=(8,), model=dict(student), distill={"teacher": str(teacher)} | distill)


def teacher_logits(config, images):
  """Returns what the teacher's own files say, by another way."""
  built = job.build(config, "t").teacher_model
  lines = []
  found = initial.read_weights(config.distill.teacher, built, lines.append)
  return built.apply(found.variables, images, train=False).logits


@pytest.mark.parametrize(("kind", "token"), [("hard", True), ("soft", False)])
def test_the_first_steps_loss_is_that_of_the_mixed_view(teacher, kind, token):
  """The student's, the teacher's and the labels' terms from their parts, through the trainer."""
  config = taught(teacher, MODEL | {"distilled": token}, kind=kind, alpha=0.7, temperature=2.0)
  with config.unlocked():
    config.mixing.mixup = 0.8
    config.accumulate = 2
  built = job.build(config, "t")
  state, batch = built.create_state(), next(built.batches(0))
  key = jax.random.fold_in(jax.random.key(0), 0)
  mixed = built._prepare(batch, jax.random.fold_in(key, 2**31 - 1), 0, built.teacher.variables)
  said = teacher_logits(config, mixed["image"])
  np.testing.assert_allclose(mixed[distillation.LOGITS], said, atol=1e-5)
  assert said.std() > 0.05
  out = built.model.apply(state.variables, mixed["image"], train=True)
  ce = -(np.asarray(mixed["label"]) * log_softmax(out.logits)).sum(-1)
  head = out.distilled_logits if token else out.logits
  if kind == "hard":
    kd = -log_softmax(head)[np.arange(32), np.asarray(said).argmax(-1)]
  else:
    p, q = log_softmax(said / 2), log_softmax(head / 2)
    kd = 4 * (np.exp(p) * (p - q)).sum(-1)
  _, metrics = built.train_step(state, batch)
  np.testing.assert_allclose(metrics["loss"], np.mean(0.3 * ce + 0.7 * kd), rtol=1e-5)


def test_a_taught_run_resumes_bit_for_bit_and_names_its_teacher(teacher, tmp_path, monkeypatch):
  config = taught(teacher, MODEL | {"dropout": 0.1, "distilled": True}, kind="soft")
  train.run(config, tmp_path / "whole", "t")

  with monkeypatch.context() as m:
    m.setattr(signals, "catch", lambda: nullcontext(StopAt(5)))
    with pytest.raises(signals.Interrupted):
      train.run(config, tmp_path / "halves", "t")
  shutil.copytree(tmp_path / "halves", tmp_path / "other")
  train.run(config, tmp_path / "halves", "t")
  a, b = (final_state(tmp_path / d / "branches/8", config) for d in ("whole", "halves"))
  assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
  digest = job.build(config, "t").teacher.sha256
  (record,) = [m for m in measurements.read(tmp_path / "halves/branches/8") if m["final"]]
  assert record["extra"]["teacher_sha256"] == digest
  monkeypatch.setattr(initial, "_digest", lambda arrays: "0" * 64)
  with pytest.raises(UserError, match="made with another teacher"):
    train.run(config, tmp_path / "other", "t")


def test_a_file_and_its_run_teach_the_same(teacher, tmp_path):
  run = taught(teacher)
  built = job.build(run, "t")
  assert built.teacher_model.width == 16  # of the run's config
  path = tmp_path / "teacher.safetensors"
  pretrained.export(path, built.teacher_model, built.teacher.variables)
  model = {"name": "ViT-mu/8", "width": 16, "mlp_dim": 32}
  file = job.build(taught(path, model=model), "t")
  assert jax.tree.all(jax.tree.map(np.array_equal, file.teacher.variables, built.teacher.variables))
  assert file.teacher.sha256 != built.teacher.sha256


def test_eight_devices_that_share_both_models_learn_as_one_does(teacher, tmp_path):
  out = [
    finish(
      start(
        write_config(tmp_path),
        tmp_path / str(devices),
        f"--config.distill.teacher={teacher}",
        "--config.model.dropout=0.0",
        "--config.model.head_zeroinit=False",
        "--config.branches=4",
        "--config.log_every=1",
        f"--config.mesh.fsdp={devices}",
        devices=devices,
      )
    )
    for devices in (1, 8)
  ]
  values = [
    [float(w[w.index("loss") + 1]) for w in map(str.split, x.splitlines()) if "images/s" in w]
    for x in out
  ]
  assert len(values[0]) == 4
  np.testing.assert_allclose(values[1], values[0], atol=2e-4)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"teacher": "nowhere"}, "config.distill.teacher: nowhere is not there"),
    ({"kind": "hart"}, "unknown config.distill.kind 'hart': did you mean 'hard'"),
    ({"alpha": 1.5}, "config.distill.alpha=1.5 must lie in 0..1"),
    ({"temperature": 0.0}, "config.distill.temperature=0.0 must be above 0"),
    ({"teacher": "{tmp}"}, "config.distill.teacher: .*holds no checkpoint"),
    ({"teacher": "{tmp}/a.npz"}, "does not say of which model it is: give config.distill.model"),
    ({"teacher": "{teacher}", "model": {"width": 32}}, "config.distill.teacher: .*shape"),
    ({"teacher": "{teacher}", "model": {"name": "ViT-mu/9"}}, "config.distill: .*16"),
  ],
)
def test_mistakes_show_before_any_step(teacher, tmp_path, changes, message):
  (tmp_path / "a.npz").write_bytes(b"")
  if "teacher" in changes:
    changes = changes | {"teacher": changes["teacher"].format(tmp=tmp_path, teacher=teacher)}
  with pytest.raises(UserError, match=message) as error:
    train.prepare(tiny(model=MODEL, distill=changes), tmp_path / "run", "t")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sam_learns_from_the_teacher_too(teacher):
  """Both its passes see what the teacher said of the mixed view, with a radius of 0 as one does."""
  losses_of = []
  for sam in ({"kind": "none"}, {"kind": "sam", "rho": 0.0}, {"kind": "sam", "rho": 0.5}):
    config = taught(teacher, MODEL | {"distilled": True})
    changes = {"sam": sam, "mixing": {"cutmix": 1.0}, "accumulate": 2}
    built = job.build(config_lib.resolve(config.to_dict() | changes), "t")
    state, batches = built.create_state(), built.batches(0)
    for _ in range(3):
      state, metrics = built.train_step(state, next(batches))
    losses_of.append(float(metrics["loss"]))
  plain, zero, sharp = losses_of
  assert zero == pytest.approx(plain, rel=1e-5)
  assert abs(sharp - plain) > 1e-4


def test_a_run_without_its_config_is_refused(teacher, tmp_path):
  shutil.copytree(teacher, tmp_path / "copy")
  (tmp_path / "copy/config.json").write_text(json.dumps({}))
  with pytest.raises(UserError, match="is no config of a run: restore it"):
    job.build(taught(tmp_path / "copy"), "t")


def test_the_hash_covers_it_and_old_runs_keep_theirs():
  base = config_lib.config_hash(tiny())
  for changes in ({"teacher": "a"}, {"kind": "soft"}, {"alpha": 0.1}, {"model": {"name": "a"}}):
    assert config_lib.config_hash(tiny(distill=changes)) != base
  old = config_lib.to_json(tiny())
  del old["distill"]
  assert config_lib.differences(old, config_lib.to_json(tiny())) == []
