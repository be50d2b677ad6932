"""What a user, a scheduler or bad luck does to a process, none of it may cost a measurement."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from training import command, finish, start, write_config

from vit_jax import cli, main, measurements
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError


def read_all(workdir):
  return [
    m for d in (workdir, *sorted((workdir / "branches").glob("*"))) for m in measurements.read(d)
  ]


def without_clock(records):
  return [
    {k: v for k, v in m.items() if k not in ("device_seconds", "time", "run")} for m in records
  ]


def test_command_end_to_end(tmp_path):
  out = finish(start(write_config(tmp_path), tmp_path / "run"))
  assert "parameters" in out
  assert "FLOPs" in out
  assert "per device in a step" in out
  assert "loss" in out
  assert "images/s" in out
  assert "ETA" in out
  assert "Branches share their trunks: 14 steps instead of 20 (30% saved)" in out
  assert list((tmp_path / "run").glob("events*"))
  config = json.loads((tmp_path / "run/config.json").read_text())
  assert config["optimizer"]["name"] == "adamw"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.modle.name=x"], "unknown config key 'modle.name': did you mean model.name"),
    (["--config.model.name=ViT-Q/16"], "ViT-Q/16"),
    (["--config.data.name=synthetik"], "synthetik"),
    (
      ["--config.batch_size=31", "--config.mesh.data=1", "--config.accumulate=2"],
      "batch_size=31 is not divisible",
    ),
    (
      ["--config.branches=20", "--config.total_steps=10"],
      "branch 20 starts at step 15, beyond the trunk's end at 10",
    ),
    (["--branch", "7"], "--branch 7 is none of"),
    (["--config.evaluators.test.type=nope"], "unknown config.evaluators.test.type 'nope'"),
    (["--config.schedule.name=cosin"], "cosine"),
    (["--config.optimizer.name=adam"], "adamw"),
    (["--config.ladder.a.seed=3"], "'ladder.a.seed' is not in the config file"),
    (["--rung", "w16"], "the config has no ladder"),
    (["--config.cooldown=1"], "neither a share"),
  ],
)
def test_mistakes_are_said_in_one_line(tmp_path, flags, message):
  argv = ["--config", write_config(tmp_path), "--workdir", str(tmp_path / "run"), *flags]
  with pytest.raises(UserError, match=re.escape(message)) as error:
    main.main(argv)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_a_mistake_ends_the_process_with_its_line_and_a_failure(tmp_path):
  out = finish(start(write_config(tmp_path), tmp_path / "run", "--config.modle.name=x"), code=2)
  errors = [line for line in out.splitlines() if line.startswith("error: ")]
  assert len(errors) == 1
  assert "did you mean model.name" in errors[0]
  assert "Traceback" not in out


def test_a_corrupt_image_is_named(tmp_path):
  rng = np.random.default_rng(0)
  for split in ("train", "test"):
    for label in "ab":
      (tmp_path / f"set/{split}/{label}").mkdir(parents=True)
      for i in range(20):
        image = rng.integers(0, 255, (16, 16, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"set/{split}/{label}/{i}.jpg"), image)
  flags = [
    f"--config.data.name={tmp_path / 'set'}",
    "--config.data.split=train",
    "--config.evaluators.test.split=test",
  ]
  out = finish(start(write_config(tmp_path), tmp_path / "good", *flags))
  assert "test_error" in out
  bad = tmp_path / "set/train/b/7.jpg"
  bad.write_bytes(bad.read_bytes()[:100])
  out = finish(start(write_config(tmp_path), tmp_path / "bad", *flags), code=2)
  (error,) = [line for line in out.splitlines() if line.startswith("error: ")]
  assert str(bad) in error
  assert "Traceback" not in out


def test_sigterm_saves_and_exits_0(tmp_path):
  config = write_config(tmp_path)
  flags = ["--config.branches=100000", "--config.log_every=10", "--config.checkpoint_every=100000"]
  process = start(config, tmp_path / "run", *flags)
  for line in process.stdout:
    if "images/s" in line:
      break
  process.send_signal(signal.SIGTERM)
  out = finish(process, code=0)
  assert "SIGTERM received: saved at step" in out
  step = int(out.split("saved at step ")[1].split(";")[0])
  assert Checkpoints(tmp_path / "run", read_only=True).steps() == [step]


def test_a_second_process_is_refused(tmp_path):
  config = write_config(tmp_path)
  first = start(config, tmp_path / "run", "--config.branches=100000", "--config.log_every=10")
  for line in first.stdout:
    if "images/s" in line:
      break
  out = finish(
    start(config, tmp_path / "run", "--config.branches=100000", "--config.log_every=10"), code=2
  )
  assert f"in use by another process (pid {first.pid} on" in out
  first.kill()
  first.communicate()


def run_main(out, argv):
  """What a forked process does: the command, with its output in a file."""
  for stream in (1, 2):
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
  sys.argv = ["vit_jax.main", *argv]
  cli.run(main.main)


@pytest.mark.slow
def test_kill_9_twenty_times(tmp_path):
  """Killed at random moments, the run always comes back and ends as if nothing had been."""
  flags = ["--config", write_config(tmp_path), "--config.branches=40,80"]
  flags += ["--config.evaluators.test.every=10", "--config.log_every=1"]
  # A process that has imported everything is forked anew: imports are two fifths of a start.
  forks = multiprocessing.get_context("forkserver")
  forks.set_forkserver_preload(["vit_jax.main"])

  def begin(workdir, out):
    process = forks.Process(target=run_main, args=(str(out), [*flags, f"--workdir={workdir}"]))
    process.start()
    return process

  def end(process, out):
    process.join(300)
    assert process.exitcode == 0, out.read_text()

  end(begin(tmp_path / "whole", tmp_path / "whole.log"), tmp_path / "whole.log")
  rng = random.Random(0)
  workdir = tmp_path / "killed"
  kept, kills, again, during_steps = [], 0, 0, 0
  while kills < 20:
    out = tmp_path / f"{kills}-{again}.log"
    process = begin(workdir, out)
    if kills % 4 == 0:  # during the start-up
      time.sleep(rng.uniform(0, 2))
    else:  # from the first step on
      while process.is_alive() and not (out.exists() and "images/s" in out.read_text()):
        time.sleep(0.02)
      time.sleep(rng.uniform(0, 1.5))
      during_steps += process.is_alive()
    process.kill()
    process.join()
    if process.exitcode == -signal.SIGKILL:
      kills += 1
    else:  # it had finished: start over, the moments must stay random
      end(process, out)
      assert without_clock(read_all(workdir)) == without_clock(read_all(tmp_path / "whole"))
      shutil.rmtree(workdir)
      kept, again = [], again + 1
      continue
    found = read_all(workdir)
    assert all(m in found for m in kept), "a finished measurement was lost"
    keys = [(m["branch"], m["step"]) for m in found]
    assert len(set(keys)) == len(keys), "a measurement was doubled"
    kept = found
  end(begin(workdir, out), out)
  assert without_clock(read_all(workdir)) == without_clock(read_all(tmp_path / "whole"))
  assert during_steps >= 5


def test_a_full_disk_fails_and_continues(tmp_path):
  """A limit on file sizes stands for the disk: no checkpoint fits, and the run must say so."""
  config = write_config(tmp_path)
  limit = subprocess.run(
    ["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command(config, tmp_path / "run")],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
  )
  assert limit.returncode != 0
  assert read_all(tmp_path / "run") == []
  finish(start(config, tmp_path / "run"))
  assert len(read_all(tmp_path / "run")) == 3
