"""Image classifiers as Linen modules, made by the names that papers give them.

`python -m vit_jax.models` lists the names with their parameters and FLOPs. Every module is called
as `module.apply(variables, images, train=..., rngs={"dropout": key})` and returns an `Output`.
"""

from vit_jax.models.catalogue import NOT_SHAPE, config_keys, create, find, names
from vit_jax.models.output import Output

__all__ = ["NOT_SHAPE", "Output", "config_keys", "create", "find", "names"]
