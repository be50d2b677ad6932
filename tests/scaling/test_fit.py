import doctest
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import scaling.fit
from scaling import fit, laws, predict, summary, surfaces
from scaling.errors import DataError

TRUTH = np.array([0.6, 0.3, 0.12, 0.5])


def curve(points=14, noise=0.01, seed=0):
  x = np.geomspace(0.2, 2e4, points)
  scatter = np.random.default_rng(seed).normal(scale=noise, size=points)
  return x, laws.DOUBLE(x, TRUTH) * np.exp(scatter)


def write_runs(path, seed=0):
  """Four models, each good at a range of compute, below a directory as vit_jax leaves them."""
  x, y = curve(16, seed=seed)
  for k in range(4):
    run = path / f"m{k}"
    run.mkdir(parents=True)
    lines = []
    for i in range(16):
      penalty = 1 + 0.1 * abs(i - 4 * k - 1.5)
      lines.append(
        {
          "run": f"r/m{k}",
          "final": True,
          "model": f"m{k}",
          "train_flops": 1e15 * x[i] * (1 + 0.01 * k),
          "device_kind": "cpu",
          "metrics": {"test_error": min(y[i] * penalty, 1.0)},
        }
      )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "measurements.jsonl").write_text(text + '{"torn')


def test_docstring_example_runs():
  assert doctest.testmod(scaling.fit).failed == 0


def test_intervals_hold_the_truth_and_shrink_with_noise():
  widths = []
  for noise in (0.002, 0.02):
    result = fit.law(*curve(20, noise, seed=1))
    for name, value in zip(laws.DOUBLE.parameters, TRUTH, strict=True):
      low, high = result.estimates[name].interval
      assert low <= value <= high, name
    widths.append(np.subtract(*result.estimates["c"].interval[::-1]))
  assert widths[0] < 0.3 * widths[1]


def test_no_floor_in_reach_is_said_in_words():
  x = np.geomspace(1, 30, 8)
  y = 0.9 * x**-0.2 * np.exp(0.02 * np.random.default_rng(0).normal(size=8))
  result = fit.law(x, y)
  assert not result.estimates["c"].identified
  assert any("the data do not show a floor" in s for s in result.findings())
  assert any(s.startswith("d is not identified") for s in result.findings())


def test_as_many_points_as_parameters_gives_no_intervals():
  result = fit.law(*curve(4))
  assert result.scatter.degrees == 0
  assert "no intervals" in result.findings()[0]
  assert not result.estimates["a"].identified


def test_fewer_points_than_parameters():
  with pytest.raises(DataError, match="3 distinct x for the 4 parameters"):
    fit.law(*curve(3))


def test_measurement_interval_contains_the_laws():
  result = fit.law(*curve())
  at = np.array([0.3, 100.0, 1e6])
  low, high = result.interval(at)
  wide_low, wide_high = result.interval(at, measurement=True)
  assert (wide_low < low).all()
  assert (low < result(at)).all()
  assert (result(at) < high).all()
  assert (high < wide_high).all()


def test_bootstrap_agrees_with_the_profile_on_independent_points():
  result = fit.law(*curve(60, 0.02), frontier="all", resamples=400)
  for estimate in result.estimates.values():
    boot, (low, high) = estimate.bootstrap, estimate.interval
    assert 0.5 < (boot[1] - boot[0]) / (high - low) < 1.6


def test_bootstrap_draws_runs_not_points():
  x, y = curve(60, 0.001)
  run = np.repeat(np.arange(12), 5)
  y = y * np.exp(0.03 * np.random.default_rng(1).normal(size=12))[run]
  together = fit.law(x, y, run=run, frontier="all", resamples=300)
  apart = fit.law(x, y, run=np.arange(60), frontier="all", resamples=300)
  ratio = [np.subtract(*r.estimates["b"].bootstrap) for r in (together, apart)]
  assert ratio[0] / ratio[1] > 1.4


def test_emphasis_makes_the_large_scales_decide():
  x, y = curve(20, 0.0)
  y[:6] *= 1.1  # a bend that the law does not have
  wanted = laws.DOUBLE(np.array([1e5]), TRUTH)
  plain, emphatic = (
    abs(np.log(fit.law(x, y, frontier="all", emphasis=g)(np.array([1e5])) / wanted))[0]
    for g in (0.0, 1.0)
  )
  assert emphatic < 0.5 * plain


