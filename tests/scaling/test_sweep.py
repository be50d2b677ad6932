"""Sweeps on this machine: real ones, tiny, and the launcher's rules with jobs of plain Python."""

import io
import signal
import subprocess
import sys
import threading
import time

import pytest
from plain_jobs import HOLDING, launch, script, states, wait_for
from rich.console import Console
from training import CONFIG, tiny, write_config

from scaling import sweep
from scaling.launch import costs, display, grid, jobs, local, logs
from scaling.launch.jobs import Job
from scaling.launch.places import Place
from vit_jax import branches, measurements, rundir, train
from vit_jax.checkpoint import DIRECTORY

# A rung that trains and one that is not finite at its first step.
LADDER = CONFIG.replace(
  "evaluators=",
  "ladder=dict(a=dict(), b=dict(optimizer=dict(learning_rate=1e30))),\n      evaluators=",
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """A ladder of which one rung fails: where it is, the command's arguments, and what came out."""
  root = tmp_path_factory.mktemp("sweep")
  (root / "ladder.py").write_text(LADDER)
  arguments = ["--config", str(root / "ladder.py"), "--workdir", str(root / "out")]
  arguments += ["--grid", "seed=3", "--jobs", "2"]
  command = [sys.executable, "-m", "scaling.sweep", *arguments]
  return root, arguments, subprocess.run(command, capture_output=True, text=True, check=False)


def expand(root):
  return grid.expand(str(root / "ladder.py"), root / "out", [grid.axis("seed=3")])


def test_a_failure_takes_nothing_with_it_but_its_branches(swept):
  root, _, first = swept
  assert first.returncode == 1, first.stderr
  assert "3 done" in first.stdout
  assert "Branches share their trunks: 14 steps instead of 20 (30% saved)" in first.stdout
  assert "1 failed, 2 blocked" in first.stdout
  assert "b,seed=3 failed (exit status 2)" in first.stdout
  assert "error: sweep-" not in first.stdout
  assert "loss nan" in first.stdout
  assert "vit_jax.main --trunk_only --config" in first.stdout
  assert "--rung b --run b,seed=3 --config.seed=3" in first.stdout
  assert "not started, for their trunk did not come so far: b,seed=3@8, b,seed=3@12" in first.stdout
  assert f"a,seed=3@12  running  log {root}/out/a,seed=3/branches/12/train.log" in first.stderr


def test_a_sweep_measures_what_one_process_does(swept, tmp_path):
  root, *_ = swept
  run, _ = expand(root)
  train.run(run.config, tmp_path, "out/a,seed=3")
  for job in jobs.of_runs([run]):
    here = measurements.read(tmp_path / job.directory.relative_to(run.directory))
    there = measurements.read(job.directory)
    assert len(here) == len(there) == 1
    assert here[0]["metrics"] == pytest.approx(there[0]["metrics"], rel=1e-5)
    for key in here[0].keys() - {"metrics", "device_seconds", "time"}:
      assert here[0][key] == there[0][key], key


def test_what_is_finished_is_skipped(swept, capsys):
  root, arguments, _ = swept
  assert sweep.main([*arguments, "--only", "a*"]) == 0
  assert "3 skipped" in capsys.readouterr().out
  for job_log in (root / "out/a,seed=3").rglob("train.log"):
    assert job_log.read_text().count("$ python -m vit_jax.main") == 1


def test_progress_is_read_from_the_log(swept):
  root, *_ = swept
  run, _ = expand(root)
  found = logs.progress(Job(run, 12).log)
  assert found.step == 12
  assert 1 < float(found.loss) < 4
  assert float(found.rate) > 0
  assert logs.last_lines(root / "out/b,seed=3/train.log", 5)[0].startswith("error: ")


def test_the_plan_foretells_the_checkpoints(swept):
  root, *_ = swept
  run, _ = expand(root)
  kept = [p for p in run.directory.rglob(f"{DIRECTORY}/*") if p.name.isdigit()]
  assert costs.checkpoints_kept(run) == len(kept)


@pytest.mark.parametrize("every", [1, 3, 4, 100])
def test_checkpoints_kept_by_the_rule(every):
  def by_rule(start, stop, forks):
    saved = [s for s in range(start + 1, stop + 1) if s in forks or s % every == 0 or s == stop]
    return len({*saved[-2:], *forks})

  config = tiny(branches=(8, 12, 30), checkpoint_every=every)
  plan = branches.plan(config.branches, config.cooldown, None)
  run = grid.Run("", "", None, (), config, plan)
  expected = by_rule(0, plan.trunk_steps, plan.fork_steps)
  expected += sum(by_rule(w.start, w.end, ()) for w in plan.branches.values())
  assert costs.checkpoints_kept(run) == expected


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, capsys):
  arguments = ["--config", write_config(tmp_path), "--workdir", str(tmp_path / "out")]
  arguments += ["--config.evaluators.test.every=0", "--config.checkpoint_every=1000"]
  command = [sys.executable, "-m", "scaling.sweep", *arguments, "--config.branches=(200000,)"]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  wait_for(lambda: logs.progress(tmp_path / "out/train.log"))
  process.send_signal(signal.SIGINT)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 130, out
  assert "2 stopped" in out
  assert "the same command goes on from here" in out
  assert rundir.holder(tmp_path / "out") is None
  text = (tmp_path / "out/train.log").read_text()
  saved = int(text.split("received: saved at step ")[1].split(";")[0])
  # The same run up to another branch, so that it ends soon: its trunk has 1.5 times these steps.
  assert sweep.main([*arguments, f"--config.branches=({2 * saved},)"]) == 0
  assert "2 done" in capsys.readouterr().out
  assert f"out: continues at step {saved}" in (tmp_path / "out/train.log").read_text()


