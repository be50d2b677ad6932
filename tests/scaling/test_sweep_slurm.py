"""What is submitted to Slurm, by programs that record what they are asked; and what runs there.

tests/cluster/slurm.sh does it on a real cluster.
"""

import json
import re
import signal
import sys
import threading
import time

import pytest
from training import CONFIG, write_config

from scaling import sweep
from scaling.launch import grid, jobs, logs, slurm, task
from vit_jax import measurements, rundir
from vit_jax.errors import UserError

pytest.importorskip("submitit")

LADDER = CONFIG.replace("evaluators=", "ladder=dict(a=dict(), b=dict(seed=1)),\n      evaluators=")

# Each is called like Slurm's program; `sent` has a copy of all batch scripts, `queue` what waits.
PROGRAMS = {
  "sbatch": """
    if [ -e refuse ]; then echo "sbatch: error: $(cat refuse)" >&2; exit 1; fi
    n=$(($(ls sent | wc -l) + 1)); cp "$1" sent/$n; echo "Submitted batch job $n"
  """,
  "squeue": "cat queue",
  "scontrol": "echo $@ >>asked",
  "srun": "",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """The directory of recording programs, first on the path."""
  root = tmp_path / "cluster"
  (root / "sent").mkdir(parents=True)
  (root / "queue").touch()
  for name, body in PROGRAMS.items():
    (root / name).write_text(f'#!/bin/sh\nfile="$1"\ncd {root}\nset -- "$@"\n{body}\n')
    (root / name).chmod(0o755)
  monkeypatch.setenv("PATH", str(root), prepend=":")
  return root


def submit(tmp_path, *flags, slurm="time=60,partition=gpu"):
  (tmp_path / "ladder.py").write_text(LADDER)
  arguments = ["--config", str(tmp_path / "ladder.py"), "--workdir", str(tmp_path / "out")]
  return sweep.main([*arguments, "--launcher", "slurm", "--slurm", slurm, *flags])


def sent(cluster):
  """Returns the options of each batch script."""
  found = []
  for path in sorted((cluster / "sent").iterdir(), key=lambda p: int(p.name)):
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", path.read_text(), re.MULTILINE)
    found.append(dict(lines))
  return found


def test_trunks_are_an_array_and_branches_wait_for_theirs(cluster, tmp_path, capsys):
  assert submit(tmp_path) == 0
  trunks, a, b = sent(cluster)
  assert trunks["array"].startswith("0-1")
  assert "dependency" not in trunks
  assert a["dependency"] == "afterok:1_0"
  assert b["dependency"] == "afterok:1_1"
  assert a["array"].startswith("0-1")
  for options in (trunks, a, b):
    assert options["partition"] == "gpu"
    assert options["time"] == "60"
    assert options["kill-on-invalid-dep"] == "yes"
    assert options["ntasks-per-node"] == "1"
    assert options["signal"] == "USR2@120"
    assert "requeue" in options
  out = capsys.readouterr().out
  assert "a@12: submitted as job 2_1" in out
  assert "6 job(s) submitted. Watch them: squeue --jobs 1,2,3;" in out


def test_the_same_command_submits_only_what_is_missing(cluster, tmp_path, capsys):
  submit(tmp_path)
  (cluster / "queue").write_text(
    "".join(f"{i} {s}\n" for i, s in (("1_0", "RUNNING"), ("2_0", "PENDING"), ("2_1", "PENDING")))
  )
  capsys.readouterr()
  submit(tmp_path)
  b, its_branches = sent(cluster)[3:]
  assert "array" not in b
  assert its_branches["dependency"] == "afterok:4"
  out = capsys.readouterr().out
  assert "a: running" in out
  assert "a@8: pending" in out
  assert "b: submitted as job 4" in out
  # Where a trunk has passed the checkpoint, its branch waits for nothing; what is done is done.
  run, _ = grid.expand(str(tmp_path / "ladder.py"), tmp_path / "out")
  (run.directory / "checkpoints/6").mkdir(parents=True)
  rundir.write_config(run.directory, run.config)
  long = jobs.Job(run, 12)
  long.directory.mkdir(parents=True)
  record = {"final": True, "step": 12}
  (long.directory / measurements.FILE_NAME).write_text(json.dumps(record) + "\n")
  (cluster / "queue").write_text("1_0 RUNNING\n4 RUNNING\n5_0 PENDING\n5_1 PENDING\n")
  submit(tmp_path)
  (alone,) = sent(cluster)[5:]
  assert "dependency" not in alone
  out = capsys.readouterr().out
  assert "a@8: submitted as job 6" in out
  assert "a@12: finished" in out
  assert len(sent(cluster)) == 6


def test_what_slurm_refuses_is_told_in_one_line(cluster, tmp_path):
  (cluster / "refuse").write_text("invalid partition specified: gpu")
  with pytest.raises(UserError, match="sbatch refuses: sbatch: error: invalid partition"):
    submit(tmp_path)


@pytest.mark.parametrize(
  ("text", "minutes"),
  [
    ("90", 90),
    ("2:30", 3),
    ("1:30:00", 90),
    ("2-0", 2880),
    ("1-12:30", 2190),
    ("1-00:00:01", 1441),
    ("0:01", 1),
  ],
)
def test_times_are_those_of_sbatch(text, minutes):
  assert slurm.options(f"time={text}")["time"] == minutes


def test_options():
  found = slurm.options("--time=20,nodes=2,gpus-per-node=8,exclusive,cpus_per_task=12,account=x")
  assert found["nodes"] == 2
  assert found["signal_delay_s"] == 120
  assert slurm.options("time=4")["signal_delay_s"] == 60
  assert "--cpus-per-task=12" in found["srun_args"]
  extra = found["additional_parameters"]
  assert extra["gpus_per_node"] == "8"
  assert extra["exclusive"] is True
  assert extra["account"] == "x"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("partition=gpu", "needs time"),
    ("time=soon", "time=soon"),
    ("time=1,nodes=two", "nodes=two: a whole number"),
  ],
)
def test_options_that_cannot_be(text, message):
  with pytest.raises(UserError, match=message):
    slurm.options(text)


