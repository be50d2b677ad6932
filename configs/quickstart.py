"""The main job in small: four ViTs, each one trunk with five cooldowns, and the law they follow.

  python -m vit_jax.main --config configs/quickstart.py --workdir results/quickstart
  python -m scaling.fit results/quickstart --truth c=0.18

The data set is made by rule, needs no download, and a fifth of its labels is drawn again over its
ten classes: no classifier errs on less than 0.2 x 0.9 = 18% of the images.
"""

from ml_collections import ConfigDict


def _rung(width: int, depth: int, branches: tuple[int, ...]) -> dict:
  return dict(model=dict(name=f"ViT-w{width}d{depth}/4"), branches=branches)


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      batch_size=128,
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
        "w16": _rung(16, 2, (100, 200, 400, 800, 1_600)),
        "w24": _rung(24, 2, (100, 200, 400, 800, 1_600, 2_400)),
        "w32": _rung(32, 2, (200, 400, 800, 1_600, 2_400)),
        "w48": _rung(48, 2, (400, 800, 1_600, 2_400, 3_600)),
      },
    )
  )