def test_edges_of_the_grid_widen_the_interval():
  x, y = curve(12)
  group = np.array(["s"] * 3 + ["m"] * 3 + ["l"] * 3 + ["h"] * 3)
  y[-2:] *= [1.03, 1.09]  # the largest model, trained beyond what it is best for
  y[-1] = min(y[-1], y[-2] * 0.999)
  with_edges = fit.law(x, y, group=group)
  assert with_edges.interior is not None
  low, high = with_edges.estimates["c"].interval
  assert low < with_edges.estimates["c"].profile.low
  assert low <= TRUTH[2] <= high
  assert any("grid's edge" in note for note in with_edges.notes)


@pytest.mark.parametrize(("sizes", "few"), [((5, 2, 5), True), ((3, 6, 3), False)])
def test_too_few_points_between_the_edges_are_told(sizes, few):
  x, y = curve(12)
  (note,) = [n for n in fit.law(x, y, group=np.repeat(["s", "m", "l"], sizes)).notes if "edge" in n]
  assert ("only 4 points lie between the edges" in note) == few


def test_frontier_that_ends_with_the_grid_is_told():
  x, y = curve(12)
  group = np.repeat(["s", "m", "l"], 4)
  told = fit.law(x, y, group=group).notes
  assert any("ends with the longest run of the largest model (l)" in note for note in told)
  worse = np.append(x, 3 * x[-1]), np.append(y, 1.5 * y[-1]), np.append(group, "l")
  assert not any("ends with" in note for note in fit.law(*worse[:2], group=worse[2]).notes)


def test_summary_in_a_notebook_needs_no_forecast():
  text = summary.text(fit.law(*curve()))
  assert "95% interval" in text
  assert "forecast" not in text


def test_command_writes_law_and_figure(tmp_path, capsys):
  write_runs(tmp_path / "results")
  assert fit.main([str(tmp_path / "results"), "--truth", "c=0.12"]) == 0
  out = capsys.readouterr().out
  assert "truth inside the 95% interval" in out
  assert "forecast at train_flops" in out
  law = json.loads((tmp_path / "results" / "law.json").read_text())
  low, high = law["intervals"]["c"]
  assert low <= 0.12 <= high
  assert law["law"] == "double"
  assert set(law["parameters"]) == {"a", "b", "c", "d"}
  assert len(law["data"]) == 64
  assert law["forecast"]["x"] > law["range"][1]
  assert (tmp_path / "results" / "law.png").stat().st_size > 10_000