# The launcher's rules, with jobs of plain Python.


def test_as_many_at_a_time_as_there_are_places(tmp_path):
  most = 0

  def show(entries):
    nonlocal most
    most = max(most, states(entries).count(local.RUNNING))

  work = [script(tmp_path / str(i), "import time; time.sleep(0.3)") for i in range(5)]
  signum, entries = launch(work, places=2, show=show)
  assert signum is None
  assert states(entries) == [local.DONE] * 5
  assert most == 2


def test_what_ends_without_having_finished_has_failed(tmp_path):
  work = [script(tmp_path / "exits", "raise SystemExit(0)"), script(tmp_path / "fine")]
  _, entries = launch(work)
  assert states(entries) == [local.FAILED, local.DONE]
  assert entries[0].code == 0


def test_a_run_that_another_process_trains_is_waited_for(tmp_path):
  job = script(tmp_path / "held")
  seen = []
  other = subprocess.Popen(
    [sys.executable, "-c", HOLDING, str(job.directory)], stdout=subprocess.PIPE
  )
  other.stdout.readline()
  _, entries = launch([job], show=lambda entries: seen.append(entries[0].state))
  other.communicate()
  assert seen[0] == local.ELSEWHERE
  assert local.RUNNING not in seen
  assert states(entries) == [local.DONE]


def test_the_second_ctrl_c_kills(tmp_path):
  deaf = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)\n"
  )
  job = script(tmp_path / "deaf", deaf + "time.sleep(600)")
  told = threading.Event()

  def interrupt():
    wait_for(lambda: job.log.exists() and "\n1\n" in job.log.read_text())
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(1)
    told.set()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

  thread = threading.Thread(target=interrupt)
  thread.start()
  launcher = local.Launcher([job], [Place(None, {})], {}, lambda entries: None)
  with pytest.raises(KeyboardInterrupt):
    launcher.run()
  thread.join()
  assert told.is_set()
  assert launcher.entries[0].process.returncode == -signal.SIGKILL


def test_a_long_table_shows_what_matters(tmp_path):
  entries = [local.Entry(script(tmp_path / str(i))) for i in range(50)]
  entries[40].become(local.FAILED)
  entries[45].become(local.DONE)
  table = display.table(entries, rows=10)
  assert table.row_count == 10
  assert "40" in list(table.columns[0].cells)
  assert "45" not in list(table.columns[0].cells)
  assert table.caption == "and 40 more"
  assert table.title == "1 failed, 48 waiting, 1 done"


def test_a_terminal_has_a_live_table_and_a_log_has_lines(tmp_path, capsys):
  work = [script(tmp_path / name, code) for name, code in (("fine", ""), ("fails", "1 / 0"))]
  screen = io.StringIO()
  with display.Display(Console(file=screen, force_terminal=True, width=100)) as show:
    launch(work, show=show)
  assert "fine" in screen.getvalue()
  assert "images/s" in screen.getvalue()
  assert capsys.readouterr().err == ""
  with display.Display(Console(file=io.StringIO())) as show:
    launch(work, show=show)
  lines = [line.split("  ")[1:] for line in capsys.readouterr().err.splitlines()]
  assert lines == [["fails", "running", f"log {work[1].log}"], ["fails", "failed"]]


def test_a_pattern_that_no_run_fits(tmp_path, capsys):
  (tmp_path / "ladder.py").write_text(LADDER)
  arguments = ["--config", str(tmp_path / "ladder.py"), "--workdir", str(tmp_path / "out")]
  with pytest.raises(ValueError, match="--only c: the runs are a, b"):
    sweep.main([*arguments, "--only", "c"])
