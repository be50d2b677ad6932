"""The same curve on one device, on eight, and in two processes."""

import re
import signal
import socket

import numpy as np
import pytest
from training import finish, start, write_config

from vit_jax import measurements

# Wide enough that FSDP splits its larger arrays.
EVERY = [
  "--config.log_every=1",
  "--config.model.dropout=0.0",
  "--config.model.width=128",
  "--config.model.mlp_dim=256",
]


def losses(out):
  """Returns step -> loss of every progress line."""
  found = {}
  for line in out.splitlines():
    words = line.split()
    if "images/s" in words:
      found[words[0], int(words[1].split("/")[0])] = float(words[words.index("loss") + 1])
  return found


def metrics(workdir):
  return [
    m["metrics"]
    for d in (workdir, *sorted((workdir / "branches").glob("*")))
    for m in measurements.read(d)
  ]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
  directory = tmp_path_factory.mktemp("single")
  config = write_config(directory)
  out = finish(start(config, directory / "run", *EVERY))
  return config, losses(out), metrics(directory / "run")


def check(single, out, workdir):
  _, expected, measured = single
  found = losses(out)
  assert found.keys() == expected.keys()
  assert len(found) == 9 + 3 + 2
  np.testing.assert_allclose(
    [found[k] for k in sorted(found)], [expected[k] for k in sorted(found)], atol=2e-4
  )
  for a, b in zip(metrics(workdir), measured, strict=True):
    assert a["test_examples"] == b["test_examples"] == 100
    np.testing.assert_allclose(a["test_loss"], b["test_loss"], rtol=1e-4)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 4)])
def test_eight_devices(single, tmp_path, mesh):
  data, fsdp = mesh
  out = finish(
    start(
      single[0],
      tmp_path / "run",
      *EVERY,
      f"--config.mesh.data={data}",
      f"--config.mesh.fsdp={fsdp}",
      devices=8,
    )
  )
  check(single, out, tmp_path / "run")
  in_all, own = re.search(r"state: (.+) in all, (.+) per device", out).groups()
  assert (own == in_all) == (fsdp == 1)


def start_two(config, workdir, *flags):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  return [
    start(
      config,
      workdir,
      *EVERY,
      *flags,
      f"--coordinator={address}",
      "--num_processes=2",
      f"--process_id={i}",
    )
    for i in range(2)
  ]


def test_two_processes(single, tmp_path):
  outs = [finish(p) for p in start_two(single[0], tmp_path / "run")]
  check(single, outs[0], tmp_path / "run")
  assert "images/s" not in outs[1]


def test_sigterm_to_one_process_stops_both(single, tmp_path):
  both = start_two(single[0], tmp_path / "run", "--config.branches=100000")
  for line in both[0].stdout:
    if "images/s" in line:
      break
  both[1].send_signal(signal.SIGTERM)
  outs = [finish(p) for p in both]
  assert "SIGTERM received: saved at step" in outs[0]


def test_resume_on_other_devices(single, tmp_path):
  """Saved on eight devices with sharded parameters, continued on one."""
  finish(
    start(
      single[0], tmp_path / "run", "--config.mesh.fsdp=8", "--config.branches=8", *EVERY, devices=8
    )
  )
  out = finish(start(single[0], tmp_path / "run", *EVERY))
  assert "starts from step 6" not in out
  found = losses(out)
  for key, value in found.items():
    np.testing.assert_allclose(value, single[1][key], atol=2e-4)
