"""Lists the models: `python -m vit_jax.models [TEXT] [--image-size N] [--num-classes N]`."""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vit_jax import flops
from vit_jax.errors import UserError
from vit_jax.models import catalogue


def _count(name: str, num_classes: int, image_size: int) -> tuple[int, int]:
  """Returns (parameters, forward FLOPs per image); nothing is compiled or allocated."""
  module = catalogue.create(name, num_classes=num_classes, image_size=image_size)
  if hasattr(module, "scan"):  # traces one block instead of all; the counts are the same
    module = module.clone(scan=True)
  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), images)
  parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
  # As `flops.model_flops`, without tracing the initialisation a second time.
  return parameters, flops.forward_flops(module.apply, variables, images)


def make_table(names: Sequence[str], num_classes: int | None, image_size: int | None) -> Table:
  """Returns the table; models that the image size does not fit say so in theirs.

  Args:
    names: of the models.
    num_classes: None: those of each model's published figures.
    image_size: in pixels; None: that of each model's published figures.
  """
  table = Table(
    caption="GFLOPs: forward pass of one image, multiply and add counted separately",
    box=box.SIMPLE,
  )
  table.add_column("model", no_wrap=True)
  for column in ("pixels", "classes", "parameters", "GFLOPs"):
    table.add_column(column, justify="right", no_wrap=True)
  table.add_column("source")
  for name in track(names, "Counting", transient=True, console=Console(stderr=True)):
    variant = catalogue.find(name)
    size, classes = image_size or variant.image_size, num_classes or variant.num_classes
    row = (name, str(size), str(classes))
    try:
      parameters, operations = _count(name, classes, size)
      table.add_row(*row, f"{parameters:,}", f"{operations / 1e9:,.3f}", variant.source)
    except UserError as e:
      table.add_row(*row, "-", "-", str(e), style="dim")
  return table


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m vit_jax.models",
    description="Lists the models. Patch sizes are free: ViT-B/8 exists too.",
  )
  parser.add_argument(
    "text",
    nargs="?",
    default="",
    help="list the names that contain it (B/16), or one that is not listed",
  )
  published = "(default: those of the model's published figures)"
  parser.add_argument("--image-size", type=int, help=f"pixels {published}")
  parser.add_argument("--num-classes", type=int, help=published)
  args = parser.parse_args(argv)
  try:
    names = [name for name in catalogue.names() if args.text in name]
    names = names or [name for name in catalogue.names() if args.text.lower() in name.lower()]
    names = names or [catalogue.find(args.text).name]
    for key in ("image_size", "num_classes"):
      if getattr(args, key) is not None and getattr(args, key) < 1:
        raise UserError(f"--{key.replace('_', '-')} must be at least 1")
  except UserError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  # Into a file or a pipe, in full: the width of no terminal is to cut it.
  console = Console() if sys.stdout.isatty() else Console(width=120)
  console.print(make_table(names, args.num_classes, args.image_size))
  return 0


if __name__ == "__main__":
  sys.exit(main())
