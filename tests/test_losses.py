import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax import losses
from vit_jax.errors import UserError

B, K = 6, 7


def batch(seed=0, scale=3.0):
  rng = np.random.default_rng(seed)
  logits = (scale * rng.normal(size=(B, K))).astype(np.float32)
  return logits, rng.integers(0, K, B), rng.dirichlet(np.ones(K), B).astype(np.float32)


def log_sigmoid(x):
  return -np.logaddexp(0, -x)


def expected(name, logits, labels, smoothing=0.0):
  """One example at a time, in float64."""
  out = []
  for x, label in zip(np.asarray(logits, np.float64), labels, strict=True):
    y = np.asarray(label, np.float64) if np.ndim(label) else np.eye(K)[label]
    y = y * (1 - smoothing) + smoothing / K
    if name == "softmax_xent":
      out.append(sum(y[k] * (np.logaddexp.reduce(x) - x[k]) for k in range(K)))
    else:
      out.append(-sum(y[k] * log_sigmoid(x[k]) + (1 - y[k]) * log_sigmoid(-x[k]) for k in range(K)))
  return np.array(out)


def gradient(name, logits, labels, smoothing=0.0):
  """By hand: probability minus target for both losses."""
  x = np.asarray(logits, np.float64)
  y = np.eye(K)[labels] if np.ndim(labels) == 1 else np.asarray(labels, np.float64)
  y = y * (1 - smoothing) + smoothing / K
  p = (
    np.exp(x - np.logaddexp.reduce(x, axis=-1, keepdims=True))
    if name == "softmax_xent"
    else 1 / (1 + np.exp(-x))
  )
  return p - y


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", losses.names())
def test_values_and_gradients_match_numpy(name, soft, smoothing):
  logits, hard, mixed = batch()
  labels = mixed if soft else hard
  loss = losses.make(name, K, smoothing)
  got = jax.jit(loss)(logits, labels)
  assert got.shape == (B,)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, expected(name, logits, labels, smoothing), rtol=2e-6, atol=1e-6)
  grads = jax.grad(lambda x: loss(x, labels).sum())(logits)
  np.testing.assert_allclose(grads, gradient(name, logits, labels, smoothing), atol=2e-6)
  with pytest.raises(AssertionError):  # the test sees a smoothing that is off by 0.01
    np.testing.assert_allclose(
      got, expected(name, logits, labels, smoothing + 0.01), rtol=2e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", losses.names())
def test_a_hard_label_is_its_one_hot_vector(name):
  logits, labels, _ = batch()
  loss = losses.make(name, K, 0.1)
  np.testing.assert_array_equal(
    loss(logits, labels), loss(logits, np.eye(K, dtype=np.float32)[labels])
  )


@pytest.mark.parametrize("name", losses.names())
def test_large_logits_stay_finite(name):
  logits = np.float32([[1e4, -1e4, 0, 0, 0, 0, 0], [-3e38, 3e38, 0, 0, 0, 0, 0]])
  loss = losses.make(name, K)
  np.testing.assert_allclose(
    loss(logits[:1], np.array([0])), [0.0 if name == "softmax_xent" else 5 * np.log(2)], rtol=1e-6
  )
  wrong = loss(logits[:1], np.array([1]))
  np.testing.assert_allclose(wrong, [2e4 if name == "softmax_xent" else 2e4 + 5 * np.log(2)])
  for labels in ([1, 1], [0, 1]):
    grads = jax.grad(lambda x, y: loss(x, y).sum())(logits, jnp.array(labels))
    assert np.isfinite(grads).all()
    np.testing.assert_allclose(grads, gradient(name, np.clip(logits, -500, 500), labels), atol=1e-6)


@pytest.mark.parametrize("name", losses.names())
def test_bfloat16_logits_are_accumulated_in_float32(name):
  """4,096 classes: a bfloat16 sum would stop growing after 256 terms of equal size."""
  num_classes = 4096
  logits = jnp.zeros((2, num_classes), jnp.bfloat16)
  got = losses.make(name, num_classes)(logits, jnp.array([0, 5]))
  assert got.dtype == jnp.float32
  want = np.log(num_classes) if name == "softmax_xent" else num_classes * np.log(2)
  np.testing.assert_allclose(got, [want, want], rtol=1e-6)
  assert (
    jax.grad(lambda x: losses.make(name, num_classes)(x, jnp.array([0, 5])).sum())(logits).dtype
    == jnp.bfloat16
  )


@pytest.mark.parametrize("name", losses.names())
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0, 50), smoothing=st.floats(0, 0.9))
def test_is_never_negative_and_equals_minus_log_likelihood(name, seed, scale, smoothing):
  logits, hard, mixed = batch(seed, scale)
  assert (losses.make(name, K, smoothing)(logits, mixed) >= 0).all()
  loss = np.asarray(losses.make(name, K)(logits, hard))
  x = logits.astype(np.float64)
  if name == "softmax_xent":
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    log_likelihood = np.log(p[np.arange(B), hard])
  else:
    signs = 2 * np.eye(K)[hard] - 1
    # The product itself leaves the range of float64 for large logits.
    log_likelihood = np.log(1 / (1 + np.exp(-signs * x))).sum(-1)
  np.testing.assert_allclose(loss, -log_likelihood, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-1000, 1000))
def test_softmax_does_not_see_a_common_shift(seed, shift):
  logits, labels, _ = batch(seed)
  np.testing.assert_allclose(
    losses.softmax_xent(logits + np.float32(shift), labels),
    losses.softmax_xent(logits, labels),
    atol=1e-3,
  )


def test_sigmoid_sums_over_classes_and_the_batch_is_averaged():
  logits = np.zeros((4, K), np.float32)
  per_example = losses.sigmoid_xent(logits, np.zeros(4, int))
  np.testing.assert_allclose(per_example, np.full(4, K * np.log(2)), rtol=1e-6)
  assert losses.mean(per_example) == pytest.approx(K * np.log(2))


def test_masked_mean_counts_only_real_examples():
  values = jnp.array([1.0, 2.0, 6.0, jnp.nan], jnp.float32)
  mask = np.array([True, True, True, False])
  assert losses.mean(values, mask) == 3.0
  assert np.isnan(losses.mean(values))
  assert losses.mean(values, np.zeros(4, bool)) == 0.0
  grads = jax.grad(lambda v: losses.mean(v, mask))(values)
  np.testing.assert_allclose(grads, [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("label", [-1, K, 2**31 - 1])
def test_an_index_that_is_no_class_gives_nan_for_its_example_only(name, label):
  logits, labels, _ = batch()
  labels[2] = label
  assert list(np.isnan(losses.make(name, K, 0.1)(logits, labels))) == [i == 2 for i in range(B)]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: losses.make("softmax", K), "unknown loss 'softmax': did you mean 'softmax_xent'"),
    (lambda: losses.make("zzz", K), "choose one of sigmoid_xent, softmax_xent"),
    (lambda: losses.make("softmax_xent", K, 1.0), r"label_smoothing must be in \[0, 1\), got 1.0"),
    (lambda: losses.make("softmax_xent", K, -0.1), "label_smoothing must be"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message):
    call()


def test_shapes_that_do_not_fit_are_refused():
  logits, labels, mixed = batch()
  loss = losses.make("softmax_xent", K)
  with pytest.raises(ValueError, match=f"logits have {K - 1} classes, the loss {K}"):
    loss(logits[:, 1:], labels)
  for wrong in (mixed[:, 1:], labels.astype(np.float32), np.zeros((B, K, 1), np.float32)):
    with pytest.raises(ValueError, match="do not fit logits"):
      loss(logits, wrong)
