import json
import os
import subprocess
import sys

import pytest

from vit_jax import config as config_lib
from vit_jax import rundir
from vit_jax.errors import UserError

HOLD = (
  "import sys, pathlib; from vit_jax import rundir\n"
  "with rundir.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == "held\n"
    with (
      pytest.raises(rundir.Locked, match=f"in use by another process .pid {other.pid} on"),
      rundir.lock(tmp_path),
    ):
      pass
    other.kill()
  with rundir.lock(tmp_path):
    pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with (
    pytest.raises(UserError, match="cannot write to run directory .*file"),
    rundir.lock(tmp_path / "file"),
  ):
    pass


def test_config_changes_are_named(tmp_path):
  rundir.write_config(tmp_path, config_lib.resolve({"total_steps": 10}))
  rundir.check_config(tmp_path, config_lib.resolve({"total_steps": 10, "log_every": 3}))
  changed = config_lib.resolve({"total_steps": 10, "seed": 3, "optimizer": {"learning_rate": 0.5}})
  with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.001 -> 0.5; seed: 0 -> 3"):
    rundir.check_config(tmp_path, changed)


def test_config_is_replaced_whole(tmp_path):
  rundir.write_config(tmp_path, config_lib.resolve({"total_steps": 10}))
  assert json.loads((tmp_path / "config.json").read_text())["total_steps"] == 10
  (tmp_path / "config.json").write_text("{torn")
  with pytest.raises(UserError, match="not JSON"):
    rundir.check_config(tmp_path, config_lib.resolve({}))


def test_who_holds_a_directory(tmp_path):
  assert rundir.holder(tmp_path) is None
  with rundir.lock(tmp_path):
    assert rundir.holder(tmp_path) == f"pid {os.getpid()} on {os.uname().nodename}"
  assert rundir.holder(tmp_path) is None
