"""Counted FLOPs against published tables, formulas, and functions of known cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_jax import flops, models


def count(name, image_size, **fields):
  fields = {**dict(num_classes=1000, scan=True), **fields}
  return flops.model_flops(models.create(name, image_size=image_size, **fields), image_size)


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


# "Scaling Vision Transformers" (2106.04560), Table 2: GFLOPs at 224 and 384 px.
PUBLISHED = {
  "s/28": (0.7, 2.0),
  "s/16": (2.2, 7.8),
  "S/32": (2.3, 6.9),
  "Ti/16": (2.5, 9.5),
  "B/32": (8.7, 26.0),
  "S/16": (9.2, 31.2),
  "B/28": (11.3, 30.5),
  "B/16": (35.1, 111.3),
  "L/16": (122.9, 382.8),
  "g/14": (533.1, 1596.4),
  "G/14": (965.3, 2859.9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_gflops(name):
  patch = int(name.split("/")[1])
  for size, published in zip((224, 384), PUBLISHED[name], strict=True):
    # The paper's 384 px do not divide by 14 or 28: floor, as a convolution without padding does.
    rounded = size // patch * patch
    got = count(f"ViT-{name}", rounded, pool="gap") / 1e9
    # One digit is printed, and the paper counts element-wise operations too, up to 2%.
    assert got == pytest.approx(published, abs=0.05 + 0.02 * published)


# Multiply-adds of matrix products and convolutions, counted by PyTorch on timm's models.
@pytest.mark.parametrize(
  ("name", "pool", "gmac"),
  [
    ("ViT-Ti/16", "tok", 1.2537),
    ("ViT-S/32", "gap", 1.1208),
    ("ViT-B/16", "tok", 17.5638),
    ("ViT-B/16", "gap", 17.4716),
    ("ViT-B/16", "map", 17.7091),
    ("ViT-L/16", "map", 61.6553),
    ("ViT-H/14", "tok", 167.2951),
  ],
)
def test_independent_count(name, pool, gmac):
  assert count(name, 224, pool=pool) / 2e9 == pytest.approx(gmac, abs=6e-5)


@settings(max_examples=15, deadline=None)
@given(
  side=st.integers(1, 5),
  patch=st.integers(1, 6),
  heads=st.integers(1, 3),
  head_dim=st.integers(1, 9),
  mlp=st.integers(1, 20),
  depth=st.integers(1, 4),
  classes=st.integers(1, 12),
  scan=st.booleans(),
)
def test_formula(side, patch, heads, head_dim, mlp, depth, classes, scan):
  tokens, width = side**2, heads * head_dim
  block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp
  expected = 2 * (tokens * patch**2 * 3 * width + depth * block + width * classes)
  assert (
    count(
      f"ViT-mu/{patch}",
      side * patch,
      width=width,
      num_heads=heads,
      mlp_dim=mlp,
      depth=depth,
      pool="gap",
      num_classes=classes,
      scan=scan,
    )
    == expected
  )


def test_layout_memory_policy_and_dtype_do_not_matter():
  expected = count("ViT-mu/4", 16, depth=4, scan=False)
  for fields in (
    dict(scan=True),
    dict(remat="full"),
    dict(scan=True, remat="dots"),
    dict(dtype="bfloat16"),
    dict(dropout=0.1, drop_path=0.1),
  ):
    assert count("ViT-mu/4", 16, depth=4, **{**dict(scan=False), **fields}) == expected
  assert count("ViT-mu/4", 16, depth=5) > expected


def test_channels():
  module = models.create("ViT-mu/4", num_classes=2, image_size=8)
  assert flops.model_flops(module, 8, 3) - flops.model_flops(module, 8, 1) == 2 * 4 * 16 * 2 * 32


def test_products_and_convolutions():
  assert (
    flops.forward_flops(
      lambda a, b: jnp.einsum("bij,bjk->bik", a, b), array(5, 2, 3), array(5, 3, 4)
    )
    == 2 * 5 * 2 * 3 * 4
  )

  def convolve(groups):
    return lambda x, w: jax.lax.conv_general_dilated(
      x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )

  out = 7 * 4 * 4 * 8  # [7, 4, 4, 8]
  assert flops.forward_flops(convolve(1), array(7, 9, 9, 6), array(3, 3, 6, 8)) == 2 * out * 9 * 6
  assert flops.forward_flops(convolve(2), array(7, 9, 9, 6), array(3, 3, 3, 8)) == 2 * out * 9 * 3


def test_control_flow_and_transformations():
  a = np.ones((4, 4), np.float32)
  one = 2 * 4**3

  @jax.custom_vjp
  def custom(x):
    return x @ a

  custom.defvjp(lambda x: (x @ a, None), lambda _, g: (g,))

  for times, fn in (
    (1, jax.jit(lambda x: x @ a)),
    (1, jax.checkpoint(lambda x: x @ a)),
    (1, custom),
    (1, jax.vmap(lambda row: row @ a)),
    (6, lambda x: jax.lax.scan(lambda c, _: ((c @ a) @ a, None), x, length=3)[0]),
    (5, lambda x: jax.lax.fori_loop(0, 5, lambda _, c: c @ a, x)),
    (2, lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ a @ a, lambda y: y @ a, x)),
    (0, lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c + 1, x)),
    (0, lambda x: jnp.tanh(x).sum()),
  ):
    assert flops.forward_flops(fn, array(4, 4)) == times * one


def test_loops_of_unknown_length_are_refused():
  a = np.ones((4, 4), np.float32)
  with pytest.raises(ValueError, match="'while' with matrix products inside cannot be counted"):
    flops.forward_flops(
      lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ a, x), array(4, 4)
    )
