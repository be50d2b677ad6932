"""How the processes of a run find each other, by what `jax.distributed` is asked for."""

import pytest

from vit_jax import parallel
from vit_jax.errors import UserError

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_STEP_NUM_NODES")


@pytest.fixture
def calls(monkeypatch):
  found = []
  for name in (*NAMES, *SLURM):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(
    parallel.jax.distributed, "initialize", lambda *args, **kwargs: found.append((args, kwargs))
  )
  return found


def test_a_process_alone(calls):
  parallel.initialize()
  assert calls == []


def test_flags(calls):
  parallel.initialize("host:1", 2, 0)
  assert calls == [(("host:1", 2, 0), {})]
  with pytest.raises(UserError, match="give all three"):
    parallel.initialize("host:1")


@pytest.mark.parametrize(
  ("tasks", "nodes", "expected"),
  [
    ("1", "1", []),
    ("4", "4", [((), {"local_device_ids": []})]),  # all devices of the node
    ("8", "2", [((), {"local_device_ids": None})]),  # one device for each task
  ],
)
def test_slurm(calls, monkeypatch, tasks, nodes, expected):
  for name, value in zip(SLURM, ("node[1-4]", tasks, nodes), strict=True):
    monkeypatch.setenv(name, value)
  parallel.initialize()
  assert calls == expected


def test_tpu_hosts(calls, monkeypatch):
  monkeypatch.setattr(parallel, "has_tpu", lambda: True)
  parallel.initialize()
  assert calls == [((), {})]


def test_a_tpu_host_that_knows_of_no_others(monkeypatch, caplog):
  def initialize():
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(parallel, "has_tpu", lambda: True)
  monkeypatch.setattr(parallel.jax.distributed, "initialize", initialize)
  parallel.initialize()
  assert "taken to be alone" in caplog.text
