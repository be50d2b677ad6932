"""What each architecture reached at equal compute, as a table in Markdown.

  python -m vit_jax.main --config configs/zoo_cifar10.py --workdir results/zoo
  python benchmarks/zoo_table.py results/zoo [--metric test_error]

Reads the final measurement of every run directory below. Images a second are those of training,
without compilation, evaluation and checkpoints.
"""

import argparse
import sys
from pathlib import Path

from vit_jax import measurements

COLUMNS = "| rung | model | parameters | MFLOPs an image | images seen | images/s | {metric} |"


def rows(directory: Path, metric: str) -> list[tuple[float, str]]:
  out = []
  for path in sorted(directory.rglob(measurements.FILE_NAME)):
    for m in measurements.read(path.parent):
      if m["final"] and metric in m["metrics"]:
        value = m["metrics"][metric]
        speed = m["images_seen"] / m["device_seconds"] * m["device_count"]
        out.append(
          (
            value,
            f"| {m['run']} | {m['model']} | {m['parameters']:,} "
            f"| {m['flops_per_image'] / 1e6:.1f} | {m['images_seen']:,} | {speed:,.0f} "
            f"| {value:.3f} |",
          )
        )
  return sorted(out)


def main() -> int:
  p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  p.add_argument("directory", type=Path, help="of the runs")
  p.add_argument("--metric", default="test_error", help="(default: %(default)s)")
  args = p.parse_args()
  found = rows(args.directory, args.metric)
  if not found:
    print(f"error: no final measurement of {args.metric} below {args.directory}", file=sys.stderr)
    return 2
  print(COLUMNS.format(metric=args.metric))
  print("|---|---|---:|---:|---:|---:|---:|")
  for _, row in found:
    print(row)
  return 0


if __name__ == "__main__":
  sys.exit(main())
