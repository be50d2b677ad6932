"""Two rungs that train in seconds, and one that fails at its first step, for slurm.sh."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      batch_size=32,
      branches=(400, 2_000),
      cooldown=0.25,
      checkpoint_every=200,
      log_every=25,
      model=dict(name="ViT-w16d2/8"),
      data=dict(name="synthetic", image_size=16, split="train[:512]", num_threads=1),
      evaluators=dict(test=dict(type="classification", split="test[:200]")),
      schedule=dict(name="rsqrt", warmup=20, timescale=100),
      ladder=dict(a=dict(seed=0), b=dict(seed=1), fails=dict(optimizer=dict(learning_rate=1e30))),
    )
  )
