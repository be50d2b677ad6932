"""How well are learning curves extrapolated?

    python benchmarks/extrapolation.py CURVES.csv
    python benchmarks/extrapolation.py CURVES.csv --peers M1 M2 M3 M4
    python benchmarks/extrapolation.py CURVES.csv --cross-validate 200

The file has the layout of the benchmark of arXiv 2209.06640: columns curve, Seen Examples, Loss and
Training (1: may be fitted; 0: to be predicted, never shown to a fit). The score of a curve is the
RMS of log prediction - log loss over its points with Training = 0. Prints each curve's score, the
geometric mean, failures and seconds per curve; with peers, also how often each of them is beaten.
One thread: the matrices are small, and on a busy machine more threads only wait for each other.
"""

import argparse
import collections
import csv
import os
import time

# Read once, when NumPy loads its BLAS.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
  os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402
from extrapolation_peers import PEERS  # noqa: E402

from scaling import extrapolate  # noqa: E402
from scaling.errors import DataError  # noqa: E402

FAILURE = 1.0  # score of a curve that gave no finite prediction


def read(path):
  """Returns {curve: (x, y, wanted x, wanted y)} and the training run of every curve."""
  rows = collections.defaultdict(list)
  runs = {}
  with open(path, newline="") as file:
    for row in csv.DictReader(file):
      name = row["curve"]
      rows[name].append([float(row[k]) for k in ("Seen Examples", "Loss", "Training")])
      # One pretraining run gives several curves of a data set: 5, 10, 25 shots.
      data = name.split("|")[1].rsplit("_", 1)[0] if name.count("|") > 1 else name
      runs[name] = (name.split("|")[0], data, name.split("|")[-1])
  curves = {}
  for name, values in rows.items():
    values = np.array(sorted(values))
    seen = values[:, 2] == 1
    curves[name] = (*values[seen, :2].T, *values[~seen, :2].T)
  return curves, runs


def score(predicted, measured):
  """RMS log error; a prediction that is not a positive number is a failure."""
  predicted = np.asarray(predicted, float)
  if not (np.isfinite(predicted).all() and (predicted > 0).all()):
    return np.nan
  return float(np.sqrt(np.mean((np.log(predicted) - np.log(measured)) ** 2)))


def geometric(scores):
  return float(np.exp(np.mean(np.log(np.where(np.isfinite(scores), scores, FAILURE)))))


def averaged(curves):
  """Scores, share of points inside the 95% interval, and seconds, [curves] each."""
  scores, inside, seconds = [], [], []
  for x, y, wanted, measured in curves.values():
    begin = time.perf_counter()
    try:
      found = extrapolate.predict(x, y, wanted)
      predicted, low, high = found.y, found.low, found.high
    except DataError:
      predicted = low = high = np.full(len(wanted), np.nan)
    seconds.append(time.perf_counter() - begin)
    scores.append(score(predicted, measured))
    inside.append(np.mean((measured >= low) & (measured <= high)))
  return np.array(scores), np.array(inside), np.array(seconds)


def sample(rng):
  """Draws settings about as far from each other as one could believe."""
  size, length = np.exp(rng.uniform(-1, 2)), np.exp(rng.uniform(-0.5, 2))
  return extrapolate.Settings(
    tempering=rng.uniform(0.25, 0.7),
    noise_growth=rng.uniform(0.0, 4.0),
    drift_decay=rng.uniform(0.3, 1.6),
    drift_sizes=(size, 10 * size),
    drift_lengths=(length, 3 * length),
    exponent=(rng.uniform(-1.0, 0.3), np.exp(rng.uniform(-1.6, -0.4))),
    shift=(rng.uniform(-8, -3), np.exp(rng.uniform(-0.5, 1.2))),
    floor=(rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.6)),
  )


