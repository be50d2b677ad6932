import numpy as np
import pytest

from scaling import laws, surfaces
from scaling.leastsquares import Loss

CHINCHILLA = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
SHAPE = np.array([60.0, 0.9, 2e-3, 0.6, 20.0, 0.15, 0.1])


def language_models(noise, seed=0, points=120):
  rng = np.random.default_rng(seed)
  size = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), points))
  x = np.stack([size, size * np.exp(rng.uniform(0, np.log(300), points))], axis=-1)
  y = laws.SIZE_DATA(x, np.array(list(CHINCHILLA.values())))
  return x, y * np.exp(noise * rng.normal(size=points))


def test_size_data_law_comes_back_exactly_without_noise():
  x, y = language_models(0.0)
  fitted = surfaces.surface(laws.SIZE_DATA, x, y, resamples=20)
  for name, value in CHINCHILLA.items():
    assert fitted.parameters[name] == pytest.approx(value, rel=1e-3)


def test_intervals_of_the_size_data_law_hold_the_truth():
  x, y = language_models(0.01)
  fitted = surfaces.surface(laws.SIZE_DATA, x, y, loss=Loss("log", 0.0135), resamples=300)
  for name, (low, high) in fitted.intervals.items():
    assert low < CHINCHILLA[name] < high


def test_no_intervals_without_resamples():
  fitted = surfaces.surface(laws.SIZE_DATA, *language_models(0.0, points=20), resamples=0)
  assert fitted.intervals == {}
  assert "no resamples" in fitted.shortage


def test_optimal_split_is_the_minimum_on_its_budget():
  x, y = language_models(0.0)
  fitted = surfaces.surface(laws.SIZE_DATA, x, y, resamples=20)
  size, data = surfaces.optimal_split(fitted, 1e21)
  assert 6 * size * data == pytest.approx(1e21)
  around = size * np.array([0.8, 0.95, 1.0, 1.05, 1.25])
  losses = fitted(np.stack([around, 1e21 / 6 / around], axis=-1))
  assert np.argmin(losses) == 2


def test_best_shape_is_the_minimum_and_grows_as_the_exponent_says():
  best = surfaces.best_shape(SHAPE, 1e4)
  around = best * np.array([0.8, 0.95, 1.0, 1.05, 1.25])
  values = laws.SHAPE(np.stack([around, np.full(5, 1e4)], axis=-1), SHAPE)
  assert np.argmin(values) == 2
  ratio = surfaces.best_shape(SHAPE, 1e6) / best
  assert ratio == pytest.approx(100 ** surfaces.exponent(SHAPE))


def write_shapes(path, widths, computes=8, run="trunk", y="test_error", scale=1 / 40):
  """Writes a grid; `run` is "trunk" (one to a width), "row" (one to a row) or None (no column)."""
  rng = np.random.default_rng(0)
  lines = [f"width,train_flops,{y}" + (",run" if run else "")]
  for width in widths:
    for t in np.geomspace(1e2, 1e6, computes):
      value = laws.SHAPE(np.array([[width, t]]), SHAPE)[0] * np.exp(0.003 * rng.normal())
      name = {"trunk": f",{width}", "row": f",{len(lines)}", None: ""}[run]
      lines.append(f"{width},{t},{scale * value}{name}")
  path.write_text("\n".join(lines) + "\n")


def advice(path, capsys, *options):
  """Returns what the command prints, and the estimate and the interval's ends of the width."""
  assert surfaces.main([str(path), "--shape", "width", "--at", "1e4", *options]) == 0
  out = capsys.readouterr().out
  line = next(line for line in out.splitlines() if line.startswith("best width"))
  best, _, interval = line.split(": ", 1)[1].partition(" (95%: ")
  return out, float(best), [float(v) for v in interval.rstrip(")").split(" … ") if v]


