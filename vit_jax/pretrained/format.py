"""What a family says about the files of one project."""

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
    rules: from a model (without `scan`) to a rule for every tensor that it has; raises UserError
      for a model that the project does not have.
    rename: from the arrays of a file, without prefixes and wrappers, to the names of the rules;
      leaves out what is no parameter, such as index tables.
    gelu: what this project's models were trained with.
    refused: what a tensor of the file says about its model that ours is not, by regular
      expressions that match whole names; such a file is refused with that reason.
  """

  name: str
  rules: Callable[[nn.Module], list[Rule]]
  rename: Callable[[Mapping[str, np.ndarray]], State] = dict
  gelu: str = "erf"
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
