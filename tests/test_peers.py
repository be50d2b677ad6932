"""Processes that notice when another of their run dies, without JAX."""

import socket
import subprocess
import sys
import time

import pytest

from vit_jax import peers

# The number of process 0 goes through a file, where a run has JAX's broadcast.
SCRIPT = """
import os, sys, time
from vit_jax import peers
index, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def of_first(value):
  if index == 0:
    with open(path + ".part", "w") as file:
      file.write(str(value))
    os.rename(path + ".part", path)
  while not os.path.exists(path):
    time.sleep(0.01)
  with open(path) as file:
    return int(file.read())

peers.watch("localhost", index, count, of_first)
print("up", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def three(tmp_path):
  """Three processes that watch each other, each until it reads a line."""
  started = [
    subprocess.Popen(
      [sys.executable, "-c", SCRIPT, str(i), "3", str(tmp_path / "port")],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(3)
  ]
  for process in started:
    assert process.stdout.readline() == "up\n", process.communicate()
  yield started
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("victim", [0, 2])
def test_one_that_is_killed_ends_all(three, victim):
  three[victim].kill()
  for i, process in enumerate(three):
    if i != victim:
      assert process.wait(timeout=60) == peers.EXIT_CODE  # its input is still open
      err = process.stderr.read().strip()
      assert "\n" not in err
      assert err.startswith(f"error: process {victim} of this run is gone")
      assert "the same command on all processes continues" in err


def test_those_that_end_in_good_order_leave_the_others_alone(three):
  for i in (2, 0, 1):
    out, err = three[i].communicate("end\n", timeout=60)
    assert (three[i].returncode, err) == (0, "")
    time.sleep(0.2)
    assert all(p.poll() in (None, 0) for p in three)


def test_nobody_who_cannot_be_reached_is_watched(caplog):
  peers.watch("localhost", 1, 2, lambda _: 1)  # nothing listens there
  assert "does not watch the others" in caplog.text


def test_a_stranger_is_sent_away(tmp_path):
  def of_first(ticket):
    with socket.create_connection(("localhost", ticket % 2**16)) as stranger:
      stranger.sendall(b"GET / HTTP/1.1")
    one = [sys.executable, "-c", SCRIPT, "1", "2", str(tmp_path / "ticket")]
    (tmp_path / "ticket").write_text(str(ticket))
    started.append(subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    return ticket

  started = []
  peers.watch("localhost", 0, 2, of_first)
  (process,) = started
  out, _ = process.communicate("end\n", timeout=60)
  assert out == "up\n"
  assert process.returncode == 0