def test_command_finds_the_best_width(tmp_path, capsys):
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 9))
  out, _, (low, high) = advice(tmp_path / "m.csv", capsys)
  assert low < surfaces.best_shape(SHAPE, 1e4) < high
  assert "WARNING" not in out
  assert "'run'" not in out


@pytest.mark.parametrize(
  ("computes", "run", "reason"),
  [
    (8, "trunk", "only 3 runs to draw from, percentiles would be too narrow: measure 8 or more"),
    (3, "row", "of 300 resamples have fewer distinct points"),
    (3, None, "of 300 resamples have fewer distinct points"),
  ],
)
def test_command_says_why_it_has_no_intervals(tmp_path, capsys, computes, run, reason):
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 3), computes, run)
  out, _, interval = advice(tmp_path / "m.csv", capsys)
  assert interval == []
  assert "…" not in out.partition("WARNING")[0]
  assert "intervals not available: " in out
  assert reason in out


def test_command_names_the_rows_that_it_leaves_out(tmp_path, capsys):
  path = tmp_path / "m.csv"
  write_shapes(path, np.geomspace(40, 40000, 9))
  plain, *found = advice(path, capsys)
  assert "left out" not in plain
  path.write_text(f"{path.read_text()}-3,1e4,0.1,x\n,1e4,0.2,y\n30,1e4,inf,z\n")
  count = len(path.read_text().splitlines())
  out, *again = advice(path, capsys)
  assert again == found
  assert f"m.csv:{count - 2}, " in out
  assert f"m.csv:{count - 1}: width is not a positive number; left out" in out
  assert f"m.csv:{count}: test_error is not a finite number; left out" in out


def test_rows_without_a_run_are_drawn_one_by_one(tmp_path, capsys):
  widths, found = np.geomspace(40, 40000, 4), []
  for run in ("row", None):
    write_shapes(tmp_path / "m.csv", widths, run=run)
    out, best, (low, high) = advice(tmp_path / "m.csv", capsys)
    assert low < best < high
    assert ("intervals take every row without a 'run' for a run of its own" in out) == (not run)
    found.append((low, high))
  assert found[1] == pytest.approx(found[0], rel=0.5)  # of other draws of the same rows


def test_runs_named_alike_at_two_shapes_are_two_runs(tmp_path, capsys):
  """Seeds 1 … 3 at each of 4 widths are 12 runs."""
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 4), computes=9, run=None)
  header, *lines = (tmp_path / "m.csv").read_text().splitlines()
  named = [f"{line},{1 + i % 3}" for i, line in enumerate(lines)]
  (tmp_path / "m.csv").write_text("\n".join([f"{header},run", *named]) + "\n")
  _, best, (low, high) = advice(tmp_path / "m.csv", capsys)
  assert low < best < high


def test_command_takes_per_cent_as_the_refusal_advises(tmp_path, capsys):
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 4), y="test_error", scale=100 / 40)
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "width"]) == 2
  assert "--convert percent" in capsys.readouterr().err
  _, converted, _ = advice(tmp_path / "m.csv", capsys, "--convert", "percent")
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 4))
  _, fraction, _ = advice(tmp_path / "m.csv", capsys)
  assert converted == pytest.approx(fraction, rel=0.01)


def test_command_warns_at_the_edge_and_names_mistakes(tmp_path, capsys):
  write_shapes(tmp_path / "m.csv", np.geomspace(4, 40, 6))
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "width", "--at", "1e6"]) == 0
  assert "grid's edge" in capsys.readouterr().out
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "depth"]) == 2
  assert "no column 'depth'" in capsys.readouterr().err
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "widht"]) == 2
  assert "did you mean 'width'" in capsys.readouterr().err
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "width", "--at", "0"]) == 2
  assert "the compute must be positive" in capsys.readouterr().err
  write_shapes(tmp_path / "m.csv", [10, 20])
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "width"]) == 2
  assert "vary it over at least 3" in capsys.readouterr().err
