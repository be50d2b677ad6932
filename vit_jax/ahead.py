"""Train steps for devices that are not here: lowered from shapes, compiled ahead of time."""

import os
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from vit_jax import config as config_lib
from vit_jax import job as job_lib
from vit_jax.data.sources import Example, Info, Source
from vit_jax.errors import UserError


class Unseen(Source):
  """Stands for a data set of which only the number of classes is known."""

  def __init__(self, num_classes: int, image_size: int) -> None:
    """Says what a model has to know."""
    self.info = Info(name="unseen", split="train", num_classes=num_classes, size=1, class_names=())
    self._image = np.zeros((image_size, image_size, 3), np.uint8)

  def __getitem__(self, index: int) -> Example:
    """Returns a black image."""
    return {"image": self._image, "label": 0}


def tpu_devices(topology: str) -> list[jax.Device]:
  """Returns the devices of a TPU slice such as "v3:2x2", "v4:2x2x1" or "v6e:2x2".

  A device is a core of v2 and v3, and a whole chip of the later ones: v4's two cores as one.

  Raises:
    UserError: libtpu is not installed, or knows no such slice.
  """
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the cloud what machine this is
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several compilers may run at once
  from jax.experimental import topologies  # noqa: PLC0415  (reads the environment)

  options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
  try:
    return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
  except Exception as e:  # of whatever class libtpu has
    reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    raise UserError(
      f"no TPU compiler for topology '{topology}' ({reason}): pip install libtpu, and name a slice "
      "such as v3:2x2, v4:2x2x1, v5e:2x2, v5p:2x2x1 or v6e:2x2"
    ) from None


def build(
  config: ml_collections.ConfigDict, devices: Sequence[jax.Device], num_classes: int
) -> job_lib.Job:
  """Returns the job of a config on other devices and unseen data, to be lowered.

  Args:
    config: resolved; its batch is that of all `devices`. Evaluators and data are not looked at.
    devices: of the mesh.
    num_classes: of the data.

  Raises:
    UserError: see `job.build`.
  """
  config = config.copy_and_resolve_references().unlock()
  plain = config_lib.default()  # which asks for no files
  config.evaluators = plain.evaluators
  config.data.train = config.data.eval = plain.data.eval
  data = Unseen(num_classes, config.data.image_size)
  return job_lib.build(config.lock(), "ahead", devices=devices, load=lambda _: data)
