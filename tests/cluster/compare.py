"""Compares the measurements below two directories, but for clocks and the order of sums.

python tests/cluster/compare.py HERE THERE
"""

import sys
from pathlib import Path

import numpy as np

from vit_jax import measurements

CLOCK = ("run", "device_seconds", "time", "device_count")


def read(root: Path) -> dict:
  found = {}
  for path in sorted(root.rglob(measurements.FILE_NAME)):
    for record in measurements.read(path.parent):
      found[str(path.relative_to(root)), record["step"]] = record
  return found


def main(here: str, there: str) -> int:
  a, b = read(Path(here)), read(Path(there))
  assert a, f"no measurements below {here}"
  assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
  worst = 0.0
  for key, x in a.items():
    y = b[key]
    for name in x.keys() - {*CLOCK, "metrics"}:
      assert x[name] == y[name], (key, name, x[name], y[name])
    for name, value in x["metrics"].items():
      np.testing.assert_allclose(y["metrics"][name], value, rtol=1e-2, err_msg=f"{key} {name}")
      worst = max(worst, abs(y["metrics"][name] - value))
  print(f"{len(a)} measurements are equal; metrics differ by at most {worst:.2g}")
  return 0


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
