from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from vit_jax import evaluators, parallel
from vit_jax.data.sources import ArraySource, Info
from vit_jax.evaluators.classification import rank


def evaluate(logits, labels, batch_size=8):
  """Evaluates a model whose logits are the images themselves: uint8 [n, 1, 1, K]."""
  n, classes = logits.shape
  info = Info(name="t", split="t", num_classes=classes, size=n, class_names=("",) * classes)
  source = ArraySource(info, logits.reshape(n, 1, 1, classes), labels)
  model = SimpleNamespace(
    apply=lambda variables, images, train: SimpleNamespace(
      logits=images.reshape(len(images), -1).astype(jnp.float32)
    )
  )
  context = evaluators.Context(
    model=model,
    loss_fn=optax.softmax_cross_entropy_with_integer_labels,
    mesh=parallel.make_mesh(),
    load=lambda split: source,
    data=ml_collections.ConfigDict(
      dict(eval="value_range(0, 255)", image_size=1, num_threads=0, cache=False)
    ),
    batch_size=batch_size,
  )
  entries = {"test": {"type": "classification", "split": "t"}}
  return evaluators.make(entries, context)["test"](SimpleNamespace(variables={}))


@pytest.mark.parametrize("n", [8, 19])
def test_errors_are_exact_over_a_split_with_a_part_of_a_batch(n):
  rng = np.random.default_rng(n)
  logits = rng.integers(0, 256, (n, 12)).astype(np.uint8)
  labels = rng.integers(0, 12, n).astype(np.int32)
  found = evaluate(logits, labels)
  order = np.argsort(-logits.astype(int), axis=1, kind="stable")
  assert found["test_examples"] == n
  assert found["test_error"] == pytest.approx(np.mean(order[:, 0] != labels))
  top5 = np.mean([label not in row[:5] for label, row in zip(labels, order, strict=True)])
  assert found["test_top5_error"] == pytest.approx(top5)
  assert 0 < top5 < found["test_error"]


@pytest.mark.parametrize(("classes", "has"), [(5, False), (6, True)])
def test_five_classes_have_no_top5_error(classes, has):
  labels = np.zeros(4, np.int32)
  found = evaluate(np.zeros((4, classes), np.uint8), labels)
  assert ("test_top5_error" in found) == has


def test_equal_logits_are_right_as_often_as_chance():
  logits, labels = np.zeros((200, 10), np.uint8), np.arange(200, dtype=np.int32) % 10
  found = evaluate(logits, labels)
  assert found["test_error"] == pytest.approx(0.9)
  assert found["test_top5_error"] == pytest.approx(0.5)


def test_the_rank_agrees_with_argmax_and_sorting():
  logits = jnp.asarray(np.random.default_rng(0).integers(0, 4, (500, 7)), jnp.float32)
  label = jnp.arange(500) % 7
  order = jnp.argsort(-logits, axis=1, stable=True)
  expected = (order == label[:, None]).argmax(1)
  np.testing.assert_array_equal(jax.jit(rank)(logits, label), expected)
  np.testing.assert_array_equal(rank(logits, label) == 0, logits.argmax(1) == label)
