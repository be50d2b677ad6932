"""DeiT by its own names against timm: tokens in their order, two heads in training, their mean.

The same tensors are compared with NumPy among those of the ViT.
"""

import numpy as np
import parity
import pytest

from vit_jax import models
from vit_jax.pretrained.vit import FORMATS

pytestmark = pytest.mark.torch
TIMM = FORMATS[0]


def assert_equal_timm(module, model):
  state, images = parity.perturb(module), parity.images_for(model)
  expected = parity.torch_logits(module, images)
  got = parity.outputs_of(model, TIMM.rules(model), state, images)
  np.testing.assert_allclose(got.logits / expected.std(), expected / expected.std(), atol=5e-5)
  parity.assert_round_trip(model, TIMM.rules(model), state)
  return state, images, got


def test_shrunken_equals_timm_in_evaluation_and_training():
  timm = pytest.importorskip("timm")
  import torch

  module = timm.models.deit.VisionTransformerDistilled(
    img_size=12, patch_size=4, num_classes=64, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2
  )
  model = models.create(
    "DeiT-Ti/16-distilled",
    **dict(width=24, depth=3, num_heads=3, mlp_dim=48, patch_size=4),
    **dict(num_classes=64, image_size=12, drop_path=0.0),
  )
  state, images, _ = assert_equal_timm(module, model)
  module.distilled_training = True
  with torch.no_grad():
    both = module.train()(torch.tensor(images).permute(0, 3, 1, 2))
  got = parity.outputs_of(model, TIMM.rules(model), state, images, train=True)
  for ours, theirs in zip((got.logits, got.distilled_logits), both, strict=True):
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=5e-5)
  assert np.abs(got.logits - got.distilled_logits).max() > 0.1


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    ("dist_token", "cls_token"),
    ("head_dist.weight", "head.weight"),
  ],
)
def test_exchanged_tensors_are_seen(ours, theirs):
  timm = pytest.importorskip("timm")
  module = timm.models.deit.VisionTransformerDistilled(
    img_size=8, patch_size=4, num_classes=64, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2
  )
  model = models.create(
    "DeiT-Ti/16-distilled",
    **dict(width=24, depth=2, num_heads=3, mlp_dim=48, patch_size=4),
    **dict(num_classes=64, image_size=8),
  )
  state, images, got = assert_equal_timm(module, model)
  state[ours], state[theirs] = state[theirs], state[ours]
  wrong = parity.outputs_of(model, TIMM.rules(model), state, images)
  assert np.abs(wrong.logits - got.logits).max() > 1e-2 * got.logits.std()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "theirs"),
  [
    ("DeiT-Ti/16", "deit_tiny_patch16_224"),
    ("DeiT-Ti/16-distilled", "deit_tiny_distilled_patch16_224"),
  ],
)
def test_full_size_equals_timm(name, theirs):
  timm = pytest.importorskip("timm")
  model = models.create(name, num_classes=1000, image_size=224)
  assert_equal_timm(timm.create_model(theirs), model)
