"""What a step with SAM costs, as a multiple of a plain one.

  python benchmarks/sam_cost.py [--width 192 --depth 4 --batch 64 --rounds 3]

Times the compiled steps in turns, on one batch that is already on the device, and prints the median
of each kind over the plain step's. The targets are at most 2.0 for SAM, and 1.25 for LookSAM with
an ascent every 5 steps.
"""

import argparse
import statistics
import time

import jax

from vit_jax import config as config_lib
from vit_jax import job as job_lib

KINDS = {
  "plain": {},
  "sam": dict(kind="sam", rho=0.1),
  "sam, m = batch / 2": dict(kind="sam", rho=0.1, m=0),
  "sam, only norm": dict(kind="sam", rho=0.1, only="norm"),
  "gsam": dict(kind="gsam", rho=0.1),
  "looksam, every 5": dict(kind="looksam", rho=0.1, every=5),
}


def main() -> None:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument("--width", type=int, default=192)
  p.add_argument("--depth", type=int, default=4)
  p.add_argument("--batch", type=int, default=64)
  p.add_argument("--steps", type=int, default=5, help="a multiple of 5")
  p.add_argument("--rounds", type=int, default=3)
  args = p.parse_args()
  runs = {}
  for name, sam in KINDS.items():
    config = config_lib.resolve(
      dict(
        total_steps=1000,
        batch_size=args.batch,
        sam={**sam, **(dict(m=args.batch // 2) if "m" in sam else {})},
        model=dict(
          name="ViT-mu/4",
          width=args.width,
          depth=args.depth,
          mlp_dim=4 * args.width,
          num_heads=max(1, args.width // 64),
          scan=True,
        ),
        data=dict(
          name="synthetic(size=32, train_size=1024)",
          image_size=32,
          split="train",
          train="value_range(-1, 1)",
        ),
      )
    )
    job = job_lib.build(config, name)
    batch = next(job.batches(0))
    state = jax.block_until_ready(job.train_step(job.create_state(), batch)[0])
    runs[name] = (job.train_step, batch, state)
  seconds = {name: [] for name in runs}
  for _ in range(args.rounds):
    for name, (step, batch, state) in runs.items():
      start = time.perf_counter()
      for _ in range(args.steps):
        state, _ = step(state, batch)
      jax.block_until_ready(state)
      seconds[name].append((time.perf_counter() - start) / args.steps)
      runs[name] = (step, batch, state)
  plain = statistics.median(seconds["plain"])
  for name, values in seconds.items():
    ratio = statistics.median(values) / plain
    print(f"{name:20} {statistics.median(values):.4f} s/step  {ratio:.2f} x plain")


if __name__ == "__main__":
  main()
