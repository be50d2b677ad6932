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


def write_shapes(path, widths, header="width,train_flops,test_error,run"):
  rng = np.random.default_rng(0)
  lines = [header]
  for width in widths:
    for t in np.geomspace(1e2, 1e6, 8):
      y = laws.SHAPE(np.array([[width, t]]), SHAPE)[0] * np.exp(0.003 * rng.normal())
      lines.append(f"{width},{t},{y / 40},{width}")
  path.write_text("\n".join(lines) + "\n")


def test_command_finds_the_best_width(tmp_path, capsys):
  write_shapes(tmp_path / "m.csv", np.geomspace(40, 40000, 9))
  assert surfaces.main([str(tmp_path / "m.csv"), "--shape", "width", "--at", "1e4"]) == 0
  out = capsys.readouterr().out
  line = next(line for line in out.splitlines() if line.startswith("best width"))
  low, high = (float(v) for v in line.split("95%: ")[1].rstrip(")").split(" … "))
  assert low < surfaces.best_shape(SHAPE, 1e4) < high
  assert "WARNING" not in out


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
