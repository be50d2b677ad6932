"""What the trainer's loop costs over its own compiled step, called bare.

  python benchmarks/train_overhead.py [--width 192 --depth 6 --steps 20 --rounds 3]

Prints seconds a step of the bare function (one batch, already on the device, used again and
again) and of the whole trainer (Grain pipeline, transfer, logging, checkpoint at the end), taken
in turns, and the ratio of the medians. The target is at most 1.03.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax

from vit_jax import config as config_lib
from vit_jax import job as job_lib
from vit_jax import measurements, train


def bare(job: job_lib.Job, steps: int) -> float:
  state, batch = job.create_state(), next(job.batches(0))
  state, metrics = job.train_step(state, batch)
  jax.block_until_ready(state)
  start = time.perf_counter()
  for _ in range(steps):
    state, metrics = job.train_step(state, batch)
  jax.block_until_ready((state, metrics))
  return (time.perf_counter() - start) / steps


def trainer(config, steps: int) -> float:
  with (
    tempfile.TemporaryDirectory() as d,
    open(os.devnull, "w") as null,
    contextlib.redirect_stderr(null),
    contextlib.redirect_stdout(null),
  ):
    train.run(config, Path(d), "benchmark")
    first, last = (m["device_seconds"] for m in measurements.read(Path(d)))
  return (last - first) / (steps * jax.device_count())


def main() -> None:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument("--width", type=int, default=192)
  p.add_argument("--depth", type=int, default=6)
  p.add_argument("--batch", type=int, default=128)
  p.add_argument("--steps", type=int, default=20)
  p.add_argument("--rounds", type=int, default=3)
  args = p.parse_args()
  # Measured twice, at the middle and at the end: the second half is the steady state.
  config = config_lib.resolve(
    dict(
      total_steps=2 * args.steps,
      batch_size=args.batch,
      log_every=10,
      model=dict(
        name="ViT-mu/4",
        width=args.width,
        depth=args.depth,
        mlp_dim=4 * args.width,
        num_heads=max(1, args.width // 64),
        scan=True,
      ),
      data=dict(
        name="synthetic(size=32, train_size=8192)",
        image_size=32,
        split="train",
        train="random_crop(32, pad=4)|flip|value_range(-1, 1)",
      ),
      evaluators=dict(test=dict(type="classification", split="test[:8]", every=args.steps)),
    )
  )
  job = job_lib.build(config, "benchmark")
  pairs = []
  for i in range(args.rounds):
    pairs.append((bare(job, args.steps), trainer(config, args.steps)))
    print(f"round {i + 1}: bare {pairs[-1][0]:.4f} s/step, trainer {pairs[-1][1]:.4f} s/step")
  a, b = (statistics.median(x) for x in zip(*pairs, strict=True))
  print(f"bare {a:.4f} s/step, trainer {b:.4f} s/step, ratio {b / a:.3f} (target <= 1.03)")


if __name__ == "__main__":
  main()
