"""Memory and cycles of training on TPUs, by the TPU's own compiler, beside big_vision's.

  pip install libtpu
  python benchmarks/tpu_compile.py [--only v3 --only G/14] [--out results/tpu_compile.jsonl]

Compiles the real train step ahead of time (no TPU is needed) at the settings at which big_vision's
own was measured by the same compiler: map pooling, its modified Adafactor, gradient clip 1.0,
29,593 classes, bfloat16, 32 images per device unless said. A row says GiB of the device's memory
that a step needs, arguments included, and million cycles: the compiler's estimates summed over the
operations, those in loops times their trips (see `vit_jax.compiled.tpu_cycles`). It is an estimate
of what runs on one device without waiting, not a measured time. With --resume a row that --out
holds is not compiled again. --option tries a setting of the compiler, by its name without dashes.
"""

import argparse
import dataclasses
import json
import time
from importlib import metadata
from pathlib import Path

import ml_collections
from jax.errors import JaxRuntimeError

from vit_jax import ahead, cli, compiled
from vit_jax.progress import seconds, track

TOPOLOGIES = {"v3": "v3:2x2", "v4": "v4:2x2x1", "v6e": "v6e:2x2"}
CLASSES = 29_593
CONFIG = f"{Path(__file__).parents[1] / 'configs/vit_g_pretrain.py'}:G/14,unseen"


@dataclasses.dataclass(frozen=True)
class Row:
  """A setting, and what big_vision's step needs there (None: it does not fit, or was not tried).

  Attributes:
    tpu: generation.
    model: name.
    scan: scan with "full" remat, else unrolled with none.
    updates: see `vit_jax.within`.
    batch: per device.
    fsdp: devices over which everything is sharded.
    gib: of big_vision.
    cycles: of big_vision, millions.
  """

  tpu: str
  model: str
  scan: bool = True
  updates: str = "after"
  batch: int = 32
  fsdp: int = 1
  gib: float | None = None
  cycles: float | None = None

  @property
  def key(self) -> str:
    """Names the setting."""
    how = "scan+remat" if self.scan else "unrolled"
    if self.updates == "within":
      how = "updates within"
    sharded = f", sharded over {self.fsdp}" if self.fsdp > 1 else ""
    return f"{self.tpu} ViT-{self.model} {how}, batch {self.batch}{sharded}"


ROWS = (
  Row("v3", "B/16", gib=1.84, cycles=146),
  Row("v4", "B/16", gib=1.74, cycles=51),
  Row("v6e", "B/16", gib=1.79, cycles=47),
  Row("v3", "L/16", gib=4.86, cycles=459),
  Row("v4", "L/16", gib=4.81, cycles=157),
  Row("v6e", "L/16", gib=5.01, cycles=154),
  Row("v3", "L/16", scan=False, gib=9.86, cycles=346),
  Row("v3", "g/14", gib=14.32, cycles=1463),
  Row("v4", "g/14", gib=14.28, cycles=490),
  Row("v6e", "g/14", gib=14.56, cycles=484),
  Row("v3", "g/14", scan=False, gib=13.99, cycles=1284),
  Row("v3", "G/14", fsdp=8, gib=9.11, cycles=4726),
  Row("v3", "G/14", fsdp=8, batch=8, gib=4.81, cycles=1218),
  Row("v4", "G/14", gib=24.52, cycles=831),
  Row("v6e", "G/14", gib=24.72, cycles=878),
  Row("v3", "G/14", updates="within", batch=16),
  Row("v3", "G/14", updates="within"),
  Row("v3", "G/14", updates="within", batch=64),
  Row("v4", "G/14", updates="within", gib=24.52, cycles=831),
  Row("v6e", "G/14", updates="within", gib=24.72, cycles=878),
  Row("v3", "g/14", updates="within", gib=14.32, cycles=1463),
)


def config(row: Row) -> ml_collections.ConfigDict:
  """Returns the run whose step is compiled."""
  changes = {
    "model.name": f"ViT-{row.model}",
    "model.scan": row.scan,
    "model.remat": "full" if row.scan else "none",
    "updates": row.updates,
    "batch_size": row.batch * row.fsdp,
    "mesh.fsdp": row.fsdp,
  }
  return cli.load_config(CONFIG, [f"--config.{key}={value}" for key, value in changes.items()])


def measure(row: Row, options: dict[str, str]) -> dict:
  """Returns the row's JSON: memory, cycles and seconds of compiling, or why it does not fit."""
  start = time.perf_counter()
  versions = {name: metadata.version(name) for name in ("libtpu", "jax")}
  found = {"key": row.key, "options": options, **versions}
  devices = ahead.tpu_devices(TOPOLOGIES[row.tpu])[: row.fsdp]
  try:
    program = ahead.build(config(row), devices, CLASSES).lower()
    program = program.compile(compiler_options=options)
  except JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    return found | {"error": str(e).splitlines()[0]}
  spent = time.perf_counter() - start
  gib = compiled.peak_bytes(program) / 2**30
  return found | {"gib": gib, "cycles": compiled.tpu_cycles(program) / 1e6, "seconds": spent}


def line(row: Row, found: dict) -> str:
  """Returns a line of the table."""
  if "error" in found:
    return f"{row.key:48} does not fit: {found['error'][:90]}"
  text = f"{row.key:48} {found['gib']:6.2f} GiB {found['cycles']:8.1f} Mcycles"
  if row.gib:
    text += f"   big_vision {row.gib:5.2f} / {row.cycles:4.0f}: "
    text += f"{found['gib'] / row.gib:.2f} of its memory, {found['cycles'] / row.cycles:.2f} of its"
    text += " cycles"
  return f"{text}   ({seconds(found['seconds'])} to compile)"


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--only", action="append", default=[], help="rows with all these texts")
  parser.add_argument("--out", type=Path, help="JSON lines to append to")
  parser.add_argument("--resume", action="store_true", help="take from --out what it has")
  parser.add_argument("--option", action="append", default=[], help="NAME=VALUE, for the compiler")
  args = parser.parse_args()
  if wrong := [option for option in args.option if "=" not in option]:
    parser.error(f"--option {wrong[0]}: give NAME=VALUE")
  options = dict(option.split("=", 1) for option in args.option)
  rows = [row for row in ROWS if all(text in row.key for text in args.only)]
  if not rows:
    parser.error(f"no row has --only {' and '.join(args.only)} in {[row.key for row in ROWS]}")
  known = {}
  if args.resume and args.out and args.out.exists():
    held = map(json.loads, args.out.read_text().splitlines())
    known = {j["key"]: j for j in held if j.get("options", {}) == options}
  for row in track(rows, "compiling", len(rows)):
    found = known.get(row.key) or measure(row, options)
    print(line(row, found), flush=True)
    if args.out and row.key not in known:
      with args.out.open("a") as file:
        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
  main()
