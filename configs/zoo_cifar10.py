"""Which architecture learns CIFAR-10 best at equal compute? One small model of every family.

  python -m vit_jax.main --config configs/zoo_cifar10.py --workdir results/zoo [--rung CCT]
  python benchmarks/zoo_table.py results/zoo

Every model gets the same training FLOPs (4e12, or `--config configs/zoo_cifar10.py:1e13`), so a
model that is cheaper for an image sees more of them; data, batch size, optimiser and schedule are
the same for all. A few minutes a model on two CPU cores. With an accelerator, use a hundred times
the budget.
"""

from ml_collections import ConfigDict

from vit_jax import flops, models

BATCH_SIZE = 128

# Each sized for 10 to 16 MFLOPs an image. What is not named here is the family's own: the ratio of
# the MLPs, the norms, where dropout and stochastic depth act.
MODELS = {
  "ViT": dict(name="ViT-w36d4/4", pool="gap", num_heads=3),
  "DeiT": dict(name="DeiT-Ti/16-distilled", patch_size=4, width=36, depth=4, mlp_dim=144),
  "Mixer": dict(name="Mixer-S/4", width=48, depth=4, mlp_dim=192, token_mlp_dim=24),
  "ResNet": dict(name="ResNet-50", width=8, depths=(1, 1, 1), stem="cifar"),
  "BiT": dict(name="BiT-R50x1", width=32, depths=(1, 1, 1)),
  "ViT-Lite": dict(name="ViT-Lite-4/4", width=48, mlp_dim=48, num_heads=2),
  "CVT": dict(name="CVT-4/4", width=48, mlp_dim=48, num_heads=2),
  "CCT": dict(name="CCT-4/3x2", width=24, mlp_dim=24, num_heads=2),
  "CaiT": dict(name="CaiT-XXS24", width=36, depth=4, mlp_dim=144, num_heads=3, patch_size=4),
  "Swin": dict(name="Swin-T", width=20, depths=(2, 2), head_dim=10, patch_size=2, window=4),
  "T2T-ViT": dict(
    name="T2T-ViT-7", width=48, depth=4, mlp_dim=96, num_heads=2, token_width=16, strides=(2, 2, 1)
  ),
}


def _steps(model: dict, budget: float) -> int:
  fields = {k: v for k, v in model.items() if k != "name"}
  module = models.create(model["name"], num_classes=10, image_size=32, **fields)
  return round(budget / (3 * flops.model_flops(module, 32) * BATCH_SIZE))


def get_config(budget: str = "4e12") -> ConfigDict:
  def rung(model: dict) -> dict:
    steps = _steps(model, float(budget))
    return dict(model=model, total_steps=steps, schedule=dict(name="cosine", warmup=steps // 10))

  return ConfigDict(
    dict(
      batch_size=BATCH_SIZE,
      data=dict(
        name="cifar10",
        image_size=32,
        train="random_crop(32, pad=4)|flip|normalize('cifar10')",
        eval="normalize('cifar10')",
      ),
      optimizer=dict(
        name="adamw", learning_rate=2e-3, weight_decay=((".*kernel.*", 0.05), (".*", 0.0))
      ),
      log_every=25,
      ladder={name: rung(model) for name, model in MODELS.items()},
    )
  )
