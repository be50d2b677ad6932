"""How tensors of a file and arrays of a model correspond, both ways.

A family lists its tensors once, as rules; loading, exporting, resizing and the report follow from
them. Arrays are NumPy's. Paths are "/"-joined and start with their collection:
"params/head/kernel", "batch_stats/stem_norm/mean".
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Arrays = tuple[np.ndarray, ...]
Shape = tuple[int, ...]
Resize = Callable[[np.ndarray, Shape, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
  """Tensors of a file that are arrays of a model in another form.

  Attributes:
    theirs: names in the file.
    ours: paths in the model's variables.
    load: (their arrays, our shapes) -> our arrays.
    save: our arrays -> their arrays, the inverse of `load`.
    resize: (their array, the shape that it should have, "bicubic" or "bilinear") -> array, for
      tables that depend on the resolution; None where another shape is an error. Such a rule has
      one tensor on each side.
  """

  theirs: tuple[str, ...]
  ours: tuple[str, ...]
  load: Callable[[Arrays, Sequence[Shape]], Arrays]
  save: Callable[[Arrays], Arrays]
  resize: Resize | None = None


def same(theirs: str, ours: str, resize: Resize | None = None) -> Rule:
  """The same array, such as a token or a table."""
  return Rule(
    (theirs,),
    (f"params/{ours}",),
    lambda x, shapes: x,
    lambda x: x,
    resize,
  )


def vector(theirs: str, ours: str, collection: str = "params") -> Rule:
  """A vector, in the model perhaps with axes: [H * D] and [H, D]."""
  return Rule(
    (theirs,),
    (f"{collection}/{ours}",),
    lambda x, shapes: (x[0].reshape(shapes[0]),),
    lambda x: (x[0].reshape(-1),),
  )


def matrix(theirs: str, ours: str, axes: int = 1) -> Rule:
  """PyTorch's weight [outputs, inputs] and a kernel [*inputs, *outputs].

  Args:
    theirs: name.
    ours: path below "params".
    axes: how many axes of the kernel are inputs.
  """
  return Rule(
    (theirs,),
    (f"params/{ours}",),
    lambda x, shapes: (x[0].T.reshape(shapes[0]),),
    lambda x: (x[0].reshape(math.prod(x[0].shape[:axes]), -1).T,),
  )


def linear(theirs: str, ours: str, axes: int = 1, bias: bool = True) -> list[Rule]:
  """PyTorch's Linear and a Dense over `axes` axes, by the names of their modules."""
  rules = [matrix(f"{theirs}.weight", f"{ours}/kernel", axes)]
  return [*rules, vector(f"{theirs}.bias", f"{ours}/bias")] if bias else rules


def conv(theirs: str, ours: str, bias: bool = True) -> list[Rule]:
  """PyTorch's Conv2d [O, I, H, W] and a kernel [H, W, I, O], by the names of their modules."""
  rules = [
    Rule(
      (f"{theirs}.weight",),
      (f"params/{ours}/kernel",),
      lambda x, shapes: (x[0].transpose(2, 3, 1, 0),),
      lambda x: (x[0].transpose(3, 2, 0, 1),),
    )
  ]
  return [*rules, vector(f"{theirs}.bias", f"{ours}/bias")] if bias else rules


def norm(theirs: str, ours: str) -> list[Rule]:
  """PyTorch's LayerNorm or GroupNorm and ours, by the names of their modules."""
  return [vector(f"{theirs}.weight", f"{ours}/scale"), vector(f"{theirs}.bias", f"{ours}/bias")]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
  """PyTorch's BatchNorm and ours with its running statistics, by the names of their modules."""
  return [
    *norm(theirs, ours),
    vector(f"{theirs}.running_mean", f"{ours}/mean", "batch_stats"),
    vector(f"{theirs}.running_var", f"{ours}/var", "batch_stats"),
  ]


def packed(theirs: str, ours: Sequence[str], bias: bool = True) -> list[Rule]:
  """One Linear of PyTorch's whose rows are those of several Dense layers of equal size.

  Args:
    theirs: name of the module, such as "attn.qkv".
    ours: paths of the layers in the order of the rows, such as query, key, value.
    bias: whether there are biases.
  """
  n = len(ours)
  rules = [
    Rule(
      (f"{theirs}.weight",),
      tuple(f"params/{path}/kernel" for path in ours),
      lambda x, shapes: tuple(
        part.T.reshape(shape) for part, shape in zip(np.split(x[0], n), shapes, strict=True)
      ),
      lambda x: (np.concatenate([part.reshape(part.shape[0], -1).T for part in x]),),
    )
  ]
  if bias:
    rules.append(
      Rule(
        (f"{theirs}.bias",),
        tuple(f"params/{path}/bias" for path in ours),
        lambda x, shapes: tuple(
          part.reshape(shape) for part, shape in zip(np.split(x[0], n), shapes, strict=True)
        ),
        lambda x: (np.concatenate([part.reshape(-1) for part in x]),),
      )
    )
  return rules


def attention(theirs: str, ours: str, qkv_bias: bool = True) -> list[Rule]:
  """The attention of timm, with packed rows q, k, v and then `proj`, and our Attention."""
  return [
    *packed(f"{theirs}.qkv", [f"{ours}/{x}" for x in ("query", "key", "value")], qkv_bias),
    *linear(f"{theirs}.proj", f"{ours}/out", axes=2),
  ]


def mlp(theirs: str, ours: str) -> list[Rule]:
  """The Mlp of timm and ours."""
  return [*linear(f"{theirs}.fc1", f"{ours}/up"), *linear(f"{theirs}.fc2", f"{ours}/down")]


def load(
  rules: Sequence[Rule], theirs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
  """Returns our arrays by path.

  Args:
    rules: every tensor that the model needs.
    theirs: the file's arrays by name, of the right shapes.
    shapes: our shapes by path.
  """
  out = {}
  for rule in rules:
    arrays = rule.load(tuple(theirs[n] for n in rule.theirs), [shapes[p] for p in rule.ours])
    out |= zip(rule.ours, arrays, strict=True)
  return out


def save(rules: Sequence[Rule], ours: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns their arrays by name, the inverse of `load`."""
  out = {}
  for rule in rules:
    arrays = rule.save(tuple(ours[p] for p in rule.ours))
    out |= zip(rule.theirs, (np.ascontiguousarray(x) for x in arrays), strict=True)
  return out
