"""Do the published constants of Scaling Vision Transformers come back from its tables?

    python benchmarks/published_laws.py scaling_vit_points.csv

The file holds the rows of the appendix tables of arXiv 2106.04560 with compute (columns metric,
model, tpuv3_core_days, error). The paper does not say how it fitted; the constants below are those
of its drawn curves (figures 2 and 9). Prints the deviation of each constant for every residual:
no residual brings both laws within 2%, binomial residuals do for 10-shot, log residuals for a, b
and c of fine-tuning.
"""

import argparse

from scaling import fit, measurements, points
from scaling.leastsquares import RESIDUALS, Loss
from scaling.words import figure, span

PUBLISHED = {
  "imagenet_10shot": {"a": 0.63260, "b": 0.31904, "c": 0.12356, "d": 0.51643},
  "imagenet_finetune": {"a": 0.25842, "b": 0.35333, "c": 0.09427, "d": 0.00967},
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("table", help="CSV with columns metric, model, tpuv3_core_days, error")
  options = parser.parse_args()
  table = measurements.read([options.table])
  for metric, published in PUBLISHED.items():
    chosen = points.select(table, x="tpuv3_core_days", y="error", where=[f"metric={metric}"])
    for residual in RESIDUALS:
      found = fit.of_points(chosen, loss=Loss(residual))
      print(f"{metric}, {residual} residuals, {len(found.frontier)} frontier points")
      for name, estimate in found.estimates.items():
        off = 100 * (estimate.value / published[name] - 1)
        low, high = estimate.interval
        inside = "inside" if low <= published[name] <= high else "OUTSIDE"
        text = f"{off:+6.1f}%" if estimate.identified else "not identified"
        print(
          f"  {name} {figure(estimate.value, 4):>8} published "
          f"{figure(published[name], 4):>8} {text:>15}, published value {inside} "
          f"{span(low, high)}"
        )


if __name__ == "__main__":
  main()
