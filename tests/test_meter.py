"""What a run says of its own speed: the arithmetic, the line, and the TensorBoard points."""

import resource
import struct

import pytest
from tensorboardX.proto import event_pb2
from training import tiny

from vit_jax import meter, train
from vit_jax.progress import Reporter


class Clock:
  """Stands for the module `time`."""

  def __init__(self):
    self.now = 100.0

  def perf_counter(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(meter, "time", clock)
  return clock


def test_speed_waiting_and_utilisation(clock):
  m = meter.Meter(10, batch_size=64, flops=2e9, peak=1e12)
  for _ in range(5):
    with m.waiting():
      clock.now += 0.25
    clock.now += 0.75
  clock.now += 7.0  # an evaluation
  m.pause(7.0)
  found = m.read(15)
  assert found["images_per_second"] == pytest.approx(64)
  assert found["seconds_per_step"] == pytest.approx(1)
  assert found["data_wait"] == pytest.approx(0.25)
  assert found["data_wait_share"] == pytest.approx(0.25)
  assert found["mfu"] == pytest.approx(64 * 2e9 / 1e12)
  clock.now += 4
  again = m.read(17)
  assert again["seconds_per_step"] == pytest.approx(2)
  assert again["data_wait"] == 0


def test_without_a_peak_there_is_no_utilisation(clock):
  m = meter.Meter(0, batch_size=1)
  clock.now += 1
  assert "mfu" not in m.read(1)


def test_memory_is_the_kernel_s_high_water_mark():
  assert meter.memory_peak() == pytest.approx(
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.02
  )


def test_the_line_fits_100_columns(capsys):
  full = dict(loss=2.3025, learning_rate=1e-3, images_per_second=12345.0, seconds_per_step=0.3)
  full |= dict(data_wait_share=0.12, mfu=0.55, memory_peak_gib=61.23)
  Reporter("ladder/S", 0, 9000).log(5000, full)
  line = capsys.readouterr().err.rstrip()
  assert len(line) <= 100
  assert line.startswith("ladder/S  5000/9000  loss 2.3025  lr 1.0e-03  12345 images/s  MFU 55%")
  assert line.endswith("data 12%  ETA 20m00s  61 GiB")
  Reporter("ladder/S", 0, 9000).log(5000, full | dict(data_wait_share=0.02))
  assert "data" not in capsys.readouterr().err


def scalars(directory):
  """Returns (tag, step) -> value of all event files; their records are TFRecords."""
  found = {}
  for path in directory.glob("events.*"):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (length,) = struct.unpack("<Q", data[at : at + 8])
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
      found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
      at += 16 + length
  return found


def test_tensorboard_has_them(tmp_path):
  train.run(tiny(branches=(), total_steps=6), tmp_path, "t")
  found = scalars(tmp_path)
  for key in ("loss", "images_per_second", "seconds_per_step", "data_wait", "memory_peak_gib"):
    assert {step for tag, step in found if tag == f"train/{key}"} == {3, 6}
  assert found["train/compile_seconds", 0] > 0
  assert not any(tag == "train/mfu" for tag, _ in found)  # a CPU's peak is not known
