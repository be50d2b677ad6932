"""Do estimates of L(N, D) come back without bias, and do their intervals cover?

    python benchmarks/chinchilla.py --studies 40

Simulates 240 runs from the constants of the replication of Chinchilla's third approach (arXiv
2404.10102) with log-normal noise, fits each simulated study as a user would (Huber loss of log
residuals), and prints the mean estimate, its bias in standard errors, and the share of studies
whose 95% bootstrap interval holds the truth.
"""

import argparse
import time

import numpy as np

from scaling import laws, surfaces
from scaling.leastsquares import Loss

TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def simulate(rng, points, noise):
  """Runs like Chinchilla's: 50M to 16B parameters, 5 to 500 tokens per parameter."""
  size = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), points))
  data = size * np.exp(rng.uniform(np.log(1.0), np.log(300.0), points))
  x = np.stack([size, data], axis=-1)
  return x, laws.SIZE_DATA(x, np.array(list(TRUTH.values()))) * np.exp(
    noise * rng.normal(size=points)
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--studies", type=int, default=40)
  parser.add_argument("--points", type=int, default=240)
  parser.add_argument("--noise", type=float, default=0.01, help="sd of log L")
  parser.add_argument("--resamples", type=int, default=400)
  options = parser.parse_args()
  estimates, inside, begin = [], [], time.perf_counter()
  for study in range(options.studies):
    x, y = simulate(np.random.default_rng(study), options.points, options.noise)
    fitted = surfaces.surface(
      laws.SIZE_DATA, x, y, loss=Loss("log", 1.345 * options.noise), resamples=options.resamples
    )
    estimates.append(list(fitted.parameters.values()))
    inside.append([low <= TRUTH[k] <= high for k, (low, high) in fitted.intervals.items()])
  seconds = (time.perf_counter() - begin) / options.studies
  # A and B are log-normally distributed: their bias is judged on the logarithm.
  log = np.log(np.array(estimates) / np.array(list(TRUTH.values())))
  print(
    f"{options.studies} studies of {options.points} points, noise {options.noise:g}, "
    f"{options.resamples} resamples, {seconds:.2f} s a study"
  )
  print(f"{'':6}{'truth':>10}{'median':>10}{'bias':>9}{'in s.e.':>9}{'coverage':>10}")
  for i, (name, truth) in enumerate(TRUTH.items()):
    error = log[:, i].std(ddof=1) / np.sqrt(options.studies)
    print(
      f"{name:6}{truth:10.4g}{truth * np.exp(np.median(log[:, i])):10.4g}"
      f"{100 * log[:, i].mean():8.2f}%{log[:, i].mean() / error:9.2f}"
      f"{100 * np.mean([row[i] for row in inside]):9.0f}%"
    )


if __name__ == "__main__":
  main()
