import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vit_jax.data.order import Order


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
