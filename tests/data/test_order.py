import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vit_jax.data.order import Order, repeated


@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_each_epoch_visits_each_example_once(size, seed, epoch):
  indices = Order(size, seed)(epoch * size + np.arange(size))
  assert sorted(indices) == list(range(size))


@given(st.integers(1, 60), st.lists(st.integers(0, 500), min_size=1, max_size=40))
def test_an_index_is_a_function_of_its_position(size, positions):
  run = Order(size, 3)(np.arange(501))
  assert Order(size, 3)(np.array(positions)).tolist() == run[positions].tolist()


def test_epochs_and_seeds_differ():
  size = 1000
  first, second = Order(size, 0)(np.arange(2 * size)).reshape(2, size)
  other = Order(size, 1)(np.arange(size))
  for a, b in ((first, second), (first, other), (second, other), (first, np.arange(size))):
    assert np.sum(a == b) < 10  # one match is expected of two independent orders
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_a_batch_has_each_of_its_examples_as_often_as_asked(batch_size, repeats, step):
  repeats = min(repeats, batch_size)
  found = repeated(step * batch_size + np.arange(batch_size), batch_size, repeats)
  different, counts = np.unique(found, return_counts=True)
  wanted = -(-batch_size // repeats)
  # Batch after batch goes through the order without gap or overlap.
  assert different.tolist() == list(range(step * wanted, (step + 1) * wanted))
  assert counts.max() == -(-batch_size // wanted)
  if batch_size % repeats == 0:
    assert set(counts) == {repeats}
  assert counts.min() >= batch_size // wanted


def test_copies_are_no_neighbours():
  assert repeated(np.arange(12), 6, 3).tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
  assert repeated(np.arange(7), 7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
  assert repeated(np.arange(100), 8, 1).tolist() == list(range(100))
