"""How does CIFAR-10 error fall with compute? Five small ViTs, each one trunk with six cooldowns.

  python -m vit_jax.main --config configs/cifar10_ladder.py --workdir results/cifar10
  python -m scaling.fit results/cifar10
"""

from ml_collections import ConfigDict


def _rung(width: int, depth: int, learning_rate: float, branches: tuple[int, ...]) -> dict:
  return dict(model=dict(width=width, depth=depth, mlp_dim=4 * width, num_heads=width // 16),
              optimizer=dict(learning_rate=learning_rate), branches=branches)


def get_config() -> ConfigDict:
  return ConfigDict(dict(
      batch_size=128,
      cooldown=0.2,
      model=dict(name="ViT-mu/4", pool="gap", posemb="learn", scan=True),
      data=dict(name="cifar10", image_size=32,
                train="random_crop(32, pad=4)|flip|normalize('cifar10')",
                eval="normalize('cifar10')"),
      schedule=dict(name="rsqrt", warmup=100, timescale=1_000),
      checkpoint_every=500,
      ladder={
          "w32": _rung(32, 4, 3e-3, (250, 500, 1_000, 2_000, 4_000, 8_000)),
          "w48": _rung(48, 4, 2.5e-3, (250, 500, 1_000, 2_000, 4_000, 8_000)),
          "w64": _rung(64, 6, 2e-3, (250, 500, 1_000, 2_000, 4_000, 6_000)),
          "w96": _rung(96, 6, 1.5e-3, (250, 500, 1_000, 2_000, 4_000)),
          "w128": _rung(128, 6, 1.2e-3, (250, 500, 1_000, 2_000, 3_000)),
      },
  ))
