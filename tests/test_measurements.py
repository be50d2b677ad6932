import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from vit_jax import measurements
from vit_jax.measurements import Measurement, Writer


def make(step: int, **changes) -> Measurement:
  fields = dict(
    run="r",
    branch=None,
    final=False,
    model="ViT-mu/4",
    parameters=1,
    image_size=16,
    step=step,
    images_seen=step,
    train_flops=1.0,
    flops_per_image=1.0,
    device_kind="cpu",
    device_count=1,
    device_seconds=1.0,
    dataset="d",
    dataset_size=1,
    seed=0,
    config_hash="h",
    metrics={"test_error": 0.5},
    time="t",
  )
  return Measurement(**{**fields, **changes})


def test_round_trip(tmp_path):
  writer = Writer(tmp_path)
  for step in (1, 2):
    writer.write(make(step))
  read = measurements.read(tmp_path)
  assert [r["step"] for r in read] == [1, 2]
  assert read[0] == dataclasses.asdict(make(1))
  assert 1 in Writer(tmp_path)
  assert 3 not in Writer(tmp_path)


def test_a_step_is_recorded_once(tmp_path):
  Writer(tmp_path).write(make(1))
  with pytest.raises(ValueError, match="recorded already"):
    Writer(tmp_path).write(make(1))


def test_every_torn_tail_is_cut_and_written_anew(tmp_path):
  line = make(2).to_line()
  for cut in (0, 1, len(line) // 2, len(line) - 1):
    path = tmp_path / measurements.FILE_NAME
    path.write_text(make(1).to_line() + line[:cut])
    assert [r["step"] for r in measurements.read(tmp_path)] == [1]
    writer = Writer(tmp_path)
    assert 2 not in writer
    writer.write(make(2))
    assert [r["step"] for r in measurements.read(tmp_path)] == [1, 2]


def test_a_damaged_line_is_named(tmp_path):
  (tmp_path / measurements.FILE_NAME).write_text("{}\n{nonsense\n")
  with pytest.raises(ValueError, match="jsonl:2"):
    measurements.read(tmp_path)


def test_not_a_number_is_never_written(tmp_path):
  with pytest.raises(ValueError, match="not JSON compliant"):
    Writer(tmp_path).write(make(1, metrics={"test_error": float("nan")}))
  assert measurements.read(tmp_path) == []


FILL = """
import resource, signal, sys
from test_measurements import make
from vit_jax.measurements import Writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
  Writer(sys.argv[1]).write(make(2))
except OSError:
  sys.exit(7)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
  """A file size limit stands for the disk: the write comes back short or fails."""
  Writer(tmp_path).write(make(1))
  before = (tmp_path / measurements.FILE_NAME).read_bytes()
  code = subprocess.run(
    [sys.executable, "-c", FILL, str(tmp_path), str(len(before) + 20)],
    cwd=Path(__file__).parent,
    check=False,
  ).returncode
  assert code == 7
  assert (tmp_path / measurements.FILE_NAME).read_bytes() == before


def test_other_processes_count_but_do_not_write(tmp_path):
  writer = Writer(tmp_path, writes=False)
  writer.write(make(1))
  assert 1 in writer
  assert not (tmp_path / measurements.FILE_NAME).exists()
