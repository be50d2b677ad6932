"""Which files each class of models can be read from, and written to."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from flax import linen as nn

from vit_jax.pretrained.rules import Rule

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Format:
  """One way in which a project names and lays out the tensors of a model.

  Attributes:
    name: such as "timm".
    rules: from a model (without `scan`) to a rule for every tensor that it has.
    rename: from the arrays of a file, without prefixes and wrappers, to the names of the rules;
      leaves out what is no parameter, such as index tables.
    gelu: what this project's models were trained with.
  """

  name: str
  rules: Callable[[nn.Module], list[Rule]]
  rename: Callable[[Mapping[str, np.ndarray]], State] = dict
  gelu: str = "erf"


# The first format of a class is the one that `export` writes. A family has its own file; one line
# here makes its formats known.
FORMATS: dict[type[nn.Module], tuple[Format, ...]] = {}
