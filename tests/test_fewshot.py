import jax.numpy as jnp
import numpy as np
import pytest
from probing import clusters, context, evaluate, source, state

from vit_jax.errors import UserError
from vit_jax.evaluators.fewshot import choose_shots
from vit_jax.evaluators.ridge import Ridge


def direct(x, labels, classes, l2, test):
  """The protocol word for word: inverse of the Gram matrix of the features, float64."""
  x, test = np.asarray(x, np.float64), np.asarray(test, np.float64)
  mean, std = x.mean(0), x.std(0) + 1e-5
  x = np.concatenate([(x - mean) / std, np.full((len(x), 1), 100.0)], 1)
  test = np.concatenate([(test - mean) / std, np.full((len(test), 1), 100.0)], 1)
  y = 2.0 * np.eye(classes)[labels] - 1
  w = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
  return w, test @ w


def problem(n, d, kind, classes=7, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, n)
  labels[:2] = 0, classes - 1
  x = (rng.standard_normal((classes, d))[labels] + rng.standard_normal((n, d))).astype(np.float32)
  test = rng.standard_normal((23, d)).astype(np.float32)
  if kind == "constant features":
    x[:, 3], x[:, 4], test[:, 3] = 1.7, 0, 1.7
  if kind == "duplicates":
    x[n // 2 :], labels[n // 2 :] = x[: n - n // 2], labels[: n - n // 2]
  if kind == "large means":
    x, test = x + 1000, test + 1000
  return x, labels, classes, test


@pytest.mark.parametrize("kind", ["plain", "constant features", "duplicates", "large means"])
@pytest.mark.parametrize(("n", "d"), [(20, 64), (64, 64), (65, 64), (300, 64)])
@pytest.mark.parametrize("l2", [2.0**10, 1.0, 2.0**-10])
def test_it_is_the_ridge_solution(n, d, kind, l2):
  x, labels, classes, test = problem(n, d, kind)
  ridge = Ridge(x, labels, classes)
  w, scores = direct(x, labels, classes, l2, test)
  np.testing.assert_allclose(ridge.weights(l2), w, atol=1e-5, rtol=1e-5)
  found = ridge.scores(test, ridge.weights(l2))
  np.testing.assert_allclose(found, scores, atol=1e-5 * max(1, np.abs(scores).max()))
  np.testing.assert_array_equal(ridge.predict(test, l2), scores.argmax(1))


def test_what_is_left_out_is_scored_as_if_it_had_not_been_there():
  for n, d in ((15, 40), (60, 10)):
    x, labels, classes, _ = problem(n, d, "plain", classes=4)
    found = Ridge(x, labels, classes).left_out_scores(3.0)
    z = np.asarray(x, np.float64)
    z = np.concatenate([(z - z.mean(0)) / (z.std(0) + 1e-5), np.full((n, 1), 100.0)], 1)
    y = 2.0 * np.eye(classes)[labels] - 1
    for i in range(n):
      rest = np.arange(n) != i
      w = np.linalg.solve(z[rest].T @ z[rest] + 3.0 * np.eye(d + 1), z[rest].T @ y[rest])
      np.testing.assert_allclose(found[i], z[i] @ w, atol=1e-6)


def test_the_shots_are_those_of_the_protocol():
  labels = np.array([1, 0, 1, 1, 0, 2, 1, 0, 2])
  rng = np.random.default_rng(5)
  expected = [rng.permutation([1, 4, 7]), rng.permutation([0, 2, 3, 6]), rng.permutation([5, 8])]
  for a, b in zip(choose_shots(labels, 3, 5), expected, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def sets():
  train, labels = clusters(150, 5, 12, seed=1, noise=60)
  test, test_labels = clusters(103, 5, 12, seed=2, noise=60)
  return train, labels, test, test_labels


def splits(sets):
  train, labels, test, test_labels = sets
  return {"train": source(train, labels), "test": source(test, test_labels)}


def test_every_seed_and_their_mean_are_those_of_the_protocol(sets):
  train, labels, test, test_labels = sets
  found = evaluate(context(splits(sets)), type="fewshot")
  assert found["e_examples"] == 103
  for k in (1, 5, 10, 25):
    each = []
    for seed in (0, 1, 2):
      shots = np.concatenate([indices[:k] for indices in choose_shots(labels, 5, seed)])
      _, scores = direct(train[shots], labels[shots], 5, 2.0**10, test)
      each.append(np.mean(scores.argmax(1) != test_labels))
      assert found[f"e_{k}shot_seed{seed}_error"] == pytest.approx(each[-1])
    assert found[f"e_{k}shot_error"] == pytest.approx(np.mean(each))
  assert found["e_25shot_error"] < found["e_5shot_error"] < found["e_1shot_error"] < 0.8


def test_a_class_may_have_too_few_examples():
  x, labels = clusters(40, 4, 6, seed=0)
  keep = np.flatnonzero((labels != 2) | (np.arange(40) < 3))
  sources = {"train": source(x[keep], labels[keep]), "test": source(x, labels)}
  assert evaluate(context(sources), type="fewshot", shots=(5,))["e_5shot_error"] < 0.5


@pytest.mark.parametrize("kind", ["fewshot", "corruptions"])
def test_images_of_several_classes_are_refused(sets, kind):
  train, labels, *_ = sets
  several = source(train, np.eye(5)[labels], classes=5)
  with pytest.raises(UserError, match="e: the images of t may have several classes"):
    evaluate(context({"train": several, "test": several}), type=kind)


def test_the_penalty_can_be_chosen_on_the_shots(sets):
  grid = (2.0**-6, 2.0**4, 2.0**10, 2.0**24)
  found = evaluate(context(splits(sets)), type="fewshot", shots=(1, 10), l2_grid=grid)
  train, labels, *_ = sets
  for seed in (0, 1, 2):
    assert found[f"e_1shot_seed{seed}_l2"] == 2.0**10  # nothing to leave out
    shots = np.concatenate([indices[:10] for indices in choose_shots(labels, 5, seed)])
    ridge = Ridge(train[shots], labels[shots], 5)
    errors = [(ridge.left_out_scores(l2).argmax(1) != labels[shots]).mean() for l2 in grid]
    chosen = found[f"e_10shot_seed{seed}_l2"]
    assert errors[grid.index(chosen)] == min(errors)


def test_another_data_set_and_preprocessing_can_be_probed(sets):
  x, labels = clusters(60, 3, 12, seed=3)
  other = {"birds": {"train[:50]": source(x, labels, name="birds"), "test": source(x, labels)}}
  made = context(splits(sets), other=other)
  options = dict(
    type="fewshot", dataset="birds", train_split="train[:50]", transforms="value_range(-1, 1)"
  )
  found = evaluate(made, **options, shots=(5,))
  assert found["e_examples"] == 60
  from vit_jax import evaluators

  made = evaluators.make({"e": options}, made)
  protocol = evaluators.protocols(made)["e"]
  assert protocol["dataset"] == "birds"
  assert protocol["transforms"] == "value_range(-1, 1)"
  assert protocol["shots"] == [1, 5, 10, 25]
  assert protocol["l2"] == 1024.0
  assert protocol["l2_choice"] == "fixed"


def test_evaluators_of_one_state_share_its_features(sets):
  from vit_jax import evaluators

  calls = []
  made = evaluators.make(
    {
      "a": dict(type="fewshot", shots=(1,)),
      "b": dict(type="knn"),
      "c": dict(type="linear_probe", l2_grid=(0.1,)),
    },
    context(splits(sets), batch_size=32, calls=calls),
  )
  first, second = state(scale=jnp.float32(1)), state(scale=jnp.float32(2))
  for evaluator in made.values():
    evaluator(first)
  images = sum(calls)
  assert images == 160 + 128  # 150 and 103 images, in batches of 32
  made["a"](second)
  assert sum(calls) == 2 * images


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(shots=()), "shots"),
    (dict(shots=(0,)), "shots"),
    (dict(shots=0), r"shots=\(0,\) must be"),  # a lone number is one of them
    (dict(l2="a"), "l2='a' must be a number"),
    (dict(seeds=(-1,)), "seeds"),
    (dict(l2=0.0), "l2"),
    (dict(l2_grid=(1.0, -1.0)), "l2_grid"),
    (dict(transforms="resize(3)"), "e.transforms"),
    (dict(shot=(1,)), "did you mean 'shots'"),
  ],
)
def test_mistakes_are_told(sets, options, message):
  with pytest.raises(UserError, match=message):
    evaluate(context(splits(sets)), type="fewshot", **options)
