"""Parameters that are whole only while a layer uses them, and gradients that never are.

What a device stores of the state is a matter of shardings (`parallel.state_shardings`). Left to
itself, though, XLA's partitioner takes a sharded kernel for a wish to split the layer: it spreads
the *width* of the activations over the devices, and each of them then has the whole batch. ZeRO
(Rajbhandari et al., 1910.02054, §5) is another computation: the batch stays split, each layer
gathers its parameters when it begins, and each layer's gradient is summed and scattered as soon as
it is there. So it is said here, at the one place where every layer asks for a parameter: Flax
takes whatever a metadata box of its own returns for the value, inside of its scans and remats too.

Kernels that a scan goes over, in a model that computes in bfloat16, are rounded to it before the
scan. It then collects their gradients in bfloat16, which they are anyway: what the rounding would
widen is the result of a bfloat16 product. The copy of the kernels so takes no more memory than is
saved on their gradients, and each pass over either moves half the bytes.

A layer that is computed again in the backward pass (`config.model.remat`) is gathered again for
it; where nothing is computed again, gathered kernels are among what the forward pass keeps.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.core import meta
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import parallel
from vit_jax.models.stacking import STACKED


def _constrain(x: jax.Array, mesh: Mesh, spec: P) -> jax.Array:
  inner = jax.sharding.get_abstract_mesh()  # of a surrounding shard_map, whose axes differ
  return jax.lax.with_sharding_constraint(x, NamedSharding(inner if inner.shape else mesh, spec))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _whole(x: jax.Array, mesh: Mesh, spec: P) -> jax.Array:
  return _constrain(x, mesh, P())


def _whole_fwd(x: jax.Array, mesh: Mesh, spec: P) -> tuple[jax.Array, None]:
  return _whole(x, mesh, spec), None


def _whole_bwd(mesh: Mesh, spec: P, _: None, gradient: jax.Array) -> tuple[jax.Array]:
  return (_constrain(gradient, mesh, spec),)


_whole.defvjp(_whole_fwd, _whole_bwd)


class _Stored(struct.PyTreeNode, meta.AxisMetadata):
  """An array whose gradient is laid out as `spec` says, and which is whole where it is used."""

  value: Any
  mesh: Mesh = struct.field(pytree_node=False)
  spec: P = struct.field(pytree_node=False)

  def unbox(self) -> jax.Array:
    return _whole(self.value, self.mesh, self.spec)

  def replace_boxed(self, val: Any) -> "_Stored":
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict[Any, Any]) -> "_Stored":
    del params
    return self.replace(spec=P(*self.spec[:index], None, *self.spec[index:]))

  def remove_axis(self, index: int, params: dict[Any, Any]) -> "_Stored":
    del params
    return self.replace(spec=P(*self.spec[:index], *self.spec[index + 1 :]))


def _is_rounded(path: tuple, x: jax.Array) -> bool:
  """Whether a model in bfloat16 rounds a scanned parameter before it does anything else with it.

  Dense layers do; convolutions may standardise theirs (5 axes with that of the layers) in float32.
  """
  keys = [getattr(key, "key", None) for key in path]
  return STACKED in keys and keys[-1] == "kernel" and x.ndim < 5


def _boxed(params: Any, shardings: Any, narrow: bool) -> Any:
  def box(path: tuple, x: jax.Array, sharding: NamedSharding) -> Any:
    if narrow and _is_rounded(path, x):
      x = x.astype(jnp.bfloat16)
    return x if sharding.is_fully_replicated else _Stored(x, sharding.mesh, sharding.spec)

  return jax.tree_util.tree_map_with_path(box, params, shardings)


def variables(collections: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
  """Returns what a traced `model.apply` takes, its parameters gathered where they are used.

  Args:
    collections: {"params": ...[, "batch_stats": ...]}, laid out by `parallel.state_shardings`.
    mesh: the mesh.
  """
  return _boxed(collections, parallel.state_shardings(mesh, collections), narrow=False)


def where_used(loss: Callable, shardings: Any, *, narrow: bool = False) -> Callable:
  """Returns `loss(params, *args)` that gathers each parameter where the model uses it.

  Args:
    loss: applies a Linen model to `params`; see `step.make_loss`.
    shardings: tree of NamedShardings like the parameters: those of their gradients. What is
      replicated is left alone.
    narrow: the model computes in bfloat16, so that kernels which a scan goes over are rounded.
  """
  return lambda params, *args: loss(_boxed(params, shardings, narrow), *args)
