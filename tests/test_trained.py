import jax
import numpy as np
import pytest
from training import tiny

from vit_jax import measurements, parallel, train, trained
from vit_jax.errors import UserError
from vit_jax.sharpness import problem


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A trunk with a branch of 8 steps, its blocks scanned."""
  workdir = tmp_path_factory.mktemp("runs") / "tiny"
  model = dict(name="ViT-w16d2/8", dropout=0.1, scan=True)
  train.run(tiny(branches=(8,), model=model), workdir, "tiny")
  return workdir


def test_a_branch_is_worth_what_it_was_worth_when_it_was_trained(run):
  found = trained.of_run(run / "branches" / "8")
  (record,) = measurements.read(run / "branches" / "8")
  assert (found.name, found.step) == ("tiny@8", 8)
  assert found.errors == {k: v for k, v in record["metrics"].items() if k.endswith("_error")}
  again = found.job.evaluators["test"](found)
  assert again["test_error"] == record["metrics"]["test_error"]
  assert again["test_loss"] == pytest.approx(record["metrics"]["test_loss"], rel=1e-5)


def test_step_0_is_the_initialisation(run):
  start, again = (trained.of_run(run, step=0) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, start.params, again.params)
  assert start.sha256 == "seed 0"
  assert start.sha256 != trained.of_run(run).sha256


def test_an_earlier_checkpoint_has_other_weights(run):
  steps = trained.of_run(run).step, trained.of_run(run, step=4).step
  assert steps == (6, 4)
  assert trained.of_run(run).sha256 != trained.of_run(run, step=4).sha256


def test_what_is_not_there_is_named(run, tmp_path):
  with pytest.raises(UserError, match="no checkpoint of step 5: those it has are 4, 6"):
    trained.of_run(run, step=5)
  with pytest.raises(UserError, match=r"no config.json\): give one of its runs, such as .*tiny"):
    trained.of_run(run.parent)
  with pytest.raises(UserError, match="no run directory"):
    trained.of_run(tmp_path)


def test_a_problem_is_the_same_function_for_scanned_blocks(run):
  found = trained.of_run(run)
  made = problem.make(
    found.model,
    found.job.loss_fn,
    found.job.mesh,
    found.load("test[:50]"),
    transforms=found.job.config.data.eval,
    batch_size=16,
  )
  weights = made.weights(found)
  assert "block_0" in weights.params["encoder"]
  batch = next(made.batches())
  ours = made.logits(weights.params, weights.batch_stats, batch)
  theirs = found.model.apply(found.variables, batch["image"], train=False).logits
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
@pytest.mark.parametrize("batch_size", [7, 16, 64])
def test_every_example_of_a_problem_counts_once(run, monkeypatch, resident_bytes, batch_size):
  monkeypatch.setattr(problem, "RESIDENT_BYTES", resident_bytes)
  found = trained.of_run(run)
  made = problem.make(
    found.model,
    found.job.loss_fn,
    parallel.make_mesh(),
    found.load("test"),
    transforms=found.job.config.data.eval,
    batch_size=batch_size,
    examples=50,
    seed=3,
  )
  weights = made.weights(found)
  batches = list(made.batches())
  assert len(batches) == made.num_batches
  assert sum(int(b["mask"].sum()) for b in batches) == len(made) == 50
  mean = sum(made.losses(weights.params, weights.batch_stats, b).sum() for b in batches) / 50
  logits = np.concatenate(
    [np.asarray(made.logits(weights.params, weights.batch_stats, b))[b["mask"]] for b in batches]
  ).astype(np.float64)
  labels = np.concatenate([np.asarray(b["label"])[b["mask"]] for b in batches])
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  assert float(mean) == pytest.approx(-log_p[np.arange(50), labels].mean(), rel=1e-5)


def test_an_unknown_loss_is_refused(run):
  found = trained.of_run(run)
  with pytest.raises(UserError, match="unknown loss to examine 'crossentropy': did you mean"):
    problem.make(
      found.model,
      found.job.loss_fn,
      found.job.mesh,
      found.load("test"),
      transforms="value_range(-1, 1)",
      batch_size=8,
      loss="crossentropy",
    )