def test_without_a_cluster(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(UserError, match="there is no sbatch here"):
    submit(tmp_path)


def test_a_job_whose_time_is_up_saves_and_goes_on(cluster, tmp_path, monkeypatch):
  """What submitit does on a signal of Slurm's, done here: it is the same as on a cluster."""
  config = write_config(tmp_path)
  keys = ("branches=(8,400)", "log_every=10", "checkpoint_every=100")
  flags = [f"--config.{key}" for key in keys]
  (run,) = grid.expand(config, tmp_path / "out", (), [*flags, "--config.evaluators.test.every=0"])
  trunk = jobs.Job(run, None)
  ids = tmp_path / "ids.json"
  ids.write_text(json.dumps({"out@8": "7_0", "out@400": "7_1"}))
  monkeypatch.setattr(task, "_POLL", 0.2)
  first, again = task.Task(trunk, ids), []

  def on_signal(signum, frame):
    again.append(first.checkpoint())
    raise SystemExit

  def send():
    while logs.progress(trunk.log) is None:
      time.sleep(0.1)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

  before = signal.signal(signal.SIGUSR2, on_signal)
  thread = threading.Thread(target=send)
  thread.start()
  try:
    with pytest.raises(SystemExit):
      first()
  finally:
    thread.join()
    signal.signal(signal.SIGUSR2, before)
  text = trunk.log.read_text()
  saved = int(text.split("received: saved at step ")[1].split(";")[0])
  assert trunk.reached() == saved < trunk.stop
  (delayed,) = again
  assert delayed.result() == "out: done"
  assert f"{run.directory}: continues at step {saved}" in trunk.log.read_text()
  assert trunk.reached() == trunk.stop
  assert "update JobId=7_0 Dependency=" in (cluster / "asked").read_text()


class Stopped(jobs.Job):
  """A job that ends in good order, with nothing finished."""

  def command(self):
    return [sys.executable, "-c", ""]


@pytest.mark.parametrize(
  ("variables", "own"),
  [({}, "7"), ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3")],
)
def test_a_job_that_is_stopped_queues_itself_alone(cluster, tmp_path, monkeypatch, variables, own):
  monkeypatch.setattr(task, "_POLL", 0.1)
  for name, value in {"SLURM_JOB_ID": "7", **variables}.items():
    monkeypatch.setenv(name, value)
  program = f'#!/bin/sh\n[ "$4" = {own} ] && echo RUNNING || printf "RUNNING\\nPENDING\\n"\n'
  (cluster / "squeue").write_text(program)
  (run,) = grid.expand(write_config(tmp_path), tmp_path / "out")
  with pytest.raises(RuntimeError, match="out was stopped before its end, with everything saved"):
    task.Task(Stopped(run, None), tmp_path / "ids.json")()
  assert (cluster / "asked").read_text() == f"requeue {own}\n"


class Failing(jobs.Job):
  """A job that says what is wrong with it."""

  def command(self):
    return [sys.executable, "-c", "raise SystemExit('error: it is wrong')"]


def test_a_failure_tells_why(tmp_path, monkeypatch):
  monkeypatch.setattr(task, "_POLL", 0.1)
  (run,) = grid.expand(write_config(tmp_path), tmp_path / "out")
  with pytest.raises(RuntimeError, match="out failed .exit status 1.;(.|\n)*error: it is wrong"):
    task.Task(Failing(run, None), tmp_path / "ids.json")()
