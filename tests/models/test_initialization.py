"""The distributions that parameters start from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modeling import jit

from vit_jax import models
from vit_jax.optim import decay, groups


def initialize(**overrides):
  model = models.create(
    "ViT-mu/4",
    num_classes=10,
    image_size=32,
    **{**dict(width=128, depth=2, mlp_dim=256, num_heads=4), **overrides},
  )
  images = jnp.zeros((1, 32, 32, 3))
  variables = jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
  return {
    groups.path_name(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(variables["params"])
  }


@pytest.fixture(scope="module", params=[False, True], ids=["unrolled", "scan"])
def params(request):
  return initialize(pool="map", scan=request.param)


def assert_uniform(x, bound):
  assert np.abs(x).max() <= bound
  assert np.abs(x).max() > 0.98 * bound
  assert x.std() == pytest.approx(bound / 3**0.5, rel=0.03)


def assert_normal(x, std):
  assert x.std() == pytest.approx(std, rel=0.05)
  assert abs(x.mean()) < 5 * std / x.size**0.5


def test_dense_kernels_are_xavier_uniform_of_the_matrix(params):
  seen = 0
  for path, x in params.items():
    if path.startswith(("encoder/", "map_pool/")) and path.endswith("kernel"):
      width = 128 + (256 if "mlp" in path else 128)
      assert_uniform(x, (6 / width) ** 0.5)
      seen += 1
  assert seen == (12 if any("blocks" in p for p in params) else 18)


def test_mlp_biases_are_tiny_and_the_others_zero(params):
  for path, x in params.items():
    if path.endswith("bias") and "mlp" in path:
      assert 0.8e-6 < x.std() < 1.2e-6
    elif path.endswith("bias"):
      assert not x.any(), path


def test_other_parameters(params):
  assert_normal(params["embedding/kernel"], (4 * 4 * 3) ** -0.5)
  assert np.abs(params["embedding/kernel"]).max() < 2.3 * (4 * 4 * 3) ** -0.5  # truncated
  assert_normal(params["pos_embedding"], 128**-0.5)
  assert np.abs(params["map_pool/probe"]).max() <= (6 / 129) ** 0.5
  assert params["map_pool/probe"].std() == pytest.approx((2 / 129) ** 0.5, rel=0.2)
  assert not params["head/kernel"].any()
  assert all((x == 1).all() for path, x in params.items() if path.endswith("scale"))


def test_layers_differ(params):
  if "encoder/blocks/mlp/up/kernel" in params:
    first, second = params["encoder/blocks/mlp/up/kernel"]
  else:
    first, second = (params[f"encoder/block_{i}/mlp/up/kernel"] for i in range(2))
  assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_head_options():
  params = initialize(head_bias_init=-6.9, head_zeroinit=False, depth=1)
  np.testing.assert_array_equal(params["head/bias"], np.float32(-6.9))
  assert_normal(params["head/kernel"], 128**-0.5)
  assert not params["cls"].any()


def test_paths_fit_the_weight_decay_of_heads_and_bodies(params):
  values = decay.per_parameter(decay.DEFAULT_GROUPS, params)
  for path, value in values.items():
    expected = 3.0 if path == "head/kernel" else 0.03 if path.endswith("kernel") else 0.0
    assert value == expected, path
  assert {p for p in params if p.startswith("head")} == {"head/kernel", "head/bias"}
