"""What is a teacher worth to a small DeiT on CIFAR-10? One student without, and with two kinds.

  python -m vit_jax.main --config configs/zoo_cifar10.py --workdir results/zoo --rung BiT
  python -m vit_jax.main --config configs/distill_cifar10.py --workdir results/distill

The argument is the teacher, a run directory (`configs/distill_cifar10.py:results/zoo/CCT`). All
students have the model, data, optimiser, steps and thus training FLOPs (those of the student alone:
1e12, a quarter of the DeiT's of configs/zoo_cifar10.py); that without a teacher learns with both
its heads from the labels, the others with one of them from a residual network that was trained
before (DeiT, 2012.12877, section 4: "hard" its decisions, "soft" its probabilities). Convolutions
are what such a student lacks: the paper's gains are 2.3 points for DeiT-Ti and 1.3 for DeiT-S after
300 epochs of ImageNet, with a teacher of 82.9%.

Measured once, with seed 0, on two CPU cores that other work shared (135 s, 204 s and 199 s), by the
BiT of configs/zoo_cifar10.py (error 46.5%): test error 70.3% alone, 69.7% hard, 68.7% soft. That is
0.6 of an epoch, with one seed: the standard error of such a test is 0.5 points, so that hard and
alone are not told apart, and how much seeds differ is not known.
"""

from ml_collections import ConfigDict

STEPS = 238


def get_config(teacher: str = "results/zoo/BiT") -> ConfigDict:
  """Returns the config of a ladder of three students; `teacher` is a run directory."""
  return ConfigDict(
    dict(
      batch_size=128,
      total_steps=STEPS,
      model=dict(
        name="DeiT-Ti/16-distilled", patch_size=4, width=36, depth=4, mlp_dim=144, drop_path=0.0
      ),
      data=dict(
        name="cifar10",
        image_size=32,
        train="random_crop(32, pad=4)|flip|normalize('cifar10')",
        eval="normalize('cifar10')",
      ),
      optimizer=dict(
        name="adamw", learning_rate=2e-3, weight_decay=((".*kernel.*", 0.05), (".*", 0.0))
      ),
      schedule=dict(name="cosine", warmup=STEPS // 10),
      log_every=25,
      ladder=dict(
        alone=dict(),
        hard=dict(distill=dict(teacher=teacher, kind="hard")),
        soft=dict(distill=dict(teacher=teacher, kind="soft", temperature=2.0)),
      ),
    )
  )
