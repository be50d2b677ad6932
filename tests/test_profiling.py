"""Traces of training steps: that they are of the steps asked for, and change nothing else."""

import gzip
import json
from types import SimpleNamespace

import jax
import pytest
from training import SYNTHETIC, tiny

from vit_jax import measurements, profiling, signals, train
from vit_jax.errors import UserError


def traced(workdir, steps, **changes):
  """Trains; returns the steps in the trace, in order."""
  job = train.prepare(tiny(**changes), workdir, "t")
  with signals.catch() as flag:
    train.execute(job, workdir, flag, traced=steps)
  files = list((workdir / profiling.DIRECTORY).rglob("perfetto_trace.json.gz"))
  if not files:
    return None
  assert len(files) == 1
  events = json.loads(gzip.decompress(files[0].read_bytes()))["traceEvents"]
  assert any("wait for data" in e.get("name", "") for e in events)
  return sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")


def test_a_trace_has_the_steps_asked_for_and_changes_nothing(tmp_path, capsys):
  assert traced(tmp_path / "a", (2, 5)) == [2, 3, 4]
  assert "https://ui.perfetto.dev" in capsys.readouterr().out
  assert traced(tmp_path / "b", None) is None
  with_trace, without = (
    [(m["step"], m["metrics"]) for m in measurements.read(tmp_path / w)] for w in "ab"
  )
  assert with_trace
  assert with_trace == without


def test_what_is_trained_while_a_trace_waits_counts_as_training(tmp_path, monkeypatch):
  clock = [0.0]

  def takes(seconds):
    def spend(*args, **kwargs):
      clock[0] += seconds

    return spend

  monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
  monkeypatch.setattr(jax.profiler, "start_trace", takes(2.0))
  monkeypatch.setattr(jax.profiler, "stop_trace", takes(3.0))
  steps_under_way = SimpleNamespace(block_until_ready=takes(50.0))
  with profiling.Trace((1, 2), tmp_path).begin(10) as trace:
    spent = [trace.at(step, steps_under_way) for step in (10, 11, 12, 13)]
  assert spent == [0.0, 2.0, 3.0, 0.0]


def test_where_many_steps_are_one_call(tmp_path):
  """Calls begin and end where the trace does; how many steps they have depends on their speed."""
  changes = dict(data=dict(name=SYNTHETIC, image_size=16, num_threads=1, resident=True))
  steps = traced(tmp_path, (2, 7), **changes)
  assert steps[0] == 2
  assert steps[-1] < 7


def test_a_run_that_is_too_short_says_so(tmp_path, capsys):
  assert traced(tmp_path, (100, 110), branches=(), total_steps=4) is None
  assert "not traced" in capsys.readouterr().out


def test_a_run_that_ends_within_the_span_is_traced_to_its_end(tmp_path):
  assert traced(tmp_path, (2, 50), branches=(), total_steps=4) == [2, 3]


@pytest.mark.parametrize("text", ["5:5", "7:3", "5", "a:b", "-1:3", ""])
def test_spans_that_are_none(text):
  with pytest.raises(UserError, match="FIRST:LAST"):
    profiling.span(text)


@pytest.mark.parametrize(
  ("platforms", "installed", "fits"),
  [(None, "0.0.42.1", True), (None, "0.0.52", False), ("cpu", "0.0.52", True), (None, None, True)],
)
def test_a_libtpu_that_crashes_is_refused(monkeypatch, platforms, installed, fits):
  def version(_):
    if installed is None:
      raise profiling.importlib.metadata.PackageNotFoundError
    return installed

  config = SimpleNamespace(jax_platforms=platforms)
  monkeypatch.setattr(profiling, "jax", SimpleNamespace(config=config, __version__="1"))
  monkeypatch.setattr(profiling.importlib.metadata, "version", version)
  monkeypatch.setattr(
    profiling.importlib.metadata, "requires", lambda _: ['libtpu==0.0.42.*; extra == "tpu"']
  )
  if fits:
    profiling.check()
  else:
    with pytest.raises(UserError, match="libtpu 0.0.42 and crashes with 0.0.52"):
      profiling.check()
