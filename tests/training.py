"""A run small enough for tests, and ways to start it in this process or another."""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import config as config_lib
from vit_jax import job, measurements, signals
from vit_jax.checkpoint import Checkpoints
from vit_jax.state import TrainState

# Its default size takes a second to make.
SYNTHETIC = "synthetic(train_size=512, test_size=100)"
CONFIG = f"""
from ml_collections import ConfigDict
def get_config():
  return ConfigDict(dict(
      batch_size=32, branches=(8, 12), cooldown=0.25, checkpoint_every=4, log_every=3,
      model=dict(name="ViT-mu/8", dropout=0.1),
      data=dict(name="{SYNTHETIC}", image_size=16, num_threads=1),
      evaluators=dict(test=dict(type="classification", split="test[:100]", every=6)),
      schedule=dict(name="rsqrt", warmup=2, timescale=10)))
"""


class StopAt(signals.StopFlag):
  """Asks a run to stop after a number of steps, as SIGTERM does."""

  signum = 15

  def __init__(self, steps):
    self.left = steps

  def requested(self):
    self.left -= 1
    return self.left < 0


def tiny(**changes):
  scope = {}
  exec(CONFIG, scope)  # the same text that `write_config` puts into a file
  return config_lib.resolve({**scope["get_config"]().to_dict(), **changes})


@lru_cache(maxsize=8)
def _target(text: str) -> TrainState:
  return job.build(config_lib.resolve(json.loads(text)), "t").target


def final_state(directory: Path, config: ConfigDict) -> TrainState:
  """Returns the state of a run's last checkpoint, on the host."""
  checkpoints = Checkpoints(directory, read_only=True)
  target = _target(json.dumps(config_lib.to_json(config)))
  state = checkpoints.restore(checkpoints.latest(), target)
  checkpoints.close()
  return jax.device_get(state)


def assert_same(a: Any, b: Any) -> None:
  """Compares two trees bit for bit."""
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def results(workdir: Path) -> list[dict]:
  """Returns every measurement of a run without what depends on the clock."""
  found = [
    m for d in (workdir, *sorted((workdir / "branches").glob("*"))) for m in measurements.read(d)
  ]
  return [{k: v for k, v in m.items() if k not in ("device_seconds", "time")} for m in found]


def write_config(directory: Path) -> str:
  path = Path(directory) / "tiny.py"
  path.write_text(CONFIG)
  return str(path)


MAIN = ("-m", "vit_jax.main")


def command(config: str, workdir: Path, *flags: str, program: tuple[str, ...] = MAIN) -> list[str]:
  return [
    sys.executable,
    *program,
    "--config",
    config,
    "--workdir",
    str(workdir),
    *flags,
  ]


def with_devices(count: int, **env: str) -> dict[str, str]:
  """Returns the environment of a process that has so many virtual devices."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
  return {**os.environ, "XLA_FLAGS": flags, **env}


def run_on_devices(count: int, program: str) -> str:
  """Runs a program in a process with so many virtual devices; returns what it prints.

  It can import what tests can, and has jax, json, np and parallel. Small arrays are sharded, too.
  """
  head = """
import jax, json, numpy as np
from vit_jax import parallel
parallel.MIN_SHARDED_SIZE = 2**8
"""
  done = subprocess.run(
    [sys.executable, "-c", head + program],
    env=with_devices(count, PYTHONPATH=os.pathsep.join(sys.path)),
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout


def start(
  config: str,
  workdir: Path,
  *flags: str,
  devices: int = 1,
  program: tuple[str, ...] = MAIN,
  **env: str,
) -> subprocess.Popen:
  return subprocess.Popen(
    command(config, workdir, *flags, program=program),
    env=with_devices(devices, **env),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen, code: int = 0) -> str:
  out, _ = process.communicate(timeout=300)
  assert process.returncode == code, out
  return out
