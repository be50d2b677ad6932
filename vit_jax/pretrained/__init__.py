"""Weights from elsewhere, and back.

`load(path, model)` returns variables from a file of Google's projects, timm, transformers, the
models' own projects or this one; `export(path, model, variables)` writes a file for timm.
`python -m vit_jax.pretrained --help` shows the commands.
"""

from vit_jax.pretrained.export import export
from vit_jax.pretrained.load import load

__all__ = ["export", "load"]
