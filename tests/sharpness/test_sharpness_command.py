import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import tiny

from vit_jax import measurements, rundir, train
from vit_jax.errors import UserError
from vit_jax.sharpness import __main__ as command
from vit_jax.sharpness import registry
from vit_jax.sharpness.examination import Result, option
from vit_jax.sharpness.store import Store


@dataclasses.dataclass(frozen=True)
class Length:
  """The length of the weights, times a number; counts how often it is asked."""

  name: ClassVar[str] = "length"
  about: ClassVar[str] = "the length of the weights"
  calls: ClassVar[list] = []

  times: float = option(1.0, "what it is multiplied by")
  label: str = option("all", "anything")
  sizes: tuple = option((1, 2), "numbers")
  limit: int | None = option(None, "a number or none")

  def check(self, problem):
    if self.label == "wrong":
      raise UserError("label=wrong does not fit")

  def measure(self, problem, weights, bench):
    self.calls.append(len(problem))
    bench.progress(1, 2, "half")
    if bench.scratch:
      bench.scratch.mkdir(parents=True)  # what is finished leaves nothing there
    squares = jax.tree.map(lambda x: jnp.sum(x * x), weights.params)
    length = self.times * float(jnp.sqrt(sum(jax.tree.leaves(squares))))
    return Result({"all": length}, {"by": "hand"}, {"values": np.array([length])})

  def draw(self, results, directory):
    path = directory / "length.txt"
    path.write_text(" ".join(f"{k}={v.arrays['values'][0]:.3f}" for k, v in results.items()))
    return [path]


