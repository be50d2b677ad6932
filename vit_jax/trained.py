"""A trained model to be examined: the weights of a checkpoint, the model, the devices, the data."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from vit_jax import config as config_lib
from vit_jax import initial, job, measurements, parallel, rundir
from vit_jax.errors import UserError
from vit_jax.job import Job
from vit_jax.state import as_variables


@dataclasses.dataclass(frozen=True)
class Trained:
  """Weights and all that is needed to compute with them.

  Attributes:
    name: for tables and figures.
    job: of the run: its config, mesh, model, loss, data and evaluators.
    params: float32, on the devices, sharded like a state's.
    batch_stats: likewise; {} for models without running statistics.
    step: how long they were trained; None for weights from a file.
    sha256: of the weights, see `initial.Initial`; "seed N" for those of an initialisation.
    branch: the step at which the branch ends whose weights these are, or None.
    seconds: device seconds that their training took.
    errors: metric -> fraction, as training measured them at this step; {} where it did not.
  """

  name: str
  job: Job
  params: Any
  batch_stats: Any
  step: int | None
  sha256: str
  branch: int | None = None
  seconds: float = 0.0
  errors: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Any]:
    """Returns what `model.apply` takes in evaluation."""
    return as_variables(self.params, self.batch_stats)

  @property
  def model(self) -> nn.Module:
    """The model."""
    return self.job.model

  def load(self, split: str) -> Any:
    """Opens a split of the run's data set, decoded once for all that ask."""
    return self.job.load(split)


def of_run(
  directory: Path,
  *,
  step: int | None = None,
  name: str | None = None,
  log: Callable[[str], None] = lambda _: None,
) -> Trained:
  """Reads a checkpoint of a run or branch.

  Args:
    directory: with config.json and checkpoints; `<workdir>/branches/<step>` for a branch.
    step: of the checkpoint; None for the last one, 0 for the initialisation from the seed.
    name: how to call it; None for what tells it from other runs.
    log: is told what becomes of each tensor.

  Raises:
    UserError: no run, or no such checkpoint.
  """
  directory = Path(directory).expanduser()
  # What it began with and learned from is in its weights now.
  config = _merged(_read_config(directory), {"init_from": None, "distill": {"teacher": None}})
  config = config_lib.resolve(_of_this_machine(config))
  found = of_config(config, directory, step=step, name=name or _name(directory), log=log)
  return dataclasses.replace(
    found,
    branch=_branch(directory),
    seconds=initial.seconds(directory, found.step) if found.step else 0.0,
    errors=_errors(directory, found.step),
  )


def of_config(
  config: ml_collections.ConfigDict,
  source: Path | None,
  *,
  step: int | None = None,
  name: str | None = None,
  log: Callable[[str], None] = lambda _: None,
) -> Trained:
  """Returns the model of a config with weights from elsewhere.

  Args:
    config: resolved.
    source: a weights file or a run directory; None for what `config.init_from` names, or the
      initialisation from the seed.
    step: of a run's checkpoint; None for the last one, 0 for the initialisation.
    name: how to call it.
    log: is told what becomes of each tensor.

  Raises:
    UserError: see `job.build` and `initial.read_weights`.
  """
  source = source if source is not None else config.init_from
  name = name or (Path(source).stem if source else config.model.name)
  made = job.build(config, name, trains=False)
  if source is None or step == 0:
    state = made.create_state()
    return Trained(name, made, state.params, state.batch_stats, 0, f"seed {config.seed}")
  is_run = Path(source).expanduser().is_dir()
  if is_run and step is None:
    step = initial.last_step(Path(source))
  options = dict(head=config.init_head, interpolation=config.init_interpolation)
  options["key"] = jax.random.key(config.seed)
  found = initial.read_weights(str(source), made.model, log, step=step, **options)
  placed = {
    collection: parallel.place(jax.tree.map(_single, tree), made.mesh)
    for collection, tree in found.variables.items()
  }
  stats = placed.get("batch_stats", {})
  return Trained(name, made, placed["params"], stats, step if is_run else None, found.sha256)


def _of_this_machine(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a run's config without the mesh and the data directory of another machine."""
  changes: dict[str, Any] = {}
  try:
    parallel.make_mesh(**config.get("mesh", {}))
  except UserError:
    changes["mesh"] = {"data": -1, "fsdp": 1, "zero1": 1}  # whole parameters on each device
  where = config.get("data", {}).get("dir")
  if where is not None and not Path(where).expanduser().exists():
    changes["data"] = {"dir": None}  # what TFDS_DATA_DIR says, or the default
  return _merged(config, changes)


def _single(value: Any) -> np.ndarray:
  return np.asarray(value, np.float32)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  out = dict(base)
  for key, value in changes.items():
    nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
    out[key] = _merged(out[key], value) if nested else value
  return out


def _read_config(directory: Path) -> dict[str, Any]:
  path = directory / rundir.CONFIG_FILE
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    runs = sorted(str(p.parent) for p in directory.glob(f"*/{rundir.CONFIG_FILE}"))
    hint = f"give one of its runs, such as {runs[0]}" if runs else "give a run's --workdir"
    raise UserError(f"{directory} is no run directory (it has no config.json): {hint}") from None
  except (OSError, ValueError) as e:
    raise UserError(f"{path} cannot be read as a run's config ({e}): restore it") from e


def _errors(directory: Path, step: int | None) -> dict[str, float]:
  measured = [
    m["metrics"]
    for m in measurements.read(directory)
    if m["step"] == step and not m["extra"].get(measurements.LATER)
  ]
  return {k: v for metrics in measured for k, v in metrics.items() if k.endswith("_error")}


def _name(directory: Path) -> str:
  """Returns "run" or, for a branch, "run@step"."""
  directory, branch = directory.resolve(), _branch(directory)
  return directory.name if branch is None else f"{directory.parent.parent.name}@{branch}"


def _branch(directory: Path) -> int | None:
  directory = directory.resolve()
  is_branch = directory.parent.name == "branches" and directory.name.isdigit()
  return int(directory.name) if is_branch else None
