"""A config and a grid of its keys as independent runs, each with a name that tells it apart."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ml_collections

from vit_jax import branches, cli, rundir
from vit_jax import config as config_lib
from vit_jax.errors import UserError

# A file name has 255 bytes at most; what files are written beside it needs a few more.
LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Axis:
  """One key of the config and the values that it takes, as they are written on a command line."""

  key: str
  values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """One trunk with its branches, or one run without any.

  Attributes:
    name: of its directory within the sweep's, "" for the sweep's own.
    label: how it is called in tables.
    directory: its run directory.
    flags: of `vit_jax.main`, for this run.
    config: resolved.
    plan: its steps.
  """

  name: str
  label: str
  directory: Path
  flags: tuple[str, ...]
  config: ml_collections.ConfigDict
  plan: branches.Plan


def axis(text: str) -> Axis:
  """Reads KEY=VALUE,VALUE,…; commas within brackets and quotes are part of a value.

  Raises:
    UserError: it is not of this form.
  """
  key, equals, values = text.partition("=")
  split = _split(values)
  if not (key and equals) or "" in split:
    raise UserError(f"--grid {text}: write KEY=VALUE,VALUE,… such as seed=0,1,2")
  return Axis(key, split)


def _split(text: str) -> tuple[str, ...]:
  parts, depth, mark = [""], 0, ""
  for c in text:
    if mark:
      mark = "" if c == mark else mark
    elif c in "\"'":
      mark = c
    elif c in "([{":
      depth += 1
    elif c in ")]}":
      depth -= 1
    elif c == "," and depth == 0:
      parts.append("")
      continue
    parts[-1] += c
  return tuple(part.strip() for part in parts)


def expand(
  config: str, workdir: Path, axes: Sequence[Axis] = (), overrides: Sequence[str] = ()
) -> list[Run]:
  """Returns the runs of a config: every rung of its ladder with every point of the grid.

  Args:
    config: "FILE.py" or "FILE.py:ARG".
    workdir: of the sweep; each run is in a directory below it.
    axes: the grid.
    overrides: flags `--config.KEY=VALUE` that hold for all runs.

  Raises:
    UserError: a mistake in the config or the grid, two runs that are the same, or a directory that
      holds a run with another config.
  """
  keys = [a.key for a in axes]
  for key in keys:
    if keys.count(key) > 1:
      raise UserError(f"--grid names {key} twice: give all of its values at once")
  runs: dict[str, Run] = {}
  same: dict[str, str] = {}
  for values in itertools.product(*(a.values for a in axes)):
    point = [f"--config.{key}={value}" for key, value in zip(keys, values, strict=True)]
    changes = (*overrides, *point)
    for rung, resolved in cli.load_rungs(config, changes).items():
      name = run_name(rung, {key: _get(resolved, key) for key in keys})
      if name in runs:
        raise UserError(f"the grid has {name or 'the same run'} twice: {' '.join(point)}")
      content = json.dumps(config_lib.to_json(resolved), sort_keys=True)
      if content in same:
        raise UserError(
          f"{same[content]} and {name} are the same run: what tells their rungs apart is set for "
          "all of them; drop that, or choose one rung"
        )
      same[content] = name
      directory = workdir / name
      rundir.check_config(directory, resolved)
      plan = branches.plan(resolved.branches, resolved.cooldown, resolved.total_steps)
      flags = ["--config", config, "--workdir", str(workdir)]
      flags += ["--rung", rung] if rung else []
      flags += ["--run", name] if name != rung else []
      label = name or workdir.resolve().name
      runs[name] = Run(name, label, directory, (*flags, *changes), resolved, plan)
  return list(runs.values())


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
  node = config
  for part in key.split("."):
    node = node[part]
  return node


def run_name(rung: str, point: dict[str, Any]) -> str:
  """Returns a name such as "w16,optimizer.learning_rate=0.001,seed=1".

  It depends on nothing but the rung and the values, in whatever order they are given, and no two
  points have the same: in values a "/" becomes "~", and what else a file name should not hold is
  written as %XX.

  Args:
    rung: of the ladder, or "".
    point: key -> value.
  """
  parts = [rung] if rung else []
  parts += [f"{key}={_text(value)}" for key, value in sorted(point.items())]
  name = ",".join(parts)
  if len(name) > LONGEST_NAME:
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    whole = re.sub("%.?$", "", name[: LONGEST_NAME - 13])  # no half of an escape
    name = f"{whole},{digest}"
  return name


def _text(value: Any) -> str:
  if isinstance(value, (tuple, list)) and value and all(_is_scalar(v) for v in value):
    return "+".join(map(_escape, value))
  return _escape(value)


def _is_scalar(value: Any) -> bool:
  return isinstance(value, (str, int, float))


def _escape(value: Any) -> str:
  text = value if isinstance(value, str) else repr(value)
  return quote(text, safe="/").replace("~", "%7E").replace("/", "~")
