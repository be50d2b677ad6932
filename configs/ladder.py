"""Is a small ViT better wide or deep? A grid of shapes, each one trunk with four cooldowns.

  python -m scaling.sweep --config configs/ladder.py --workdir results/ladder --dry-run
  python -m scaling.sweep --config configs/ladder.py --workdir results/ladder --grid seed=0,1
  python -m scaling.fit results/ladder

The data set is made by rule, as that of configs/quickstart.py: no download, minutes on a laptop.
"""

from ml_collections import ConfigDict

STEPS = 400  # of the shortest branch


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      batch_size=128,
      branches=tuple(STEPS * 2**i for i in range(4)),
      cooldown=0.25,
      model=dict(pool="gap", scan=True),
      data=dict(
        name="synthetic(glyphs=30, clutter=0.05)",
        image_size=16,
        train="random_crop(16, pad=1)|value_range(-1, 1)",
        eval="value_range(-1, 1)",
      ),
      optimizer=dict(
        name="adamw", learning_rate=3e-3, weight_decay=((".*kernel.*", 0.03), (".*", 0.0))
      ),
      schedule=dict(name="rsqrt", warmup=25, timescale=500),
      log_every=100,
      ladder={
        f"w{width}d{depth}": dict(model=dict(name=f"ViT-w{width}d{depth}/4"))
        for width in (16, 32)
        for depth in (1, 2, 4)
      },
    )
  )