def cross_validate(curves, runs, count):
  """Chooses settings with whole training runs left out, and scores the runs left out."""
  rng = np.random.default_rng(0)
  candidates = [extrapolate.Settings()] + [sample(rng) for _ in range(count)]
  prepared = []
  for x, y, wanted, measured in curves.values():
    knots = np.geomspace(wanted.min(), wanted.max(), min(16, len(wanted)))
    prepared.append((extrapolate.prepare(x, y, knots), np.log(knots), np.log(wanted), measured))
  table = np.array(
    [
      [
        score(
          np.exp(np.interp(wanted, knots, np.log(extrapolate.average(curve, settings)[0]))),
          measured,
        )
        for curve, knots, wanted, measured in prepared
      ]
      for settings in candidates
    ]
  )
  # Scores below 0.003 are luck (a single point to predict): they must not decide.
  merit = 0.5 * np.log(table**2 + 0.003**2)
  group = np.array([runs[name] for name in curves])
  left_out, default_chosen = np.empty(len(curves)), 0
  for run in {tuple(g) for g in group.tolist()}:
    mine = (group == run).all(axis=1)
    best = int(np.argmin(merit[:, ~mine].mean(axis=1)))
    left_out[mine] = table[best, mine]
    default_chosen += best == 0
  every = [geometric(row) for row in table]
  print(
    f"\n{count} random settings: geometric means from {min(every):.4f} to {max(every):.4f}, "
    f"median {np.median(every):.4f}; the default's {every[0]:.4f}"
  )
  held = len({tuple(g) for g in group.tolist()})
  print(
    f"chosen without a training run, scored on it ({held} runs): "
    f"geometric mean {geometric(left_out):.4f} (the default chosen {default_chosen} times)"
  )
  print(
    f"chosen among the random settings only: {geometric(_choose(merit[1:], table[1:], group)):.4f}"
  )


def _choose(merit, table, group):
  left_out = np.empty(table.shape[1])
  for run in {tuple(g) for g in group.tolist()}:
    mine = (group == run).all(axis=1)
    left_out[mine] = table[int(np.argmin(merit[:, ~mine].mean(axis=1))), mine]
  return left_out


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("curves", help="CSV of the layout described above")
  parser.add_argument(
    "--peers",
    nargs="*",
    default=[],
    choices=list(PEERS),
    help="also run these; M2 and M4 take minutes",
  )
  parser.add_argument(
    "--cross-validate",
    type=int,
    default=0,
    metavar="N",
    help="choose among N random settings with training runs left out",
  )
  options = parser.parse_args()
  curves, runs = read(options.curves)
  scores, inside, seconds = averaged(curves)
  results = {"average": scores}
  print(f"{'average':>9} {'inside':>7}  curve")
  for name, value, share in zip(curves, scores, inside, strict=True):
    print(f"{value:9.4f} {100 * share:6.0f}%  {name}")
  print(
    f"{len(curves)} curves: geometric mean {geometric(scores):.4f}, "
    f"{np.isnan(scores).sum()} failures, {seconds.mean():.3f} s a curve (slowest "
    f"{seconds.max():.3f}); {100 * inside.mean():.0f}% of the points to predict lie in the "
    "95% intervals"
  )
  fitted = [curve[:2] for curve in curves.values()]
  wanted = [curve[2] for curve in curves.values()]
  for peer in options.peers:
    begin = time.perf_counter()
    with np.errstate(all="ignore"):
      predicted = PEERS[peer](fitted, wanted)
    spent = (time.perf_counter() - begin) / len(curves)
    results[peer] = np.array(
      [score(p, curve[3]) for p, curve in zip(predicted, curves.values(), strict=True)]
    )
    failures = np.isnan(results[peer])
    won = scores < np.where(failures, FAILURE, results[peer])
    print(
      f"{peer}: geometric mean {geometric(results[peer]):.4f}, {failures.sum()} failures, "
      f"{spent:.3f} s a curve (side by side); average is better on {won.sum()} of "
      f"{len(won)} curves ({100 * won.mean():.0f}%)"
    )
  if options.cross_validate:
    cross_validate(curves, runs, options.cross_validate)


if __name__ == "__main__":
  main()
