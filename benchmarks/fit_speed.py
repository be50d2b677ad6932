"""How long fits take: resamples of the saturating law, a whole fit, and the command's start.

    python benchmarks/fit_speed.py

Run with OMP_NUM_THREADS=1 for one core. CPU seconds are printed beside wall-clock seconds, so that
a busy machine shows as the difference.
"""

import subprocess
import sys
import time

import numpy as np

from scaling import bootstrap, fit, laws
from scaling.estimate import Problem


def clocked(work):
  """Returns wall-clock and CPU seconds of the fastest of three calls."""
  best = (np.inf, np.inf)
  for _ in range(3):
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
  return best


def main():
  rng = np.random.default_rng(0)
  x = np.geomspace(1e15, 1e20, 200)
  y = laws.DOUBLE(x, np.array([2e4, 0.3, 0.1, 3e15])) * np.exp(0.02 * rng.normal(size=200))
  run = np.arange(200)
  print(f"{'':58}{'wall s':>8}{'CPU s':>8}{'limit s':>9}")
  for law, limit in ((laws.SATURATING, 3.0), (laws.DOUBLE, 3.0)):
    problem = Problem.of(law, x, y)
    row(
      f"4,000 bootstrap fits of 200 points, {law.formula}",
      limit,
      lambda problem=problem: bootstrap.draw(problem, run, None, 4000),
    )
  row(
    "fit of 200 points with profiles and 1,000 resamples",
    1.0,
    lambda: fit.law(x, y, frontier="all", resamples=1000),
  )
  command = [sys.executable, "-m", "scaling.fit", "--help"]
  row(
    "python -m scaling.fit --help",
    2.0,
    lambda: subprocess.run(command, check=True, capture_output=True),
  )


def row(what, limit, work):
  wall, cpu = clocked(work)
  print(f"{what:58}{wall:8.2f}{cpu:8.2f}{limit:9.1f}")


if __name__ == "__main__":
  main()
