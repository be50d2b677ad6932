"""How long ViT-G/14 takes from the command to the first step: import, build, trace, lower, compile.

  python benchmarks/compile_time.py [--backends cpu v3:2x2 v4:2x2x1 v5e:2x2 v6e:2x2]
    [--model G/14] [--batch 8] [--unrolled]

The config is configs/vit_g_pretrain.py with a scan over the layers and remat, per-device batch 8,
the state sharded over all devices of a slice. Everything is from shapes: nothing is allocated, so a
machine that could not hold the model can say how long it compiles. Each backend is compiled in a
process of its own, one after the other; TPUs need libtpu, not a TPU. Seconds are of the clock and,
beside them, of the processors (all threads), which other work on the machine changes less.
"""

import argparse
import json
import os
import subprocess
import sys
import time

PHASES = ("import", "build", "trace", "lower", "compile")


def clocks() -> tuple[float, float]:
  return time.perf_counter(), time.process_time()


def measure(backend: str, model: str, batch: int, scan: bool) -> dict:
  """Returns (seconds, processor seconds) of each phase, in this process, and the memory."""
  marks = [clocks()]
  import jax  # noqa: PLC0415  (what it takes is measured)

  from vit_jax import ahead, cli, compiled  # noqa: PLC0415

  marks.append(clocks())
  devices = jax.devices("cpu")[:1] if backend == "cpu" else ahead.tpu_devices(backend)
  overrides = ["--config.mesh.fsdp=-1", "--config.mesh.data=1"]
  overrides += [f"--config.batch_size={batch * len(devices)}", f"--config.model.scan={scan}"]
  path = f"configs/vit_g_pretrain.py:{model},unseen"
  job = ahead.build(cli.load_config(path, overrides), devices, num_classes=29_593)
  job.target  # noqa: B018 - is made and kept
  marks.append(clocks())
  traced = job.trace()
  marks.append(clocks())
  lowered = traced.lower()
  marks.append(clocks())
  problem, memory = None, None
  try:
    memory = compiled.peak_bytes(lowered.compile())
  except jax.errors.JaxRuntimeError as e:
    problem = str(e).splitlines()[0]
  marks.append(clocks())
  spent = {
    phase: [b - a for a, b in zip(marks[i], marks[i + 1], strict=True)]
    for i, phase in enumerate(PHASES)
  }
  return dict(spent=spent, memory=memory, problem=problem, devices=len(devices))


def main() -> None:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument(
    "--backends", nargs="+", default=["cpu", "v3:2x2", "v4:2x2x1", "v5e:2x2", "v6e:2x2"]
  )
  p.add_argument("--model", default="G/14", choices=("g/14", "G/14"))
  p.add_argument("--batch", type=int, default=8, help="images a device")
  p.add_argument("--unrolled", action="store_true", help="without the scan")
  p.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
  args = p.parse_args()
  if args.one:
    print(json.dumps(measure(args.backends[0], args.model, args.batch, not args.unrolled)))
    return
  print(f"ViT-{args.model}, {args.batch} images a device; seconds (of all processors together)")
  heads = (*PHASES, "in all")
  print(
    f"{'backend':10}" + "".join(f"{head:>14}" for head in heads) + "   GiB a device", flush=True
  )
  # The compiler's cache would make the second run a fast one.
  env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
  for backend in args.backends:
    command = [sys.executable, __file__, "--one", "--backends", backend, "--model", args.model]
    command += ["--batch", str(args.batch), *(["--unrolled"] if args.unrolled else [])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
      reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
      print(f"{backend:10}  {reason}", flush=True)
      continue
    found = json.loads(done.stdout.splitlines()[-1])
    spent = [found["spent"][phase] for phase in PHASES]
    spent.append([sum(s) for s in zip(*spent, strict=True)])
    memory = found["problem"] or f"{found['memory'] / 2**30:.2f}"
    cells = "".join(f"{f'{a:.1f} ({b:.1f})':>14}" for a, b in spent)
    print(f"{backend:10}{cells}   {memory}", flush=True)


if __name__ == "__main__":
  main()
