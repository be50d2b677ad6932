"""Variables of a model into a file that others can read."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.pretrained import rules
from vit_jax.pretrained.formats import FORMATS
from vit_jax.pretrained.match import OWN, is_head, shapes, unscanned


def export(
  path: str | PathLike,
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  to: Literal["timm", "vit_jax"] = "timm",
  name: str = "",
  overwrite: bool = False,
) -> None:
  """Writes the variables of a model as .safetensors, whole or not at all.

  The file's metadata have the model's class, its fields and `name`.

  Args:
    path: of the file.
    model: with or without scan.
    variables: {"params": ..., "batch_stats": ...}; the heads may be absent (see `load`).
    to: "timm": the names of timm (where it lacks the model, those of the model's own project), so
      that `torch` users can load them; "vit_jax": our own paths, as "params/head/kernel".
    name: of the model in the catalogue, for the metadata.
    overwrite: replace a file that is there.

  Raises:
    UserError: the file is there already or cannot be written, or the variables are not those of
      the model.
  """
  import safetensors.numpy  # noqa: PLC0415  (only this needs it)

  path = check_free(path, overwrite)
  arrays = _arrays(model, variables, to)
  metadata = {"format": "pt" if to == "timm" else "vit_jax", **_description(model, name)}
  data = safetensors.numpy.save(arrays, metadata)
  _write(path, data)


def check_free(path: str | PathLike, overwrite: bool) -> Path:
  """Returns the path; raises UserError if nothing can be written there."""
  path = Path(path).expanduser()
  if path.exists() and not overwrite:
    raise UserError(
      f"{path} is there already: choose another name, or overwrite it (--force, overwrite=True)"
    )
  if not path.parent.is_dir():
    raise UserError(f"the directory {path.parent} is not there")
  return path


def _arrays(model: nn.Module, variables: Mapping[str, Any], to: str) -> dict[str, np.ndarray]:
  model = unscanned(model)
  if to == "timm" and type(model) not in FORMATS:
    raise UserError(f'{type(model).__name__} has no names of timm: use to="vit_jax"')
  fmt = FORMATS[type(model)][0] if to == "timm" else OWN
  ours = {k: stacking.unstack(v) for k, v in variables.items() if k in ("params", "batch_stats")}
  ours = {k: np.asarray(x, np.float32) for k, x in flatten_dict(ours, sep="/").items()}
  wanted = [r for r in fmt.rules(model) if not is_head(r) or all(p in ours for p in r.ours)]
  expected = shapes(model)
  for path in (p for r in wanted for p in r.ours):
    if path not in ours or ours[path].shape != expected[path]:
      got = f"shape {ours[path].shape}" if path in ours else "no such array"
      raise UserError(f"{path} must have shape {expected[path]}, the variables have {got}")
  return rules.save(wanted, ours)


def _description(model: nn.Module, name: str) -> dict[str, str]:
  fields = {
    f.name: getattr(model, f.name)
    for f in dataclasses.fields(model)
    if f.name not in ("parent", "name")
  }
  plain = {k: v for k, v in fields.items() if isinstance(v, bool | int | float | str | tuple)}
  return {"model": name or type(model).__name__, "fields": json.dumps(plain)}


def _write(path: Path, data: bytes) -> None:
  """Writes beside the place and renames: a crash leaves the old file or none."""
  temporary = None
  try:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
      temporary = Path(f.name)
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)
  except OSError as e:
    raise UserError(f"{path} cannot be written: {e.strerror}") from e
  finally:
    if temporary is not None:
      temporary.unlink(missing_ok=True)
