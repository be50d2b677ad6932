"""From a config and a cell to the config that trains it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections

import vit_jax
from scaling.errors import DataError
from scaling.planner import topology
from scaling.planner.grid import Cell, Shape
from scaling.planner.savings import SAVINGS
from vit_jax import averages, cli
from vit_jax import config as config_lib
from vit_jax.errors import UserError

# Keys of a config that a compiled cell does not depend on, for the cell sets them or nobody looks.
_IRRELEVANT = (
  *("batch_size", "mesh", "model.name", "model.remat"),
  *(f"model.{field.name}" for field in dataclasses.fields(Shape)),
  *("evaluators", "branches", "seed", "log_every", "checkpoint_every", "total_steps", "cooldown"),
  *(f"data.{key}" for key in ("name", "dir", "split", "train", "eval", "num_threads", "cache")),
)
# Keys by which a step does what no estimate has, unless they have their defaults.
_NOT_ESTIMATED = (
  *("sam.kind", "adversarial.kind", "contrastive.kind", "distill.teacher"),
  *("freeze", "data.resident"),
)
# Parts of vit_jax that it does not depend on either.
_ELSEWHERE = ("data", "evaluators", "sharpness", "corruptions", "pretrained")


Fields = tuple[tuple[str, Any], ...]  # of a dict, to be hashed


@dataclasses.dataclass(frozen=True)
class Kind:
  """What all cells of a plan that have one optimiser have in common.

  Attributes:
    model: fields of the model that no cell sets.
    optimizer: options of `optim.make`.
    image_size: in pixels.
    classes: of the head.
    averages: copies of the parameters, in float32, that their averages are made of.
    snapshots: how many of these copies are `lawa`'s.
    accumulate: micro-batches of a step.
    itemsize: bytes of the numbers that the model computes with.
    scan: whether the model scans over its blocks.
    within: whether parameters are updated within the backward pass.
  """

  model: Fields
  optimizer: Fields
  image_size: int
  classes: int
  averages: int
  snapshots: int
  accumulate: int
  itemsize: int
  scan: bool
  within: bool

  @property
  def pool(self) -> str:
    """Returns how tokens become features."""
    return dict(self.model).get("pool", "tok")

  @property
  def distilled(self) -> bool:
    """Returns whether there is a second token beside the class token."""
    return bool(dict(self.model).get("distilled"))


@dataclasses.dataclass(frozen=True)
class Plan:
  """A config file with overrides, to be laid out over a grid.

  Attributes:
    path: of the config file, with its argument.
    overrides: flags --config.KEY=VALUE.
    classes: number of classes.
  """

  path: str
  overrides: tuple[str, ...]
  classes: int

  @property
  def base(self) -> ml_collections.ConfigDict:
    """Returns the config as the file and the overrides have it.

    Raises:
      DataError: it cannot be read, or its model has no such shapes.
    """
    return _load(self.path, self.overrides)

  @property
  def left_out(self) -> list[str]:
    """Returns the keys, as "sam.kind=sam", that add to a step what no estimate has."""
    flat, plain = (
      dict(config_lib.flatten(config_lib.to_json(c))) for c in (self.base, config_lib.default())
    )
    return [f"{key}={flat[key]}" for key in _NOT_ESTIMATED if flat[key] != plain[key]]

  def kind(self, optimizer: str) -> Kind:
    """Returns what the cells with an optimiser of `savings.SAVINGS` have in common.

    Raises:
      DataError: the config cannot be read, or its averages contradict themselves.
    """
    return _kind(self, optimizer)

  def config(self, cell: Cell) -> ml_collections.ConfigDict:
    """Returns the resolved config of a cell.

    Raises:
      DataError: the cell does not go together with the config.
    """
    shape, setting = cell.shape, cell.setting
    config = self.base.copy_and_resolve_references().unlock()
    fields = dataclasses.asdict(shape)
    changes = {f"model.{key}": value for key, value in fields.items()}
    changes |= {"model.remat": setting.remat, "mesh.fsdp": setting.fsdp}
    changes |= {"mesh.zero1": setting.zero1, "mesh.data": -1}
    _set(config, changes | SAVINGS[setting.optimizer].changes)
    config.batch_size = setting.batch * topology.find(setting.topology).devices
    try:
      return config_lib.resolve(config)
    except UserError as e:
      raise DataError(f"{cell.shape}, {setting.optimizer}: {e}") from None

  def key(self, cell: Cell) -> str:
    """Returns what a compiled cell depends on, as 16 hex digits: config, compiler and code."""
    known = [_digest(self, cell.setting.optimizer), cell.to_json()]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _load(path: str, overrides: tuple[str, ...]) -> ml_collections.ConfigDict:
  try:
    config = cli.load_config(path, overrides)
  except UserError as e:
    raise DataError(str(e)) from None
  if not config.model.name.startswith("ViT-"):
    raise DataError(
      f"{path}: the model is {config.model.name}, but shapes are planned of ViTs; "
      "--config.model.name=ViT-B/16 makes it one"
    )
  if config.ladder:
    raise DataError(f"{path}: has a ladder; give the config of one model")
  return config


def _set(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> None:
  for key, value in changes.items():
    *groups, leaf = key.split(".")
    node = config
    for group in groups:
      node = node[group]
    node[leaf] = value


@cache
def _kind(plan: Plan, optimizer: str) -> Kind:
  config = plan.base.copy_and_resolve_references().unlock()
  _set(config, SAVINGS[optimizer].changes)
  given = {k: v for k, v in config.model.items() if v is not None}
  own = {"name", "scan", "remat", "dtype", *(f.name for f in dataclasses.fields(Shape))}
  try:
    followed = averages.make(config.ema, config.lawa)
  except UserError as e:
    raise DataError(str(e)) from None
  return Kind(
    tuple(sorted((k, v) for k, v in given.items() if k not in own)),
    tuple(sorted(config.optimizer.items())),
    config.data.image_size,
    plan.classes,
    bool(followed.decay) + followed.snapshots,
    followed.snapshots,
    config.accumulate,
    jnp.dtype(given.get("dtype", "float32")).itemsize,
    bool(given.get("scan")),
    config.updates == "within",
  )


@cache
def _digest(plan: Plan, optimizer: str) -> str:
  """Hashes all that a compiled cell depends on beside the cell itself."""
  config = plan.base.copy_and_resolve_references().unlock()
  _set(config, SAVINGS[optimizer].changes)
  flat = {
    key: value
    for key, value in config_lib.flatten(config_lib.to_json(config))
    if value is not None and not any(key == k or key.startswith(f"{k}.") for k in _IRRELEVANT)
  }
  known = [flat, plan.classes, versions(), _code()]
  return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> dict[str, str | None]:
  """Returns the versions of what compiles."""
  return {"jax": metadata.version("jax"), "libtpu": topology.libtpu_version()}


@cache
def _code() -> str:
  root = Path(vit_jax.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    if path.relative_to(root).parts[0] not in _ELSEWHERE:
      digest.update(path.read_bytes())
  return digest.hexdigest()


def positive(text: str, flag: str) -> list[int]:
  """Reads integers such as "24,32,40".

  Raises:
    DataError: anything else.
  """
  parts: Sequence[str] = text.split(",")
  if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
    raise DataError(f"{flag} {text}: give whole numbers from 1, with commas")
  return list(dict.fromkeys(map(int, parts)))
