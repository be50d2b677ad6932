import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.errors import UserError
from vit_jax.optim import __main__ as command
from vit_jax.optim import plot

CONFIG = """
from ml_collections import ConfigDict
def get_config():
  return ConfigDict(dict(
    batch_size=32, branches=(40, 100), cooldown=0.25, optimizer=dict(learning_rate=2e-3),
    schedule=dict(name="step", warmup=10, boundaries=(50,), factor=0.5),
    ladder=dict(small=dict(), large=dict(optimizer=dict(learning_rate=1e-3)))))
"""


@pytest.fixture
def config_file(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return str(path)


def test_curves_of_a_trunk_and_its_branches(config_file):
  config = config_lib.resolve(
    {
      **{"branches": (40, 100), "cooldown": 0.25, "optimizer": {"learning_rate": 2e-3}},
      "schedule": {"name": "step", "warmup": 10, "boundaries": (50,), "factor": 0.5},
    }
  )
  lines = plot.curves(config)
  assert list(lines) == [None, 40, 100]
  trunk = np.where(np.arange(76) < 50, 2e-3, 1e-3)
  trunk[:10] = np.arange(10) * 2e-4
  np.testing.assert_array_equal(lines[None][0], np.arange(76))
  np.testing.assert_allclose(lines[None][1], trunk, rtol=1e-6)
  np.testing.assert_allclose(lines[40][0], np.arange(30, 41))
  np.testing.assert_allclose(lines[40][1], 2e-3 * np.linspace(1, 0, 11), rtol=1e-6)
  np.testing.assert_allclose(lines[100][1], 1e-3 * np.linspace(1, 0, 26), rtol=1e-6)


def test_a_jump_in_a_long_run_is_drawn_as_one():
  config = config_lib.resolve(
    {"total_steps": 3_000_000, "schedule": {"name": "step", "boundaries": (1_234_567,)}}
  )
  steps, rates = plot.curves(config)[None]
  at = np.searchsorted(steps, 1_234_567)
  assert (steps[at - 1], steps[at]) == (1_234_566, 1_234_567)
  assert rates[at] == pytest.approx(0.1 * rates[at - 1])
  assert len(steps) < 25_000


@pytest.mark.parametrize("extra", [[], ["--rung", "large"], ["--log"]])
def test_the_command_writes_a_labelled_figure(config_file, tmp_path, extra, monkeypatch, capsys):
  figures = []
  write = plot.write
  monkeypatch.setattr(plot, "write", lambda *a, **k: figures.append(write(*a, **k)))
  out = tmp_path / "lr.png"
  assert command.main(["plot", "--config", config_file, "--out", str(out), *extra]) == 0
  assert out.read_bytes().startswith(b"\x89PNG")
  assert capsys.readouterr().out == f"wrote {out}\n"
  axes = figures[0].axes[0]
  assert axes.get_xlabel() == "step"
  assert axes.get_ylabel().startswith("learning rate")
  assert axes.child_axes[0].get_xlabel() == "epochs of 65,536 images"
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  rungs = ["large"] if "--rung" in extra else ["large", "small"]
  assert labels == [x for r in rungs for x in (f"{r} trunk", f"{r} cooldowns to 40, 100")]
  assert len(axes.lines) == 3 * len(rungs)
  assert axes.get_xlim()[1] == 100


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--rung", "huge"], "--rung huge: the rungs are large, small"),
    (["--out", "lr.txt"], "must end in .png"),
    (["--out", "no/such/directory/lr.png"], "No such file"),
    (["--config.schedule.name=cosine"], "'cosine' decays towards its own end, so it cannot be"),
    (["--config.schedule.nam=cosine"], "unknown config key 'schedule.nam'"),
    (["--config.schedule.name=cosin"], "unknown schedule 'cosin': did you mean 'cosine'"),
    (["--loog"], "unknown flag '--loog'"),
  ],
)
def test_mistakes_take_one_line(config_file, flags, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    command.main(["plot", "--config", config_file, *flags])
  assert "\n" not in str(error.value)


def test_help_teaches_by_example(capsys):
  with pytest.raises(SystemExit) as stopped:
    command.main(["plot", "--help"])
  assert stopped.value.code == 0
  shown = capsys.readouterr().out
  assert "--rung" in shown
  assert "python -m vit_jax.optim plot --config configs/cct_cifar10.py" in shown
