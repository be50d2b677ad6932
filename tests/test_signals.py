import os
import signal

import pytest

from vit_jax import signals


@pytest.mark.parametrize("notice", signals.NOTICES)
def test_a_scheduler_may_repeat_itself(notice):
  with signals.catch() as flag:
    os.kill(os.getpid(), notice)
    os.kill(os.getpid(), signal.SIGTERM)
    assert flag.requested()


@pytest.mark.parametrize(("seconds", "calls"), [(0.01, 10), (0.5, 4), (1.5, 1), (60.0, 1)])
def test_processes_ask_each_other_every_two_seconds_or_ten_calls(monkeypatch, seconds, calls):
  asked = []
  monkeypatch.setattr(signals.jax, "process_count", lambda: 2)
  monkeypatch.setattr(signals.parallel, "all_agree", lambda ok: asked.append(ok) or ok)
  monkeypatch.setattr(signals.parallel, "of_first", lambda value: value)
  flag = signals.StopFlag()
  assert not flag.requested()
  assert len(asked) == 1  # each time, as long as nobody knows how long a call takes
  flag.pace(seconds)
  flag.signum = signal.SIGUSR1
  for _ in range(calls - 1):
    assert not flag.requested()
    flag.pace(seconds)  # as after each step that is logged: it must not begin anew
  assert flag.requested()
  assert asked == [True, False]


def test_the_second_ctrl_c_interrupts_at_once():
  with signals.catch() as flag:
    os.kill(os.getpid(), signal.SIGINT)
    assert flag.requested()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
