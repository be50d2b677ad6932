"""What a training step costs on a CPU, beside the same step of bare Flax + Optax and of PyTorch.

  python benchmarks/cpu_step.py [--rounds 5 --steps 2 --models small Ti/16 S/16]

Every contender is a process of its own, with one batch that is already on the device; they take
turns, a few steps each, while the others wait. Prints the medians over the rounds of seconds a
step and of processor seconds a step (of all threads; what counts where others share the machine),
and both as multiples of the peers'. Ours is `job.train_step` with AdamW and clipping, with the
memory that the command line asks for (vit_jax/host_memory.py), unrolled and as a scan over the
layers; bare Flax is measured with the same memory and with what the system gives unasked. PyTorch
is left out where it is not installed (`pip install timm`).

The first step of a turn is not measured. A virtual machine gives memory that lies free for a
second or two back to its host, and the step after that waits for all of it: three seconds for a
ViT-Ti/16 that takes one. Who trains never waits for others' turns, so never pays that.
"""

import argparse
import dataclasses
import importlib.util
import math
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

import cpu_step_peers as peers

from vit_jax import host_memory


@dataclasses.dataclass(frozen=True)
class Shape:
  """A model, a batch, and seconds a step of peers on 2 cores of another day's machine."""

  image_size: int
  batch: int
  width: int
  depth: int
  num_heads: int
  patch_size: int
  big_vision: float
  timm: float

  @property
  def mlp_dim(self) -> int:
    """As in every ViT here."""
    return 4 * self.width


SHAPES = {
  "small": Shape(32, 128, 192, 6, 3, 4, big_vision=1.45, timm=1.05),
  "Ti/16": Shape(224, 32, 192, 12, 3, 16, big_vision=2.6, timm=1.73),
  "S/16": Shape(224, 8, 384, 12, 6, 16, big_vision=1.68, timm=1.40),
}
# The peers of a run; the targets are at most 1.03 and 1.0 times their seconds a step.
PEERS = ("bare, same memory", "bare", "timm")
# Those that have the memory that the command line asks for.
ASKING = ("ours", "ours, scan", "bare, same memory")


def job_of(shape: Shape, scan: bool):
  """Returns the job of a training run with this model."""
  from vit_jax import config as config_lib
  from vit_jax import job as job_lib

  size = shape.image_size
  model = {k: getattr(shape, k) for k in ("width", "depth", "mlp_dim", "num_heads")}
  config = config_lib.resolve(
    dict(
      total_steps=1000,
      batch_size=shape.batch,
      model=dict(name=f"ViT-mu/{shape.patch_size}", scan=scan, **model),
      optimizer=dict(weight_decay=((".*kernel.*", peers.WEIGHT_DECAY), (".*", 0.0))),
      data=dict(
        name=f"synthetic(size={size}, train_size=256, test_size=8)",
        image_size=size,
        split="train",
        train="value_range(-1, 1)",
      ),
    )
  )
  return job_lib.build(config, "cpu step")


def our_step(shape: Shape, scan: bool) -> peers.Steps:
  """Makes the step of a training run."""
  import jax

  job = job_of(shape, scan)
  batch, state = next(job.batches(0)), job.create_state()

  def run(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, metrics = job.train_step(state, batch)
    jax.block_until_ready((state, metrics))

  return run


def peer_step(make, shape: Shape) -> peers.Steps:
  """Makes the step of a peer, on the batch that ours has."""
  import numpy as np

  batch = next(job_of(shape, False).batches(0))
  return make(shape, np.asarray(batch["image"]), np.asarray(batch["label"]))


CONTENDERS = {
  "ours": lambda shape: our_step(shape, False),
  "ours, scan": lambda shape: our_step(shape, True),
  "bare, same memory": lambda shape: peer_step(peers.bare_step, shape),
  "bare": lambda shape: peer_step(peers.bare_step, shape),
  "timm": lambda shape: peer_step(peers.timm_step, shape),
}


def serve(name: str, shape: Shape, cores: int, pipe: Connection) -> None:
  """Does as many steps as it is told, again and again, and says what they took."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
  run = CONTENDERS[name](shape)
  run(2)  # compiles and warms up
  pipe.send(None)
  while count := pipe.recv():
    run(1)
    wall, processor = time.perf_counter(), time.process_time()
    run(count)
    pipe.send(((time.perf_counter() - wall) / count, (time.process_time() - processor) / count))


def measure(
  shape: Shape, names: list[str], cores: int, rounds: int, steps: int
) -> dict[str, tuple]:
  """Returns the medians (seconds a step, processor seconds a step) of each contender."""
  spawn, pipes, workers = multiprocessing.get_context("spawn"), {}, []
  for name in names:
    pipes[name], end = spawn.Pipe()
    workers.append(spawn.Process(target=serve, args=(name, shape, cores, end), daemon=True))
    given = dict(os.environ)
    if name in ASKING and (value := host_memory.tunables(given)):
      os.environ[host_memory.VARIABLE] = value  # as `python -m vit_jax.main` sets it
    workers[-1].start()
    os.environ.clear()
    os.environ.update(given)
    end.close()
    pipes[name].recv()
  found = {name: [] for name in names}
  for _ in range(rounds):
    for name, pipe in pipes.items():
      pipe.send(steps)
      found[name].append(pipe.recv())
  for pipe, worker in zip(pipes.values(), workers, strict=True):
    pipe.send(0)
    worker.join()
  return {
    name: tuple(statistics.median(column) for column in zip(*values, strict=True))
    for name, values in found.items()
  }


def main() -> None:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument("--rounds", type=int, default=5)
  p.add_argument("--steps", type=int, default=2, help="of each contender in a round")
  p.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
  p.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
  p.add_argument("--cores", type=int, default=2, help="that each contender may use")
  args = p.parse_args()
  os.environ["JAX_PLATFORMS"] = "cpu"
  names = list(args.contenders)
  if "timm" in names and not all(map(importlib.util.find_spec, ("timm", "torch"))):
    names.remove("timm")
    print("timm is not installed: without PyTorch")
  for model in args.models:
    shape = SHAPES[model]
    found = measure(shape, names, args.cores, args.rounds, args.steps)
    print(
      f"{model}: {shape.image_size} px, width {shape.width}, depth {shape.depth}, "
      f"batch {shape.batch}"
    )
    print(f"  {'':19}{'s/step':>8}{'cpu s':>8}" + "".join(f"{'/ ' + x:>21}" for x in PEERS))
    for name, (wall, processor) in found.items():
      ratios = "".join(
        f"{wall / found[x][0]:>14.2f} ({processor / found[x][1]:.2f})" if x in found else f"{'':21}"
        for x in PEERS
      )
      print(f"  {name:19}{wall:8.3f}{processor:8.3f}{ratios}")
    best = min((found[name][0] for name in found if name.startswith("ours")), default=math.nan)
    print(
      f"  of another day, on 2 cores: big_vision {shape.big_vision} s/step, of which ours is "
      f"{best / shape.big_vision:.2f} (target 0.80); timm {shape.timm}, {best / shape.timm:.2f}",
      flush=True,
    )


if __name__ == "__main__":
  main()
