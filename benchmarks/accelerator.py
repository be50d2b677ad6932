"""How fast we train on this accelerator: images/s, share of its peak, what each setting is worth.

  python benchmarks/accelerator.py [--models Ti/16 S/16 B/16 L/16 g/14] [--parts matmul batch
    variants peer] [--variants NAME ...] [--out results/accelerator.jsonl]
  python benchmarks/accelerator.py --models mu/16 --batch 8 --steps 2 --rounds 1 --matmul 256

The train step of configs/vit_g_pretrain.py (bfloat16, modified Adafactor, clipping, sigmoid loss)
at 224 px with 1,000 classes, on a batch that is on the device already. The parts, in this order:

  matmul    FLOP/s of a large product in bfloat16: what the device gives, not what its maker says
  batch     powers of two until one does not fit, or --max_batch; the fastest is the best
  variants  at the best batch: remat, no scan, attention, fused QKV, padded tokens, AdamW, XLA flags
            (benchmarks/accelerator_variants.py lists them), each in a process of its own
  peer      timm with torch.compile, bfloat16 autocast and fused AdamW, on the same GPU, batches as
            ours; skipped where torch, timm or CUDA is not there

Utilisation is three times the published FLOPs of the forward pass (2106.04560, table 2; else those
that we count) over the maker's peak, and over the product's rate. What is measured is in --out at
once, a line each, and is not measured again by the same command: so a run may be stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_ENVIRONMENT = dict(os.environ)
os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which must leave the device to the others

from accelerator_variants import BASE, VARIANTS  # noqa: E402

from vit_jax import devices  # noqa: E402
from vit_jax.progress import Bar  # noqa: E402

FOLDER = Path(__file__).parent
FIRST = {"Ti/16": 128, "S/16": 64, "B/16": 32, "L/16": 16, "g/14": 8}  # of the search
PEER = "timm + torch.compile"
TOO_LARGE = "out of memory"  # as the scripts below have it
# GFLOPs of the forward pass at 224 px: "Scaling Vision Transformers" (2106.04560), table 2.
PUBLISHED = {"Ti/16": 2.5, "S/16": 9.2, "B/16": 35.1, "L/16": 122.9, "g/14": 533.1}


class Record:
  """The lines of --out: what there is, and what comes."""

  def __init__(self, path):
    self._path, self.lines = path, []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      data = path.read_bytes()
      whole = data[: data.rfind(b"\n") + 1]  # without what a kill left of a line
      os.truncate(path, len(whole))
      self.lines = [json.loads(line) for line in whole.splitlines()]

  def add(self, line):
    self.lines.append(line)
    with self._path.open("a") as f:
      f.write(json.dumps(line) + "\n")
      f.flush()
      os.fsync(f.fileno())

  def of(self, model, variant, size):
    """Returns batch -> line."""
    key = (model, variant, size)
    return {m["batch"]: m for m in self.lines if (m["model"], m["variant"], m["size"]) == key}

  def best(self, model, variant, size):
    found = [m for m in self.of(model, variant, size).values() if "error" not in m]
    return max(found, key=lambda m: m.get("images_per_second", 0), default=None)


def child(script, *args, flags=""):
  """Yields the records of a script as they come; a last one with an error where it fails."""
  env = dict(_ENVIRONMENT)
  env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}".strip()
  env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
  command = [sys.executable, str(FOLDER / script), *map(str, args)]
  with tempfile.TemporaryFile("w+") as errors:
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
      for line in process.stdout:
        if line.startswith("{"):
          yield json.loads(line)
      process.wait()
    finally:
      process.kill()  # where we are stopped; else it has ended
      process.wait()
    if process.returncode:
      errors.seek(0)
      said = [line for line in errors.read().splitlines() if line.strip()]
      yield dict(error=said[-1][:200] if said else f"exit code {process.returncode}")


def is_settled(line):
  """Whether it would be the same if measured again: other failures are tried again."""
  return line.get("error") in (None, TOO_LARGE)


def measure(record, bar, args, model, variant, batches):
  """Measures batches, smallest first, up to the first that does not fit."""
  known = {b: m for b, m in record.of(model, variant, args.size).items() if is_settled(m)}
  too_large = min((b for b, m in known.items() if "error" in m), default=float("inf"))
  left = [b for b in sorted(batches) if b not in known and b < too_large]
  if not left:
    return
  what, numbers = f"{model}  {variant}", (args.size, args.steps, args.rounds, *left)
  bar.update(0, len(left), what)
  if variant == PEER:
    found = child("accelerator_peer.py", model, *numbers)
  else:
    flags = VARIANTS[variant].flags
    found = child("accelerator_step.py", model, variant, *numbers, flags=flags)
  for i, line in zip(range(len(left)), found, strict=False):  # a failure at exit is none
    record.add(dict(model=model, variant=variant, size=args.size, batch=left[i]) | line)
    bar.update(i + 1, len(left), what)


def measure_matmul(record, bar, n):
  if not record.of("matmul", "bfloat16", n):
    bar.update(0, 1, "matmul")
    for line in child("accelerator_step.py", "matmul", n):
      record.add(dict(model="matmul", variant="bfloat16", size=n, batch=n) | line)


def has_peer():
  check = "import timm, torch, sys; sys.exit(not torch.cuda.is_available())"
  command = [sys.executable, "-c", check]
  return not subprocess.run(command, capture_output=True, check=False).returncode


def measure_model(record, bar, args, model, peer):
  if args.batch:
    batches = [args.batch]
  else:
    first = FIRST.get(model, 8)
    batches = [b for b in (first * 2**i for i in range(12)) if b <= args.max_batch]
  if "batch" in args.parts:
    measure(record, bar, args, model, BASE, batches)
  best = record.best(model, BASE, args.size)
  if "variants" in args.parts and best:
    for variant in args.variants:
      batch = best["batch"]
      more = [2 * batch] if "remat" in variant and not args.batch else []
      measure(record, bar, args, model, variant, [batch, *more])
      if record.of(model, variant, args.size)[batch].get("error") == TOO_LARGE and batch > 1:
        measure(record, bar, args, model, variant, [batch // 2])
  if peer:
    measure(record, bar, args, model, PEER, batches)


HEADS = (
  *("model", "variant", "batch", "ms/step", "images/s"),
  *("of peak", "of matmul", "compile", "GiB"),
)
WIDTHS = (7, 26, 7, 10, 11, 9, 11, 10, 8)


def row(line, rate):
  """Returns a line of the table; `rate` is the measured FLOP/s of a product, if known."""
  first = [line["model"], line["variant"], str(line["batch"])]
  if "error" in line:
    return [*first, line["error"]]
  published = PUBLISHED.get(line["model"]) if line["size"] == 224 else None
  forward = published * 1e9 if published else line.get("forward_flops")
  per_device = line["images_per_second"] / line["devices"]
  peak, memory = devices.peak_flops(line["device"]), line.get("peak_bytes")
  shares = [f"{3 * forward * per_device / m:.1%}" if m and forward else "-" for m in (peak, rate)]
  return [
    *first,
    f"{line['seconds'] * 1e3:.1f}",
    f"{line['images_per_second']:.1f}",
    *shares,
    f"{line['compile_seconds']:.0f} s",
    f"{memory / 2**30:.1f}" if memory else "-",
  ]


def show(record, args):
  product = record.best("matmul", "bfloat16", args.matmul)
  rate = product and product["flops"]
  known = [m for m in record.lines if m["size"] == args.size and m["model"] in args.models]
  if known:
    told = next((m for m in [product, *known] if m and "device" in m), {})
    print(f"{told.get('devices', '?')} x {told.get('device', '?')}, {told.get('version', '')}")
  if rate:
    peak = devices.peak_flops(product["device"])
    share = f", {rate / peak:.1%} of the maker's peak" if peak else ""
    print(f"matmul {args.matmul}: {rate / 1e12:.2f} TFLOP/s{share}")
  for cells in [HEADS, *(row(m, rate) for m in known)]:
    words = zip(cells, WIDTHS, range(len(cells)), strict=False)
    print("".join(c.ljust(w) if i < 2 else c.rjust(w) for c, w, i in words))
  for model in args.models:
    ours = [record.best(model, v, args.size) for v in VARIANTS]
    ours, peer = [m for m in ours if m], record.best(model, PEER, args.size)
    if ours and peer:
      best = max(ours, key=lambda m: m["images_per_second"])
      ratio = best["images_per_second"] / best["devices"] / peer["images_per_second"]
      print(f"{model}: '{best['variant']}' is {ratio:.2f} times as fast as {PEER}, a device")


def main():
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parts = ("matmul", "batch", "variants", "peer")
  others = [v for v in VARIANTS if v != BASE]
  p.add_argument("--models", nargs="+", default=list(FIRST))
  p.add_argument("--parts", nargs="+", default=parts, choices=parts)
  p.add_argument("--variants", nargs="+", default=others, choices=others, metavar="NAME")
  p.add_argument("--batch", type=int, help="images a device; no search")
  p.add_argument("--max_batch", type=int, default=1024)
  p.add_argument("--size", type=int, default=224, help="pixels")
  p.add_argument("--steps", type=int, default=20)
  p.add_argument("--rounds", type=int, default=3, help="of so many steps; their median counts")
  p.add_argument("--matmul", type=int, default=8192, metavar="N")
  p.add_argument("--out", type=Path, default=Path("results/accelerator.jsonl"))
  args = p.parse_args()
  record, peer = Record(args.out), "peer" in args.parts
  if peer and not has_peer():
    peer = False
    print(f"{PEER}: skipped, it needs torch, timm and CUDA")
  try:
    with Bar("benchmark") as bar:
      if "matmul" in args.parts:
        measure_matmul(record, bar, args.matmul)
      for model in args.models:
        measure_model(record, bar, args, model, peer)
  except KeyboardInterrupt:
    print("stopped; the same command goes on")
  show(record, args)


if __name__ == "__main__":
  main()
