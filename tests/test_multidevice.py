"""The same curve on one device, on eight, and in two processes."""

import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from training import MAIN, finish, start, write_config

from vit_jax import measurements, peers

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


def start_two(config, workdir, *flags, devices=1, programs=(MAIN, MAIN)):
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
      devices=devices,
      program=program,
    )
    for i, program in enumerate(programs)
  ]


def test_two_processes(single, tmp_path):
  flags = ["--config.mesh.data=2", "--config.mesh.fsdp=4"]
  outs = [finish(p) for p in start_two(single[0], tmp_path / "run", *flags, devices=4)]
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


def failing(how):
  """Returns a program that trains, but for what is done to it first."""
  text = f"import dataclasses, sys\nfrom vit_jax import cli, config, job, main\n{how}\n"
  return ("-c", text + "cli.run(main.main)")


def test_a_process_that_fails_alone_ends_the_other(single, tmp_path):
  fails = failing("""
def feed(self, *args, whole=job.Job.feed, **more):
  batch, calls = whole(self, *args, **more), iter(range(6))
  def one(count):
    if next(calls, None) is None:
      raise OSError(28, "no space left on this host alone")
    return batch(count)
  return one
job.Job.feed = feed
""")
  both = start_two(single[0], tmp_path / "run", programs=(MAIN, fails))
  begin = time.monotonic()
  out = finish(both[1], 1)
  assert "no space left on this host alone" in out
  told = finish(both[0], peers.EXIT_CODE)
  assert "error: process 1 of this run is gone" in told
  assert "Traceback" not in told
  assert time.monotonic() - begin < 100  # starting and compiling; JAX waits for 300 seconds


@pytest.mark.parametrize(
  ("how", "error"),
  [
    ("main.cli.load_rungs = lambda *args, load=main.cli.load_rungs: load(args[0], [*args[1], "
     "'--config.seed=1'])", "the processes of this run have different configs or flags"),
    ("job.dataset_fingerprint = lambda *args, read=job.dataset_fingerprint: dataclasses.replace("
     "read(*args), sha256='0' * 16)", "see different training images"),
  ],
)  # fmt: skip
def test_processes_that_would_not_do_the_same_say_so(single, tmp_path, how, error):
  both = start_two(single[0], tmp_path / "run", programs=(MAIN, failing(how)))
  for process in both:
    assert error in finish(process, 2).splitlines()[-1]
  assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def of_eight(single, tmp_path_factory):
  """A run that eight devices with sharded parameters have begun."""
  run = tmp_path_factory.mktemp("eight") / "run"
  finish(start(single[0], run, "--config.mesh.fsdp=8", "--config.branches=8", *EVERY, devices=8))
  return run


@pytest.mark.parametrize("processes", [1, 2])
def test_resume_on_other_devices(single, of_eight, tmp_path, processes):
  """Continued on one device, and by two processes with four devices and whole parameters each."""
  run = shutil.copytree(of_eight, tmp_path / "run")
  if processes == 1:
    out = finish(start(single[0], run, *EVERY))
  else:
    both = start_two(single[0], run, "--config.mesh.zero1=8", devices=4)
    out = [finish(p) for p in both][0]
    assert "zero1 8" in out
  assert "starts from step 6" not in out
  found = losses(out)
  assert len(found) == 3 + 3
  for key, value in found.items():
    np.testing.assert_allclose(value, single[1][key], atol=2e-4)


def read_until(process, checkpoint):
  """Returns the output up to a step that comes after a new checkpoint, and which that is."""
  out = ""
  for line in process.stdout:
    out += line
    steps = [int(d.name) for d in checkpoint.glob("[0-9]*") if d.name.isdigit()]
    if "images/s" in line and steps and f"continues at step {max(steps)}" not in out:
      return out, max(steps)
  raise AssertionError(out)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_and_the_run_resumes(single, tmp_path):
  run, latest, found = tmp_path / "run", 0, {}
  for victim in (1, 0, None):
    both = start_two(single[0], run, "--config.branches=100000")
    out, saved = read_until(both[0], run / "checkpoints")
    if latest:
      assert int(re.search(r"continues at step (\d+)", out)[1]) >= latest
    latest = saved
    for key, value in losses(out).items():  # of some steps done twice
      np.testing.assert_allclose(value, found.setdefault(key, value), atol=2e-4)
      np.testing.assert_allclose(value, single[1].get(key, value), atol=2e-4)
    if victim is None:
      break
    both[victim].kill()
    begin = time.monotonic()
    told, _ = both[1 - victim].communicate(timeout=60)
    assert time.monotonic() - begin < 30  # JAX's own patience is 100 seconds
    assert f"error: process {victim} of this run is gone" in told
    assert "Traceback" not in told
    if victim:  # without process 0 JAX may have the last word
      assert both[0].returncode == peers.EXIT_CODE
    assert both[1 - victim].returncode != 0
    both[victim].communicate()
  for process in both:
    process.send_signal(signal.SIGTERM)
  assert "gone" not in "".join(finish(process) for process in both)
