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


def test_the_second_ctrl_c_interrupts_at_once():
  with signals.catch() as flag:
    os.kill(os.getpid(), signal.SIGINT)
    assert flag.requested()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
