"""Reads law.json back: the data it holds give the same fit again, with everything derived."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scaling import fit
from scaling.errors import DataError
from scaling.leastsquares import Loss
from scaling.points import Points
from scaling.result import SCHEMA, Fit


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
    if not isinstance(law, dict) or law.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a law.json of schema {SCHEMA}: write it with scaling.fit")
    try:
        rows = law["data"]
        points = Points(
            np.array([row["x"] for row in rows], np.float64),
            np.array([row["y"] for row in rows], np.float64),
            np.array([row["group"] for row in rows]), np.array([row["run"] for row in rows]),
            [row["place"] for row in rows], law["columns"], [], rows,
        )
        loss = Loss(law["residual"], law["huber"])
        form, variant, emphasis = law["law"], law["frontier"], float(law["emphasis"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: incomplete ({error} is missing or of a wrong type)") from error
    return fit.of_points(points, form=form, variant=variant, loss=loss, emphasis=emphasis)
