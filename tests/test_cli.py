import pytest

from vit_jax import cli
from vit_jax.errors import UserError

FILE = (
  "from ml_collections import ConfigDict\n"
  "def get_config(arg='1'): return ConfigDict({'batch_size': int(arg)})\n"
)


@pytest.fixture
def file(tmp_path):
  (tmp_path / "c.py").write_text(FILE)
  return str(tmp_path / "c.py")


def test_file_argument_and_overrides(file):
  config = cli.load_config(
    file + ":32",
    [
      "--config.optimizer.learning_rate=0.5",
      "--config.branches=2_000,50",
      "--config.model.scan",
      "--config.data.dir=/data",
      "--config.cooldown=30",
    ],
  )
  assert config.batch_size == 32
  assert config.optimizer.learning_rate == 0.5
  assert tuple(config.branches) == (2000, 50)
  assert config.model.scan is True
  assert config.data.dir == "/data"
  assert config.cooldown == 30
  assert cli.load_config(file, ["--config.branches=7"]).branches == (7,)


@pytest.mark.parametrize(
  ("override", "message"),
  [
    (
      "--config.optimizer.learningrate=1",
      "unknown config key 'optimizer.learningrate'.*did you mean optimizer.learning_rate",
    ),
    ("--config.batch_size=many", "config.batch_size"),
    ("--confg.batch_size=3", "unknown flag '--confg.batch_size'"),
    ("batch_size=3", "unexpected argument 'batch_size=3'"),
  ],
)
def test_wrong_overrides_give_one_line(file, override, message):
  with pytest.raises(UserError, match=message) as e:
    cli.load_config(file, [override])
  assert "\n" not in str(e.value)


def test_an_override_holds_for_every_rung(tmp_path):
  (tmp_path / "c.py").write_text(
    "def get_config(): return dict(ladder=dict(a=dict(seed=1), b=dict(branches=(9,))))"
  )
  flags = ["--config.seed=5", "--config.ladder.b.branches=4"]
  rungs = cli.load_rungs(str(tmp_path / "c.py"), flags)
  assert {name: (r.seed, tuple(r.branches)) for name, r in rungs.items()} == {
    "a": (5, ()),
    "b": (5, (4,)),
  }


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:", "c.py:1: SyntaxError"),
    ("import nonsense_module", "c.py:1: ModuleNotFoundError"),
    ("\n\ndef get_config():\n  return 1 / 0", "c.py:4: ZeroDivisionError"),
    ("def get_config(): return None", "must return a ConfigDict, got None"),
  ],
)
def test_files_that_fail(tmp_path, text, message):
  (tmp_path / "c.py").write_text(text)
  with pytest.raises(UserError, match=message) as e:
    cli.load_config(str(tmp_path / "c.py"))
  assert "\n" not in str(e.value)


def test_wrong_files(tmp_path):
  with pytest.raises(UserError, match="not found"):
    cli.load_config(str(tmp_path / "no.py"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(UserError, match="no function get_config"):
    cli.load_config(str(tmp_path / "empty.py"))
