import pathlib
import subprocess
import sys

import numpy as np

from scaling import laws

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
  done = subprocess.run(
    [sys.executable, str(FOLDER / script), *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_extrapolation_scores_every_curve_and_never_reads_the_answers(tmp_path):
  rng = np.random.default_rng(0)
  outputs = []
  for spoilt in (1.0, 1.5):
    lines = ["curve,Domain,Task,Model,Seen Examples,Loss,Training"]
    for name, floor in (("IC|birds_5|ViT", 0.2), ("IC|birds_10|ViT", 0.1)):
      x = np.geomspace(1e7, 2e9, 40)
      y = laws.DOUBLE(x, np.array([9e4, 0.7, floor, 3e7]))
      y = y * np.exp(0.003 * rng.normal(size=40))
      for a, b in zip(x, y, strict=True):
        seen = a < 1e9
        lines.append(f"{name},IC,birds,ViT,{a},{b * (1 if seen else spoilt)},{int(seen)}")
    rng = np.random.default_rng(0)
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    out = run("extrapolation.py", tmp_path / "curves.csv", "--peers", "M1", "M3")
    assert "2 curves" in out
    assert "0 failures" in out
    assert "M3: geometric mean" in out
    outputs.append([float(line.split()[0]) for line in out.splitlines() if "|ViT" in line])
  assert max(outputs[0]) < 0.02
  # Answers made 1.5 times as large move the score by that, since no fit has seen them.
  np.testing.assert_allclose(outputs[1], np.log(1.5), atol=0.02)
