"""Everything durable about a run's state: save, restore, resume, fork."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from vit_jax.errors import UserError
from vit_jax.state import TrainState

DIRECTORY = "checkpoints"

# Besides those that branches start from: the newest, and one more should that be damaged.
KEEP_LATEST = 2

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates; its failures are raised


class Checkpoints:
  """The checkpoints of one run directory, by step.

  A checkpoint has three items: `params` (float32, alone restorable), `rest` (all else of the state)
  and `meta` (JSON: seconds spent, config hash). The position in the data is the step. Saves are
  asynchronous, and a step's directory appears under its name only when it is complete: a kill at
  any moment leaves the earlier ones.
  """

  def __init__(
    self, run_directory: Path, keep: Iterable[int] = (), read_only: bool = False
  ) -> None:
    """Opens the checkpoints below a run directory.

    Args:
      run_directory: they are in `<run_directory>/checkpoints/<step>`.
      keep: steps that are never deleted.
      read_only: for a branch that starts from another run's checkpoint.
    """
    self.directory = Path(run_directory).absolute() / DIRECTORY
    policy = policies.AnyPreservationPolicy(
      [policies.LatestN(KEEP_LATEST), policies.CustomSteps(tuple(keep))]
    )
    options = (
      ocp.CheckpointManagerOptions(read_only=True)
      if read_only
      else ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
    )
    self._manager = ocp.CheckpointManager(
      self.directory, options=options, item_names=("params", "rest", "meta")
    )

  def steps(self) -> list[int]:
    """Returns the steps of all complete checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def latest(self, at_most: int | None = None) -> int | None:
    """Returns the last step (not beyond `at_most`) that has a checkpoint, or None."""
    steps = [s for s in self.steps() if at_most is None or s <= at_most]
    return steps[-1] if steps else None

  def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
    """Starts to save; returns when the state may be donated. Saving a step again is skipped."""
    if step in self._manager.all_steps():
      return
    params, rest = _split(state)
    self._manager.save(
      step,
      force=True,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        rest=ocp.args.StandardSave(rest),
        meta=ocp.args.JsonSave(meta),
      ),
    )

  def meta(self, step: int) -> dict[str, Any]:
    """Returns the meta data of a step.

    Raises:
      UserError: the checkpoint is damaged.
    """
    return self._read(step, meta=ocp.args.JsonRestore()).meta

  def restore(self, step: int, target: TrainState) -> TrainState:
    """Returns the state of a step, laid out as `target` says.

    Raises:
      UserError: the checkpoint is damaged, or is one of another model or optimiser.
    """
    params, rest = _split(target)
    found = self._read(
      step, params=ocp.args.StandardRestore(params), rest=ocp.args.StandardRestore(rest)
    )
    return target.replace(params=found.params, **found.rest)

  def weights(self, step: int) -> dict[str, Any]:
    """Returns {"params": ...[, "batch_stats": ...]} of a step as NumPy arrays, of any model.

    Raises:
      UserError: the checkpoint is damaged.
    """
    reader = ocp.PyTreeCheckpointer()

    def read(item: str, keep: Callable[[Any], Any]) -> Any:
      directory = self.directory / str(step) / item
      saved = keep(reader.metadata(directory).item_metadata.tree)
      args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
      return reader.restore(
        directory, ocp.args.PyTreeRestore(item=saved, restore_args=args, partial_restore=True)
      )

    try:
      params = read("params", lambda tree: tree)
      stats = read("rest", lambda tree: {k: v for k, v in tree.items() if k == "batch_stats"})
    except Exception as e:
      raise self._damaged(step, e) from e
    found = {"params": params} | stats
    return {name: tree for name, tree in found.items() if tree}

  def _read(self, step: int, **items: Any) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as e:
      raise self._damaged(step, e) from e

  def _damaged(self, step: int, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    earlier = self.latest(at_most=step - 1)
    then = f"to continue from step {earlier}" if earlier is not None else "to start over"
    return UserError(
      f"cannot read checkpoint {self.directory / str(step)} ({reason}): move this "
      f"folder away {then}"
    )

  def wait(self) -> None:
    """Returns when all started saves are on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and frees the background threads."""
    self._manager.close()


def _split(state: TrainState) -> tuple[Any, dict[str, Any]]:
  rest = {name: getattr(state, name) for name in state.__dataclass_fields__ if name != "params"}
  # Without what is not there, so that checkpoints outlive fields that are added later.
  return state.params, {name: value for name, value in rest.items() if value is not None}
