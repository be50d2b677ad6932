"""Do 95% intervals hold the truth 95 times in 100?

    python benchmarks/calibration.py --studies 30

Simulates studies with a known law E = a (x + d)^-b + c: 5 to 30 points over 2 to 5 factors of ten,
log-normal noise of 0.3%, 1% and 3%, with the floor in reach (a third or more of the error at the
largest scale) and out of reach (less than a tenth), and random b and d. Prints, for the profile
intervals of scaling.fit, the share of studies in which each parameter, the law at 4 times the
largest scale and a new measurement there lie inside, with the standard error of that share.
"""

import argparse
import collections

import numpy as np

from scaling import laws
from scaling.solution import Solution

POINTS = (5, 8, 12, 20, 30)
NOISE = (0.003, 0.01, 0.03)
QUANTITIES = (*laws.DOUBLE.parameters, "law at 4x", "measurement at 4x")


def draw(rng, points, in_reach):
  """Returns scales [n] and the true parameters [4]."""
  x = np.geomspace(1.0, 10 ** rng.uniform(2, 5), points)
  b, d = rng.uniform(0.15, 0.6), 10 ** rng.uniform(-0.5, 0.5)
  share = rng.uniform(0.33, 0.8) if in_reach else rng.uniform(0.0, 0.1)
  last = 0.1  # error at the largest scale
  return x, np.array([(1 - share) * last / (x[-1] + d) ** -b, b, share * last, d])


def study(rng, points, noise, in_reach):
  """Returns for each quantity whether its interval holds the truth."""
  x, truth = draw(rng, points, in_reach)
  y = laws.DOUBLE(x, truth) * np.exp(noise * rng.normal(size=points))
  solution = Solution.of(laws.DOUBLE, x, y)
  inside = []
  for name, value in zip(laws.DOUBLE.parameters, truth, strict=True):
    profile = solution.profile(name)
    inside.append(
      (profile.open_low or profile.low <= value) and (profile.open_high or value <= profile.high)
    )
  at = 4 * x[-1:]
  value = laws.DOUBLE(at, truth)
  for target, measurement in ((value, False), (value * np.exp(noise * rng.normal()), True)):
    low, high = solution.interval(at, measurement=measurement)
    inside.append(bool(low[0] <= target[0] <= high[0]))
  return inside


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--studies", type=int, default=20, help="of each of the 30 kinds")
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  rng = np.random.default_rng(options.seed)
  groups = collections.defaultdict(list)
  for points in POINTS:
    for noise in NOISE:
      for in_reach in (False, True):
        rows = [study(rng, points, noise, in_reach) for _ in range(options.studies)]
        for key in (
          "all",
          f"{points} points",
          f"noise {100 * noise:g}%",
          "floor in reach" if in_reach else "floor out of reach",
        ):
          groups[key] += rows
  print(f"{'':20}{'studies':>8}" + "".join(f"{name:>19}" for name in QUANTITIES))
  for key, rows in groups.items():
    share = 100 * np.mean(rows, axis=0)
    error = np.sqrt(share * (100 - share) / len(rows))
    cells = "".join(f"{s:13.1f} ±{e:3.1f}%" for s, e in zip(share, error, strict=True))
    print(f"{key:20}{len(rows):8}{cells}")


if __name__ == "__main__":
  main()
