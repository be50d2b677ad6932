"""What goes wrong about one job, or about what is printed, and takes no other job with it."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading

import pytest
from plain_jobs import HOLDING, Script, launch, script, states, wait_for
from training import write_config

from scaling import sweep
from scaling.launch import display, local
from scaling.launch.places import Place
from vit_jax import measurements

# Waits for the signal that lets it save, which takes so many seconds.
SAVES = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
time.sleep({})
"""


@contextlib.contextmanager
def unread(monkeypatch, *names):
  """Puts in the place of streams of `sys` one whose reader the context's value sends away."""
  reader, writer = os.pipe()
  stream = os.fdopen(writer, "w")
  for name in names:
    monkeypatch.setattr(sys, name, stream)
  yield lambda: os.close(reader)
  with contextlib.suppress(BrokenPipeError):
    stream.close()


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}], ids=["lines", "table"])
def test_ctrl_c_that_ends_the_reader_as_well_lets_jobs_save(tmp_path, monkeypatch, variables):
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  work = [script(tmp_path / name, SAVES.format(s)) for name, s in (("fast", 0), ("slow", 2))]

  with unread(monkeypatch, "stderr") as leave:

    def interrupt():
      wait_for(lambda: all(j.log.exists() and "\nup\n" in j.log.read_text() for j in work))
      leave()
      signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with display.Display() as show:
      launcher = local.Launcher(work, [Place(None, {})] * 2, {}, show)
      assert launcher.run() == signal.SIGINT
    thread.join()
  assert states(launcher.entries) == [local.DONE] * 2
  assert isinstance(launcher.unshown, BrokenPipeError)


def run_sweep(tmp_path, monkeypatch, *work):
  """Runs the command with these jobs in the place of its own, whose directory is `out`."""
  monkeypatch.setattr(sweep.jobs, "of_runs", lambda runs: list(work))
  return sweep.main(["--config", write_config(tmp_path), "--workdir", str(tmp_path / "out")])


def test_the_exit_status_is_right_when_nobody_reads(tmp_path, monkeypatch):
  with unread(monkeypatch, "stdout", "stderr") as leave:
    leave()
    assert run_sweep(tmp_path, monkeypatch, script(tmp_path / "out")) == 0
    sys.stdout.flush()  # as Python does at its end: an error there makes the status 120
    sys.stderr.flush()


def test_what_was_not_shown_is_told(tmp_path, monkeypatch, capsys):
  with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as m:
    m.setattr(sys, "stderr", os.fdopen(os.dup(full.fileno()), "w"))
    assert run_sweep(tmp_path, m, script(tmp_path / "out")) == 0
    sys.stderr.close()
  out = capsys.readouterr().out
  assert "1 done" in out
  assert "not all was shown: stderr could not be written ([Errno 28] No space left" in out


def test_a_job_that_cannot_start_fails_alone(tmp_path, monkeypatch, capsys):
  (tmp_path / "bad").write_text("a file where its directory should be")
  bad, fine = script(tmp_path / "bad"), script(tmp_path / "out")
  assert run_sweep(tmp_path, monkeypatch, bad, fine) == 1
  out = capsys.readouterr().out
  assert "1 failed, 1 done" in out
  assert f"bad failed: [Errno 17] File exists: '{bad.directory}'; its log is {bad.log}" in out
  assert f"alone: {bad.shown_command()}" in out


class Unreadable(Script):
  """A job that leaves measurements which are none."""

  def finished(self):
    return any(m["final"] for m in measurements.read(self.directory))


def test_a_job_whose_measurements_cannot_be_read_fails_alone(tmp_path, monkeypatch, capsys):
  path = tmp_path / "out" / measurements.FILE_NAME
  made = script(path.parent, f"open({str(path)!r}, 'w').write('nonsense\\n')")
  bad = Unreadable(**{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
  assert run_sweep(tmp_path, monkeypatch, bad, script(tmp_path / "fine")) == 1
  out = capsys.readouterr().out
  assert "1 failed, 1 done" in out
  assert f"out failed: {path}:1 is not a JSON line" in out


def test_cores_that_are_gone_are_not_needed(tmp_path):
  job = script(tmp_path / "job", "import time; time.sleep(0.3)")
  launcher = local.Launcher([job], [Place(frozenset([100_000]), {})], {}, lambda entries: None)
  launcher.run()
  assert states(launcher.entries) == [local.DONE]


def test_a_job_that_another_sweep_has_begun_at_the_same_time_is_waited_for(tmp_path, monkeypatch):
  monkeypatch.setattr(local, "_LOOK_AGAIN", 0.2)
  directory = tmp_path / "job"
  beaten = (
    "import subprocess, sys\n"
    f"other = subprocess.Popen([sys.executable, '-c', {HOLDING!r}, {str(directory)!r}], "
    "stdout=subprocess.PIPE)\nother.stdout.readline()\nraise SystemExit(2)"
  )
  seen = []
  _, entries = launch([script(directory, beaten)], show=lambda e: seen.extend(states(e)))
  assert list(dict.fromkeys(seen)) == [local.RUNNING, local.ELSEWHERE, local.DONE]
  assert entries[0].job.log.read_text().count("$ python") == 1


def test_a_job_that_another_sweep_has_finished_at_the_same_time_is_done(tmp_path):
  directory = tmp_path / "job"
  beaten = f"open({str(directory / 'done')!r}, 'w')\nraise SystemExit(2)"
  _, entries = launch([script(directory, beaten)])
  assert states(entries) == [local.DONE]
