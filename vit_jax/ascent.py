"""SAM's gradients for the training loop, each example in the same group whatever the devices.

With `sam.m` the batch is cut into groups of m examples; each has its own ascent, and the gradients
of all are averaged (m-sharpness, Foret et al., 2010.01412, §4.1). Published runs have a group per
accelerator core, m = 32 in 2106.01548, so that their results depend on the number of cores.
Here they do not:

- m unset: one group, the batch. With `accumulate`, either pass goes through the micro-batches.
- m below a micro-batch, which it must divide: group g has the examples g m, g m + 1, …. The groups
  are gone through one after the other, so that micro-batches have no further meaning.
- m a multiple of a micro-batch (or just one): group g has the micro-batches g, g + groups, ….

Perturbed weights differ from group to group, and no two groups can share a matrix product. Small
groups therefore go to different devices (`shard_map` over the mesh's axis `data`, in as many parts
as divide the number of groups), each of which takes its own one after the other: a device holds
one perturbed copy of the parameters at a time, however many groups there are. `vmap` over groups
would need as many copies, and makes convolutions slow. The devices of axis `fsdp` work on one group
together, over which its perturbed copy is sharded as the parameters are. Groups of whole
micro-batches follow one another and have all devices.

What happens once a step and what twice: either pass has the same dropout; BatchNorm normalises in
either with the statistics of the group (or its micro-batch), but the running ones move by the clean
pass alone, and those of several groups are averaged. The loss reported is that of the clean pass.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import parallel, step
from vit_jax.errors import UserError
from vit_jax.optim import sam as sam_lib
from vit_jax.optim.sam import Sam
from vit_jax.state import TrainState


def check_groups(sam: Sam | None, batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Raises a UserError when a batch cannot be cut into groups of m, or these not spread."""
  if sam is None or sam.m is None:
    return
  micro = batch_size // accumulate
  if batch_size % sam.m or max(sam.m, micro) % min(sam.m, micro):
    parts = f"{batch_size}" if accumulate == 1 else f"{batch_size} in {accumulate} micro-batches"
    raise UserError(
      f"config.sam.m={sam.m} does not fit a batch of {parts}: m must divide the batch, and divide "
      f"or be a multiple of the {micro} examples of a micro-batch"
    )
  if sam.m < micro:
    share = mesh.size // _at_once(batch_size // sam.m, mesh)
    if sam.m % share:
      raise UserError(
        f"config.sam.m={sam.m} does not split over the {share} devices that work on one group: "
        f"use a multiple of {share}, or fewer devices along config.mesh.fsdp"
      )


def _at_once(groups: int, mesh: Mesh) -> int:
  return math.gcd(groups, mesh.shape["data"])


