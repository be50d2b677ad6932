"""What every command line of vit_jax shares: config files, overrides, and one-line errors."""

import argparse
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from vit_jax import config as config_lib
from vit_jax import parallel
from vit_jax.errors import UserError

_OVERRIDE = re.compile(r"--(no)?config\.([^=]+)")


def add_process_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `parallel.initialize`."""
  group = parser.add_argument_group("several processes (found by themselves on TPU pods and Slurm)")
  group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
  group.add_argument("--num_processes", type=int, metavar="N")
  group.add_argument("--process_id", type=int, metavar="I")


def load_rungs(path: str, overrides: Sequence[str] = ()) -> dict[str, ml_collections.ConfigDict]:
  """Reads a config file and returns its rungs by name; an override holds for all of them.

  Args and errors: as for `load_config`; see `config.rungs`.
  """
  config = load_config(path, overrides)
  keys = [m.group(2).split("[")[0] for m in map(_OVERRIDE.match, overrides) if m]
  return config_lib.rungs(config, [k for k in keys if not k.startswith("ladder.")])


def pick_rung(
  rungs: Mapping[str, ml_collections.ConfigDict], name: str | None
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the rung that --rung names, all of them without it.

  Raises:
    UserError: there is no such rung.
  """
  if name is None:
    return dict(rungs)
  if name not in rungs:
    known = ", ".join(filter(None, rungs)) or "none: the config has no ladder"
    raise UserError(f"--rung {name}: the rungs are {known}")
  return {name: rungs[name]}


def load_config(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
  """Reads a config file and applies command-line overrides.

  Args:
    path: "configs/x.py", or "configs/x.py:arg" to call `get_config("arg")`.
    overrides: flags such as `--config.optimizer.learning_rate=1e-3`; every key of
      `vit_jax.config.default()` can be set, whether the file sets it or not.

  Raises:
    UserError: no such file, a file that fails or has no `get_config`, an unknown key, a wrong
      value.
  """
  file, _, arg = path.partition(":")
  if not Path(file).is_file():
    raise UserError(f"config file '{file}' not found; configs/ has examples")
  spec = importlib.util.spec_from_file_location("config_file", file)
  if spec is None:
    raise UserError(f"config file '{file}' is not a Python file: its name must end in .py")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise UserError(f"config file '{file}' has no function get_config()")
    changes = module.get_config(arg) if arg else module.get_config()
  except UserError:
    raise
  except Exception as e:  # whatever the file's own code does wrong
    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == file]
    line = getattr(e, "lineno", None) or (lines[-1] if lines else None)
    where = f"{file}:{line}" if line else file
    raise UserError(f"config file {where}: {type(e).__name__}: {' '.join(str(e).split())}") from e
  if not isinstance(changes, Mapping | ml_collections.ConfigDict):
    raise UserError(f"config file '{file}': get_config() must return a ConfigDict, got {changes!r}")
  return _override(config_lib.resolve(changes), overrides)


def _override(
  config: ml_collections.ConfigDict, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
  for text in overrides:
    match = _OVERRIDE.match(text)
    if match is None and text.startswith("-"):
      raise UserError(
        f"unknown flag '{text.split('=')[0]}': --help lists the flags, "
        "and --config.KEY=VALUE sets a config key"
      )
    if match:
      _check_key(config, match.group(2))
  values = flags.FlagValues()
  argv = ["config", *overrides]
  holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
  try:
    rest = values(argv)[1:]
  except (flags.Error, ValueError, TypeError) as e:
    raise UserError(f"{' '.join(str(e).split())}") from e
  if rest:
    raise UserError(f"unexpected argument '{rest[0]}': flags are written --config.KEY=VALUE")
  return config_lib.resolve(holder.value)


def _check_key(config: ml_collections.ConfigDict, key: str) -> None:
  node = config
  for part in re.split(r"[.\[]", key):
    if not isinstance(node, ml_collections.ConfigDict):
      return  # an index into a tuple: the flag parser checks it
    if part not in node:
      raise config_lib.unknown_key(key)
    node = node[part]


def run(main: Callable[[Sequence[str]], int]) -> None:
  """Runs a command and exits: 0 on success, 2 with one line on a mistake the user can mend."""
  try:
    sys.exit(main(sys.argv[1:]))
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    code = 2
  except KeyboardInterrupt:
    print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
    code = 130
  except Exception:
    parallel.let_peers_explain()
    traceback.print_exc()
    code = 1
  parallel.leave(code)
