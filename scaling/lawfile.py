"""Reads law.json back: the data it holds give the same fit again, with everything derived."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scaling import fit
from scaling.errors import DataError
from scaling.leastsquares import Loss
from scaling.points import Points
from scaling.result import ALLOCATION, SCHEMA, Fit


def load(path: str | Path) -> Fit:
  """Returns the fit that a law.json describes.

  Raises:
    DataError: the file does not exist or is not a law.json of this version.
  """
  try:
    law = json.loads(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise DataError(f"{path}: {error.strerror}") from error
  except ValueError as error:
    raise DataError(f"{path}: not valid JSON ({error})") from error
  schema = law.get("schema") if isinstance(law, dict) else None
  if isinstance(schema, int) and schema > SCHEMA:
    raise DataError(f"{path}: schema {schema} is newer than {SCHEMA}: update vit-scaling")
  if schema != SCHEMA:
    raise DataError(f"{path}: not a law.json of schema {SCHEMA}: write it with scaling.fit")
  try:
    return _refit(law)
  except DataError as error:
    raise DataError(f"{path}: {error}") from error
  except KeyError as error:
    raise DataError(f"{path}: entry {error} is missing: write it with scaling.fit") from error
  except (TypeError, ValueError, AttributeError) as error:
    raise DataError(f"{path}: an entry is of a wrong type ({error})") from error


def _refit(law: dict) -> Fit:
  rows, columns = law["data"], law["columns"]
  points = Points(
    np.array([row["x"] for row in rows], np.float64),
    np.array([row["y"] for row in rows], np.float64),
    np.array([str(row["group"]) for row in rows]),
    np.array([str(row["run"]) for row in rows]),
    [str(row["place"]) for row in rows],
    {name: str(columns[name]) for name in ("x", "y", "group")},
    [],
    [{k: float(row[k]) for k in ALLOCATION if k in row} for row in rows],
  )
  return fit.of_points(
    points,
    form=law["law"],
    variant=law["frontier"],
    loss=Loss(law["residual"], law["huber"]),
    emphasis=float(law["emphasis"]),
  )