@pytest.fixture(autouse=True)
def examination(monkeypatch):
  """The fake examination, under its name, in the place of all others."""
  monkeypatch.setattr(registry, "_CLASSES", {"length": ("nowhere", "Length")})
  monkeypatch.setattr(registry, "find", lambda name: {"length": Length}[name])
  Length.calls.clear()
  return Length.calls


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Two runs that differ in their seeds."""
  root = tmp_path_factory.mktemp("runs")
  for seed in (0, 1):
    train.run(tiny(seed=seed, branches=(), total_steps=4, cooldown=0), root / f"r{seed}", "t")
  return root


def run(*flags):
  return command.main([str(f) for f in flags])


def entries(directory):
  return json.loads((directory / "sharpness.json").read_text())["entries"]


def test_two_runs_side_by_side(runs, tmp_path, capsys, examination):
  flags = ("--workdir", runs / "r0", "--against", runs / "r1", "--examples", 40, "--out", tmp_path)
  run(*flags)
  out = capsys.readouterr().out
  assert "length all" in out
  assert "test_error" in out  # what the runs measured stands beside it
  assert "first / second" in out
  figure = tmp_path / "against_r1" / "length.txt"
  assert f"wrote {figure}" in out
  assert figure.read_text().startswith("r0=")
  (first,), (second,) = entries(tmp_path), entries(tmp_path / "r1")
  assert first["scalars"] != second["scalars"]
  assert (first["examples"], first["step"], first["run"]) == (40, 4, "r0")
  assert first["weights"] != second["weights"]
  assert examination == [40, 40]
  run(*flags)
  assert "is there already" in capsys.readouterr().err
  assert examination == [40, 40]


def test_whatever_numbers_depend_on_is_measured_anew(runs, tmp_path, examination):
  flags = ("--workdir", runs / "r0", "--out", tmp_path, "--examples", 20)
  run(*flags)
  for more in (
    ("--length.times=2",),
    ("--examples", 30),
    ("--seed", 1),
    ("--split", "test"),
    ("--step", 0),
    ("--loss", "training"),
    ("--again",),
  ):
    before = len(examination)
    run(*flags, *more)
    assert len(examination) == before + 1, more
  assert len(entries(tmp_path)) == 7  # --again replaces
  assert not list(tmp_path.glob("unfinished/*"))
  twice, once = entries(tmp_path)[0], entries(tmp_path)[-1]
  assert (twice["options"]["times"], once["options"]["times"]) == (2.0, 1.0)
  assert twice["scalars"]["all"] == 2 * once["scalars"]["all"]


def test_lost_arrays_are_measured_anew(runs, tmp_path, examination):
  flags = ("--workdir", runs / "r0", "--out", tmp_path, "--examples", 20)
  run(*flags)
  (file,) = tmp_path.glob("length-*.npz")
  file.write_bytes(file.read_bytes()[:50])
  run(*flags)
  assert len(examination) == 2
  assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--what", "lenght"), "unknown examination 'lenght': did you mean 'length'"),
    (("--length.tims=2",), "unknown option of length 'tims': did you mean 'times'"),
    (("--length.times=two",), "length.times must be a value such as 1.0, got 'two'"),
    (("--examples", "100000"), "100000 examples of synthetic.* are asked for"),
    (("--batch_size", "0"), "batch_size must be an integer in"),
    (("--step", "3"), "no checkpoint of step 3"),
    (("--what", "length", "--length.label=wrong"), "label=wrong does not fit"),
    (("--config.seed=1",), "unexpected '--config.seed=1': a run's config is in its directory"),
    (("--config", "x.py"), "give --workdir DIR .* or --config FILE.py"),
  ],
)
def test_mistakes_are_named(runs, tmp_path, monkeypatch, flags, message):
  real = registry.make
  monkeypatch.setattr(registry, "find", lambda name: Length if name == "length" else _unknown(name))
  monkeypatch.setattr(registry, "make", real)
  with pytest.raises(UserError, match=message):
    run("--workdir", runs / "r0", "--out", tmp_path, *flags)


def _unknown(name):
  from vit_jax.errors import unknown

  raise unknown("examination", name, ["length"])


def test_what_does_not_fit_is_left_out_unless_asked_for(runs, tmp_path, capsys):
  run("--workdir", runs / "r0", "--out", tmp_path, "--length.label=wrong")
  assert "length is left out: label=wrong does not fit" in capsys.readouterr().err
  assert not (tmp_path / "sharpness.json").exists()


def test_a_second_process_waits_its_turn(runs, tmp_path):
  with rundir.lock(tmp_path), pytest.raises(rundir.Locked):
    run("--workdir", runs / "r0", "--out", tmp_path)


def test_damaged_results_are_named_and_kept(runs, tmp_path):
  (tmp_path / "sharpness.json").write_text("{")
  with pytest.raises(UserError, match="sharpness.json cannot be read .* move it away"):
    run("--workdir", runs / "r0", "--out", tmp_path)
  assert (tmp_path / "sharpness.json").read_text() == "{"


def test_options_take_the_types_of_their_defaults():
  made = registry.make("length", {"times": "2", "sizes": "(3,)", "limit": "5", "label": "7"})
  assert made == Length(times=2.0, sizes=(3,), limit=5, label="7")
  assert registry.make("length", {"sizes": [4, 5], "limit": None}).sizes == (4, 5)
  for key, value in (("times", "x"), ("times", True), ("label", 3)):
    with pytest.raises(UserError, match=f"length.{key} must be"):
      registry.make("length", {key: value})
  assert "--length.times=1.0  what it is multiplied by" in registry.describe()


def test_numbers_survive_the_disk(tmp_path):
  store, identity = Store(tmp_path), {"what": "length", "step": 3}
  assert store.find(identity) is None
  result = Result({"a": 1 / 3}, {"b": [1, None]}, {"c": np.arange(3, dtype=np.int8)})
  store.write(identity, result, seconds=1.5)
  found = store.find(identity)
  assert (found.scalars, found.details) == (result.scalars, result.details)
  np.testing.assert_array_equal(found.arrays["c"], result.arrays["c"])
  assert found.arrays["c"].dtype == np.int8
  assert store.find({**identity, "step": 4}) is None
  with pytest.raises(ValueError, match="JSON"):
    store.write(identity, Result({"a": float("nan")}))
  assert store.find(identity).scalars == result.scalars


def test_an_examination_along_training(tmp_path, examination):
  entry = dict(type="sharpness", what="length", options=dict(times=2.0), examples=30, every=2)
  test = dict(type="classification", split="test[:40]")
  config = tiny(branches=(), total_steps=4, cooldown=0, evaluators=dict(length=entry, test=test))
  train.run(config, tmp_path, "t")
  found = measurements.read(tmp_path)
  assert [m["step"] for m in found] == [2, 4]
  assert all(m["metrics"]["length_all"] > 0 for m in found)
  assert found[1]["extra"]["protocol"]["length"]["options"]["times"] == 2.0
  assert Path(tmp_path, "measurements.jsonl").exists()
  assert set(examination) == {30}
