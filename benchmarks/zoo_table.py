"""What each architecture reached at equal compute, as a table in Markdown.

  python -m vit_jax.main --config configs/zoo_cifar10.py --workdir results/zoo
  python benchmarks/zoo_table.py results/zoo [--metric test_error] [--speeds results/zoo_speeds]

Reads the final measurement of every run directory below. Images a second are those of training,
without compilation, evaluation and checkpoints; where the runs shared the machine with other work,
they can be taken from shorter runs that had it for themselves.
"""

import argparse
import sys
from pathlib import Path

from vit_jax import measurements

COLUMNS = "| rung | model | parameters | MFLOPs an image | images seen | images/s | {metric} |"


def finals(directory: Path) -> dict[str, dict]:
  """Returns the final measurement of each run, by the name of its directory."""
  found = {}
  for path in directory.rglob(measurements.FILE_NAME):
    for m in measurements.read(path.parent):
      if m["final"]:
        found[path.parent.name] = m
  return found


def speed(m: dict) -> float:
  return m["images_seen"] / m["device_seconds"] * m["device_count"]


def row(name: str, m: dict, images_per_second: float, value: float) -> str:
  return (
    f"| {name} | {m['model']} | {m['parameters']:,} | {m['flops_per_image'] / 1e6:.1f} "
    f"| {m['images_seen']:,} | {images_per_second:,.0f} | {value:.3f} |"
  )


def main() -> int:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument("directory", type=Path, help="of the runs")
  p.add_argument("--metric", default="test_error", help="(default: %(default)s)")
  p.add_argument("--speeds", type=Path, help="of runs for images/s (default: the same)")
  args = p.parse_args()
  found = {k: m for k, m in finals(args.directory).items() if args.metric in m["metrics"]}
  speeds = finals(args.speeds or args.directory)
  missing = sorted(found.keys() - speeds.keys())
  if not found or missing:
    what = f"{', '.join(missing)} below {args.speeds}" if missing else f"below {args.directory}"
    print(f"error: no final measurement of {args.metric} {what}", file=sys.stderr)
    return 2
  print(COLUMNS.format(metric=args.metric))
  print("|---|---|---:|---:|---:|---:|---:|")
  for name, m in sorted(found.items(), key=lambda item: item[1]["metrics"][args.metric]):
    print(row(name, m, speed(speeds[name]), m["metrics"][args.metric]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