def test_command_is_deterministic(tmp_path, capsys):
  write_runs(tmp_path)
  texts = []
  for name in ("one", "two"):
    assert fit.main([str(tmp_path), "--out", str(tmp_path / name)]) == 0
    texts.append((tmp_path / name / "law.json").read_text())
  capsys.readouterr()
  assert texts[0] == texts[1]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--y", "test_eror"], "did you mean 'test_error'"),
    (["--group", "modle"], "no column 'modle', did you mean 'model'"),
    (["--truth", "e=1"], "write NAME=VALUE"),
    (["--forecast", "-3"], "must be positive"),
    (["--where", "model=m0", "--where", "train_flops=0"], "no row has train_flops=0"),
    (["--law", "dubble"], "invalid choice: 'dubble'"),
    (["--bootstrap", "-1"], "cannot be negative"),
    (["--huber", "-1"], "must be a positive number"),
    (["--emphasis", "nan"], "must lie within"),
    (["--forecast", "0"], "must be positive"),
    (["--truth", "c=nan"], "write NAME=VALUE"),
    (["--x", "test_error"], "both --x and --y"),
    (["--out", "/dev/null/here"], "--out /dev/null/here: cannot write there"),
  ],
)
def test_mistakes_give_one_line_and_exit_2(tmp_path, capsys, arguments, message):
  write_runs(tmp_path)
  assert fit.main([str(tmp_path), *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


@pytest.mark.parametrize("frontier", ["envelope", "hull", "all"])
def test_an_error_of_zero_is_named_with_the_way_out(tmp_path, capsys, frontier):
  path = tmp_path / "m.csv"
  rows = [*(f"{x},{y}" for x, y in zip(*curve(), strict=True)), "1e30,0"]
  path.write_text("\n".join(["train_flops,test_error", *rows]) + "\n")
  assert fit.main([str(path), "--frontier", frontier]) == 2
  error = capsys.readouterr().err
  assert f"{path}:{len(rows) + 1}: test_error is not positive" in error
  assert error.count("\n") == 1
  if frontier == "all":
    arguments = ["--residual", "linear", "--out", str(tmp_path), "--bootstrap", "0"]
    assert fit.main([str(path), "--frontier", "all", *arguments]) == 0
    assert json.loads((tmp_path / "law.json").read_text())["left_out_error"] is None


def test_binomial_residuals_mind_only_the_points_that_are_fitted(tmp_path, capsys):
  """A failed run, all wrong, is off the frontier; as the cheapest run it is on it."""
  path = tmp_path / "m.csv"
  arguments = ["--residual", "binomial", "--bootstrap", "20", "--out", str(tmp_path)]
  rows = [f"{x},{y}" for x, y in zip(*curve(), strict=True)]
  path.write_text("\n".join(["train_flops,test_error", *rows, "30,1.0"]) + "\n")
  assert fit.main([str(path), *arguments]) == 0
  assert all(json.loads((tmp_path / "law.json").read_text())["bootstrap_intervals"].values())
  path.write_text("\n".join(["train_flops,test_error", *rows, "0.01,1.0"]) + "\n")
  assert fit.main([str(path), *arguments]) == 2
  error = capsys.readouterr().err
  assert f"{path}:{len(rows) + 2}: test_error is not between 0 and 1" in error


def test_a_reader_that_stops_early_costs_no_file(tmp_path):
  write_runs(tmp_path)
  reader, writer = os.pipe()
  os.close(reader)
  fits = [sys.executable, "-m", "scaling.fit", str(tmp_path), "--bootstrap", "0"]
  done = subprocess.run(fits, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
  os.close(writer)
  assert (done.returncode, done.stderr) == (0, "")
  assert json.loads((tmp_path / "law.json").read_text())["law"] == "double"
  assert (tmp_path / "law.png").stat().st_size > 10_000


def test_an_error_that_rises_is_not_blamed_on_x():
  x, y = curve()
  with pytest.raises(DataError, match="does y fall as x grows"):
    fit.law(x, 1 - y)


def test_arrays_must_match_and_hold_points():
  x, y = curve()
  with pytest.raises(DataError, match="differ in length"):
    fit.law(x, y[1:])
  with pytest.raises(DataError, match="no points"):
    fit.law([], [])
  with pytest.raises(DataError, match="two variables"):
    fit.law(x, y, form="shape")
  with pytest.raises(DataError, match="unknown frontier 'hul'"):
    fit.law(x, y, frontier="hul")


@pytest.mark.parametrize("command", [fit, predict, surfaces])
def test_help_teaches_by_example(command, capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(["--help"])
  assert stop.value.code == 0
  assert f"\n  python -m {command.__name__} " in capsys.readouterr().out


def test_module_starts_without_jax_and_without_a_warning():
  code = (
    "import runpy, sys; sys.argv = ['fit', '--help']\n"
    "try: runpy.run_module('scaling.fit', run_name='__main__')\n"
    "except SystemExit: pass\n"
    "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules"
  )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert "Warning" not in done.stderr


def test_the_forecast_lies_beyond_every_measurement():
  """A larger model that is not yet worth its compute reaches further than the frontier."""
  x = np.array([1.0, 2.0, 4.0, 8.0, 3.0, 6.0, 12.0, 100.0])
  y = np.array([0.9, 0.8, 0.7, 0.62, 0.85, 0.65, 0.55, 0.6])
  group = ["a"] * 4 + ["b"] * 3 + ["c"]
  result = fit.law(x, y, group=group, resamples=0)
  assert "c" not in set(result.points.group[result.frontier])
  assert fit.next_scale(result.points, result.frontier) == 200.0
