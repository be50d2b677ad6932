"""Devices as a mesh with axes (data, fsdp), and arrays laid out on it."""

import hashlib
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed  # the address of process 0 has no public name
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import peers
from vit_jax.errors import UserError

# Arrays below this size cost more to gather than they save.
MIN_SHARDED_SIZE = 2**14


def initialize(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the processes of a multi-host run; does nothing for a single process.

  The flags win; else the environment decides: JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES
  and JAX_PROCESS_ID), a Slurm step (srun) of several tasks, or a TPU host, which is told of the
  others of its slice. From then on a process that is killed ends the others; see peers.py.

  Raises:
    UserError: only some of the three flags are given.
  """
  _join(coordinator, num_processes, process_id)
  if jax.distributed.is_initialized() and jax.process_count() > 1:
    host = distributed.global_state.coordinator_address.rpartition(":")[0].strip("[]")
    peers.watch(host, jax.process_index(), jax.process_count(), of_first)


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
  given = (coordinator, num_processes, process_id)
  env = os.environ
  if any(x is not None for x in given):
    if any(x is None for x in given):
      raise UserError("--coordinator, --num_processes and --process_id go together: give all three")
    jax.distributed.initialize(coordinator, num_processes, process_id)
  elif "JAX_COORDINATOR_ADDRESS" in env:
    number, rank = env.get("JAX_NUM_PROCESSES"), env.get("JAX_PROCESS_ID")
    jax.distributed.initialize(
      num_processes=int(number) if number else None, process_id=int(rank) if rank else None
    )
  # Inside `srun`, that is: a batch script alone has the number of tasks as well.
  elif "SLURM_STEP_NODELIST" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
    # JAX would give each task one device; a task that is alone on its node has all of them.
    alone = env["SLURM_NTASKS"] == env.get("SLURM_STEP_NUM_NODES")
    jax.distributed.initialize(local_device_ids=[] if alone else None)
  elif has_tpu():
    try:
      jax.distributed.initialize()  # asks the cloud's metadata, also on a slice of one host
    except (ValueError, OSError) as e:  # a TPU of another kind of machine
      logging.warning("this TPU host is taken to be alone: nothing tells of others (%s)", e)


def _several() -> bool:
  return distributed.global_state.num_processes > 1


def let_peers_explain() -> None:
  """Returns after a moment, unless the failure of this process is that another one is gone.

  Collectives may fail then before the connection says why; that ends this process with one line.
  """
  if _several():
    time.sleep(3 * peers.GRACE)


def leave(code: int) -> NoReturn:
  """Exits after a mistake or a failure, which may be this process's alone.

  One of several takes no leave of the others, so that they stop as well (see peers.py), and does
  not wait for them, who may be waiting for it: JAX's own farewell takes five minutes to give up.
  """
  if _several():
    sys.stdout.flush()
    sys.stderr.flush()
    if distributed.global_state.process_id == 0:
      time.sleep(peers.GRACE / 2)  # the others stop when it does
    os._exit(code)
  sys.exit(code)


def has_tpu() -> bool:
  """Whether this machine has TPU chips that JAX is to use; does not take hold of them."""
  chosen = os.environ.get("JAX_PLATFORMS", "")
  chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
  wanted = not chosen or "tpu" in chosen.split(",")
  return bool(chips) and wanted and importlib.util.find_spec("libtpu") is not None


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  zero1: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Returns the mesh over all devices; one of the axes may be -1, "all that are left".

  Args:
    data: devices along which only the batch is split.
    fsdp: devices along which the state is split, too: the mesh's axis `fsdp`.
    zero1: the same axis, for a state whose parameters stay whole (see `state.abstract`).
    devices: instead of those that are there: to compile for others.

  Raises:
    UserError: both `fsdp` and `zero1`, or axes whose product is not the number of devices.
  """
  n = jax.device_count() if devices is None else len(devices)
  if fsdp != 1 and zero1 != 1:
    raise UserError(
      f"config.mesh.fsdp={fsdp} shards all that zero1={zero1} does: leave one of them at 1"
    )
  name, parts = ("fsdp", fsdp) if zero1 == 1 else ("zero1", zero1)
  sizes = {"data": data, name: parts}
  for axis, other in (("data", parts), (name, data)):
    if sizes[axis] == -1 and other > 0:
      sizes[axis] = n // other
  if sizes["data"] * sizes[name] != n or min(sizes.values()) < 1:
    raise UserError(
      f"config.mesh=(data={data}, {name}={parts}) does not cover the {n} device(s): "
      f"set data=-1 and {'an' if name == 'fsdp' else 'a'} {name} that divides them"
    )
  return jax.make_mesh(
    (sizes["data"], sizes[name]),
    ("data", "fsdp"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Batches are split over every device, along their first axis."""
  return NamedSharding(mesh, P(("data", "fsdp")))


def cut(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
  """Cuts [B, ...] into [parts, B / parts, ...]; part j has the examples j, j + parts, ….

  Each part is thus spread over all devices as the batch is.
  """
  x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(None, ("data", "fsdp"))))


def join(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Undoes `cut`."""
  x = x.swapaxes(0, 1)
  return jax.lax.with_sharding_constraint(x.reshape(-1, *x.shape[2:]), batch_sharding(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, P())


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Lays an array that every process has out on the devices of all."""
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def state_shardings(mesh: Mesh, shapes: Any) -> Any:
  """Splits each large array of a state along its largest axis that `fsdp` divides (ZeRO-3).

  Arrays stacked over the layers of a scan are split within each layer, and count by its size: a
  scan takes one layer at a time, of which every device then has its part.

  Args:
    mesh: the mesh.
    shapes: pytree of arrays or ShapeDtypeStructs, such as parameters or what is shaped like them.

  Returns:
    The same tree of NamedShardings.
  """
  n = mesh.shape["fsdp"]

  def one(path: tuple, x: Any) -> NamedSharding:
    keys = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    # Snapshots of the parameters lie one after the other as well; see averages.py.
    outer = ("blocks" in keys) + ("lawa" in keys)
    axes = [i for i, size in enumerate(x.shape) if i >= outer and size % n == 0]
    if n == 1 or math.prod(x.shape[outer:]) < MIN_SHARDED_SIZE or not axes:
      return replicated(mesh)
    axis = max(axes, key=lambda i: x.shape[i])
    return NamedSharding(mesh, P(*([None] * axis), "fsdp"))

  return jax.tree_util.tree_map_with_path(one, shapes)


def place(tree: Any, mesh: Mesh) -> Any:
  """Puts NumPy arrays on the devices, sharded like a state; every process has all of them."""
  return jax.tree.map(put, tree, state_shardings(mesh, tree))


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
  """Raises a UserError when a global batch does not split evenly over the devices."""
  parts = mesh.size * accumulate
  if batch_size < 1 or accumulate < 1 or batch_size % parts:
    near = max(1, round(batch_size / parts)) * parts
    raise UserError(
      f"config.batch_size={batch_size} is not divisible by {mesh.size} device(s) x "
      f"accumulate={accumulate}: use a multiple of {parts}, such as {near}"
    )


def to_devices(
  batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Turns each process's part of a batch into global sharded arrays, `ahead` batches early."""
  sharding = batch_sharding(mesh)
  queue: list[dict[str, jax.Array]] = []
  for batch in batches:
    queue.append({k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()})
    if len(queue) > ahead:
      yield queue.pop(0)
  yield from queue


def of_first(value: int) -> int:
  """Returns what process 0 gives; all processes must ask."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_same(text: str) -> bool:
  """Whether all processes give the same text; all must ask."""
  mark = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
  return all_agree(of_first(mark) == mark)


def all_agree(ok: bool) -> bool:
  """Whether all processes say yes; each of them learns it, so that none waits for a dead one."""
  if jax.process_count() == 1:
    return ok
  return bool(np.all(multihost_utils.process_allgather(np.array(ok))))
