"""How does CIFAR-10 error fall with compute? Five small ViTs, each one trunk with cooldowns.

  python -m vit_jax.main --config configs/cifar10_ladder.py --workdir results/cifar10
  python -m scaling.fit results/cifar10

About 5e13 FLOPs: an hour on two CPU cores. With an accelerator, extend the branches and add sizes.
"""

from ml_collections import ConfigDict


def _rung(width: int, depth: int, learning_rate: float, branches: tuple[int, ...]) -> dict:
  return dict(
    model=dict(name=f"ViT-w{width}d{depth}/4"),
    optimizer=dict(learning_rate=learning_rate),
    branches=branches,
  )


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      batch_size=128,
      cooldown=0.25,
      model=dict(pool="gap", scan=True),
      data=dict(
        name="cifar10",
        image_size=32,
        train="random_crop(32, pad=4)|flip|normalize('cifar10')",
        eval="normalize('cifar10')",
      ),
      optimizer=dict(name="adamw", weight_decay=((".*kernel.*", 0.05), (".*", 0.0))),
      schedule=dict(name="rsqrt", warmup=100, timescale=500),
      checkpoint_every=500,
      ladder={
        "w16": _rung(16, 4, 4e-3, (250, 500, 1_000, 2_000, 4_000)),
        "w24": _rung(24, 4, 3.5e-3, (250, 500, 1_000, 2_000, 4_000)),
        "w32": _rung(32, 4, 3e-3, (250, 500, 1_000, 2_000, 3_000, 6_000)),
        "w48": _rung(48, 4, 2.5e-3, (250, 500, 1_000, 2_000, 4_000)),
        "w64": _rung(64, 6, 2e-3, (250, 500, 1_000)),
      },
    )
  )
