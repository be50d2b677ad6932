"""Between the two layouts of an encoder's parameters: a block each, or stacked for `scan`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STACKED = "blocks"


def _stack(*leaves: Any) -> Any:
  # NumPy stays NumPy: checkpoints are converted on the host.
  return np.stack(leaves) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)


def stack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters for `scan=True`.

  Args:
    params: nested dict of arrays; wherever it has `block_0`, `block_1`, ... these become `blocks`,
      whose arrays have a leading axis that counts the layers. The rest is left as it is.

  Raises:
    ValueError: a number between 0 and the last block is missing.
  """
  blocks = {int(m[1]): k for k in params if (m := re.fullmatch(r"block_(\d+)", k))}
  out = {
    k: stack(v) if isinstance(v, Mapping) else v
    for k, v in params.items()
    if k not in blocks.values()
  }
  if blocks:
    missing = set(range(max(blocks))) - set(blocks)
    if missing:
      raise ValueError(f"block_{min(missing)} is missing among {len(blocks)} blocks")
    out[STACKED] = jax.tree.map(_stack, *(params[blocks[i]] for i in sorted(blocks)))
  return out


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters for `scan=False`; the inverse of `stack`.

  Args:
    params: nested dict of arrays; wherever it has `blocks` these become `block_0`, `block_1`, ...
  """
  out = {k: unstack(v) if isinstance(v, Mapping) else v for k, v in params.items() if k != STACKED}
  if STACKED in params:
    depth = len(jax.tree.leaves(params[STACKED])[0])
    for i in range(depth):
      out[f"block_{i}"] = jax.tree.map(lambda x, i=i: x[i], params[STACKED])
  return out
