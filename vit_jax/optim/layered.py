"""One optimiser for the layers of a scanned encoder, one after the other, and one for the rest.

For updates within the backward pass (see `vit_jax.within`), where no gradient of the whole model
is ever there: what an optimiser computes of a layer depends on that layer alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import UserError
from vit_jax.optim import factory, schedule_free


def get(tree: Any, path: tuple[str, ...]) -> Any:
  """Returns the subtree at a path."""
  for key in path:
    tree = tree[key]
  return tree


def put(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
  """Returns the nested dict with another subtree at a path."""
  key, *more = path
  return {**tree, key: put(tree.get(key, {}), tuple(more), value) if more else value}


@dataclasses.dataclass(frozen=True)
class Layered:
  """The two optimisers; their state is {"rest": …, "blocks": …}, the latter stacked as the layers.

  Attributes:
    path: of the stacked parameters.
    rest: of all but them.
    block: of one layer; it takes the whole tree of parameters, with one layer at `path`.
    clip_norm: highest global norm of the gradient; 0 is off. Applied by `vit_jax.within`.
    layer: tree of the shapes of one layer's parameters.
  """

  path: tuple[str, ...]
  rest: optax.GradientTransformationExtraArgs
  block: optax.GradientTransformationExtraArgs
  clip_norm: float
  layer: Any

  def init(self, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state for parameters, or for their shapes."""

    def of_layer(layer: Any) -> Any:
      return self.block.init(put(params, self.path, layer))

    return {"rest": self.rest.init(params), "blocks": jax.vmap(of_layer)(get(params, self.path))}

  def update_rest(
    self, grads: Any, state: Any, params: Any, learning_rate: jax.Array
  ) -> tuple[Any, Any]:
    """Returns the new parameters beside the layers, and the new state.

    Args:
      grads: tree of the parameters without those at `path`.
      state: the entry "rest" of the state.
      params: as `grads`.
      learning_rate: of this step.
    """

    def whole(tree: Any) -> Any:  # The optimiser hides what is at `path`, but it must be there.
      return put(tree, self.path, jax.tree.map(lambda _: jnp.float32(0), self.layer))

    updates, state = self.rest.update(
      whole(grads), state, whole(params), learning_rate=learning_rate
    )
    return put(optax.apply_updates(whole(params), updates), self.path, {}), state

  def update_layer(
    self, grads: Any, state: Any, layer: Any, rest: Any, learning_rate: jax.Array
  ) -> tuple[Any, Any]:
    """Returns the new parameters of one layer, and its new state.

    Args:
      grads: of the layer.
      state: the layer's part of the entry "blocks" of the state.
      layer: its parameters.
      rest: tree of the parameters without those at `path`; they are not used.
      learning_rate: of this step.
    """
    updates, state = self.block.update(
      put(rest, self.path, grads),
      state,
      put(rest, self.path, layer),
      learning_rate=learning_rate,
    )
    return optax.apply_updates(layer, get(updates, self.path)), state


def make(config: Mapping[str, Any], params: Mapping[str, Any], path: tuple[str, ...]) -> Layered:
  """Makes the optimiser of a config for updates within the backward pass.

  Args:
    config: see `factory.make`.
    params: the parameters or their shapes.
    path: of those that are stacked over the layers.

  Raises:
    UserError: see `factory.resolve`, and an optimiser that looks at more than a layer.
  """
  options = factory.resolve(config)
  if options["name"] == schedule_free.NAME or options["layer_decay"] != 1:
    what = (
      f"optimizer.layer_decay={options['layer_decay']}"
      if options["layer_decay"] != 1
      else f"optimizer.name='{schedule_free.NAME}'"
    )
    raise UserError(f'config.{what} does not go with updates="within", which sees one layer alone')
  layer = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), get(params, path))
  whole = put(params, path, layer)
  alike = jax.tree.map(lambda _: False, whole)
  in_blocks = put(alike, path, jax.tree.map(lambda _: True, layer))
  unclipped = {**config, "clip_norm": 0.0}
  return Layered(
    path=path,
    rest=factory.make(unclipped, whole, frozen=in_blocks),
    block=factory.make(unclipped, whole, frozen=jax.tree.map(lambda b: not b, in_blocks)),
    clip_norm=options["clip_norm"],
    layer=layer,
  )