def _average(gradient: Callable, mesh: Mesh, groups: int, strided: bool) -> Callable:
  """Returns the mean over the groups of a batch of what `gradient` finds for each.

  Args:
    gradient: `f(params, batch_stats, batch, key, rho) -> tree` of one group.
    mesh: the mesh.
    groups: how many there are.
    strided: a group takes every `groups`-th example and all devices, else its own piece and part.
  """
  if groups == 1:
    return gradient
  at_once = 1 if strided else _at_once(groups, mesh)
  data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
  split = Mesh(
    mesh.devices.reshape(at_once, data // at_once, fsdp),
    ("group", "member", "fsdp"),
    axis_types=(AxisType.Auto,) * 3,
  )
  layout = NamedSharding(split, P("group", ("member", "fsdp")))

  def cut(x: jax.Array) -> jax.Array:
    if strided:
      return parallel.cut(x, groups, mesh)
    return jax.lax.with_sharding_constraint(x.reshape(groups, -1, *x.shape[1:]), layout)

  def total(indices: jax.Array, parts: Any, params: Any, batch_stats: Any, *rest: Any) -> Any:
    key, rho = rest

    def one(index: jax.Array, part: Any) -> Any:
      return gradient(params, batch_stats, part, jax.random.fold_in(key, index), rho)

    def body(sums: Any, each: tuple) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, sums, one(*each)), None

    found = jax.eval_shape(one, indices[0], jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
    return jax.lax.scan(body, zeros, (indices, parts))[0]

  def averaged(params: Any, batch_stats: Any, batch: Any, *rest: Any) -> Any:
    args = (jnp.arange(groups), jax.tree.map(cut, batch), params, batch_stats, *rest)
    run = total
    if at_once > 1:
      run = jax.shard_map(
        lambda *local: jax.lax.psum(total(*local), "group"),
        mesh=split,
        in_specs=(P("group"), P("group"), P(), P(), P(), P()),
        out_specs=P(),
        axis_names={"group"},
        check_vma=False,
      )
    return jax.tree.map(lambda x: x / groups, run(*args))

  return averaged


def make_gradient(
  loss: Callable,
  mesh: Mesh,
  accumulate: int,
  batch_size: int,
  sam: Sam,
  frozen: Any,
  unperturbed: Any,
  rates: tuple[float, float],
) -> Callable[..., tuple[jax.Array, TrainState, Any]]:
  """Returns `f(state, batch, key, learning_rate) -> (loss, state, grads)`; see `step.of_state`.

  The loss is that at the parameters themselves, before any ascent; the gradient has None in the
  place of frozen parameters.

  Args:
    loss: see `step.make_loss`.
    mesh: the mesh.
    accumulate: micro-batches a step.
    batch_size: examples a step, see `check_groups`.
    sam: the options.
    frozen: tree of bools like the parameters, see `optim.frozen`.
    unperturbed: tree of bools like the parameters, see `optim.sam.unperturbed`.
    rates: highest and lowest learning rate of the schedule, for GSAM's radius.
  """
  size, micro = sam.m or batch_size, batch_size // accumulate
  inner = accumulate if sam.m is None else max(1, size // micro)
  groups, strided = batch_size // size, size >= micro
  # No gradient is computed that only the norm of the ascent would leave out.
  whole = sam.kind in ("gsam", "looksam")
  clean = step.make_gradient(loss, mesh, inner, frozen if whole else unperturbed)
  raised = step.make_gradient(loss, mesh, inner, frozen)

  def two_passes(params: Any, batch_stats: Any, batch: Any, key: jax.Array, rho: Any) -> tuple:
    value, stats, first = clean(params, batch_stats, batch, key)
    if whole:
      upwards = jax.tree.map(
        lambda still, g: None if still else g, unperturbed, first, is_leaf=lambda x: x is None
      )
    else:
      upwards = first
    above = sam_lib.climb(sam, params, upwards, rho)
    _, _, second = raised(above, batch_stats, batch, key)
    if sam.kind == "gsam":
      rest = sam_lib.across(first, second)
      second = jax.tree.map(lambda s, r: s - sam.alpha * r, second, rest)
    return value, stats, second, first if sam.keeps else None

  look = _average(two_passes, mesh, groups, strided)
  between = step.make_gradient(loss, mesh, accumulate, frozen)

  def gradient(
    state: TrainState, batch: Any, key: jax.Array, learning_rate: jax.Array
  ) -> tuple[jax.Array, TrainState, Any]:
    rho = jnp.float32(sam_lib.radius(sam, learning_rate, *rates))
    args = (state.params, state.batch_stats, batch, key)
    if not sam.keeps:
      value, stats, grads, _ = look(*args, rho)
      return value, state.replace(batch_stats=stats), grads

    def climbs() -> tuple:
      value, stats, grads, first = look(*args, rho)
      return value, stats, grads, sam_lib.across(grads, first)

    def reuses() -> tuple:
      value, stats, grads = between(*args)
      return value, stats, sam_lib.turn(sam, grads, state.kept), state.kept

    value, stats, grads, kept = jax.lax.cond(state.step % sam.every == 0, climbs, reuses)
    return value, state.replace(batch_stats=stats, kept=kept), grads

  return gradient
