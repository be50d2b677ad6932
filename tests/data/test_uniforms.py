import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vit_jax.data.uniforms import uniforms

_N = 40_000


def _splitmix(x):
  """Steele, Lea and Flood 2014, in Python integers."""
  m = 2**64 - 1
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & m
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB & m
  return x ^ (x >> 31)


def test_equals_a_derivation_in_python_integers():
  golden, m = 0x9E3779B97F4A7C15, 2**64 - 1
  seed, stream, position = 12, 3, 987_654_321_012
  key = _splitmix(((seed << 32) + stream + golden) & m)
  row = _splitmix(_splitmix((position * golden + key) & m) ^ key)
  expected = [(_splitmix((row + k * golden) & m) >> 11) / 2**53 for k in (1, 2, 3)]
  assert uniforms(seed, stream, np.array([position]), 3)[0].tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40), st.integers(1, 50), st.integers(1, 5))
def test_a_row_depends_on_its_own_position_only(seed, start, n, draws):
  positions = start + np.arange(n)
  rows = uniforms(seed, 1, positions, draws)
  assert rows.shape == (n, draws)
  assert ((rows >= 0) & (rows < 1)).all()
  np.testing.assert_array_equal(rows[n // 2 :], uniforms(seed, 1, positions[n // 2 :], draws))
  np.testing.assert_array_equal(rows, uniforms(seed, 1, positions, draws + 1)[:, :draws])


def test_is_uniform_and_uncorrelated():
  u = uniforms(0, 0, np.arange(_N), 2)
  others = [uniforms(1, 0, np.arange(_N), 1), uniforms(0, 1, np.arange(_N), 1)]
  columns = np.stack([u[:, 0], u[:, 1], np.roll(u[:, 0], 1), *(o[:, 0] for o in others)])
  counts = np.stack([np.histogram(c, 50, (0, 1))[0] for c in columns])
  chi2 = ((counts - _N / 50) ** 2 / (_N / 50)).sum(1)
  assert (chi2 < 95).all()  # 49 degrees of freedom: exceeded once in 10,000
  correlations = np.corrcoef(columns)[np.triu_indices(len(columns), 1)]
  assert np.abs(correlations).max() < 5 / np.sqrt(_N)
