"""The command line of foreign weights: python -m vit_jax.pretrained inspect | convert."""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError

_EXAMPLES = """examples:
  python -m vit_jax.pretrained inspect deit_base.pth
      its tensors with shapes and types, the family that it looks like
  python -m vit_jax.pretrained inspect B_16.npz --model ViT-B/16
      whether it fits that model, and what does not
  python -m vit_jax.pretrained convert B_16.npz vit_b16.safetensors --model ViT-B/16
      our own names, that everything here reads: config.init_from, pretrained.load
  python -m vit_jax.pretrained convert B_16.npz b16_384.safetensors --model ViT-B/16 \\
      --image-size 384 --num-classes 200 --head fresh
      positions for 384 pixels, a new head for 200 classes
  python -m vit_jax.pretrained convert B_16.npz for_timm.safetensors --model ViT-B/16 --to timm
      timm's names: timm.create_model("vit_base_patch16_224", checkpoint_path="for_timm...")
Files: Google's .npz, .safetensors, PyTorch's .pth and .bin (nothing in them is executed).
"""


_MOST = 20  # names of a kind that are listed


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vit_jax.pretrained",
    description="Look at files of weights from other projects, and convert them.",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, text in (
    ("inspect", "list what is in a file, and whether it fits a model"),
    ("convert", "write the weights of a file for a model as .safetensors"),
  ):
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    converts = name == "convert"
    command.add_argument("file", help=".npz, .safetensors, .pth, .bin")
    if converts:
      command.add_argument("out", type=Path, help="the file to write, NAME.safetensors")
    command.add_argument(
      "--model",
      required=converts,
      help="its name, see `python -m vit_jax.models`" + ("" if converts else "; default: none"),
    )
    command.add_argument("--image-size", type=int, help="pixels (default: the file's)")
    command.add_argument("--num-classes", type=int, help="default: the file's")
    command.add_argument(
      "--override",
      action="append",
      default=[],
      metavar="FIELD=VALUE",
      help="a field of the model, such as pool=gap or gelu=erf; may be repeated",
    )
    command.add_argument(
      "--head",
      choices=("keep", "fresh", "drop"),
      default="keep",
      help="what becomes of the classifier: the file's, a new one, none (%(default)s)",
    )
    command.add_argument(
      "--interpolation", default="bicubic", help="for tables of another resolution (%(default)s)"
    )
    if converts:
      command.add_argument(
        "--to", choices=("vit_jax", "timm"), default="vit_jax", help="whose names (%(default)s)"
      )
      command.add_argument("--seed", type=int, default=0, help="of a fresh head (%(default)s)")
      command.add_argument("--force", action="store_true", help="overwrite OUT")
  return parser


def _overrides(texts: Sequence[str]) -> dict[str, Any]:
  out = {}
  for text in texts:
    key, sep, value = text.partition("=")
    if not sep or not key:
      raise UserError(f"--override {text}: write FIELD=VALUE, such as --override gelu=erf")
    try:
      out[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      out[key] = value
  return out


def _model(args: argparse.Namespace, contents: Any) -> Any:
  from vit_jax.pretrained.load import create_for  # noqa: PLC0415

  overrides = _overrides(args.override)
  if args.num_classes is not None:
    overrides["num_classes"] = args.num_classes
  return create_for(contents, args.model, args.image_size, args.head, args.file, **overrides)


def _inspect(args: argparse.Namespace) -> None:
  from vit_jax.pretrained import files  # noqa: PLC0415  (--help starts at once)
  from vit_jax.pretrained.families import guess_family  # noqa: PLC0415
  from vit_jax.pretrained.problems import text  # noqa: PLC0415

  contents = files.read(args.file)
  if args.model:
    _fit(args, contents)
    return
  width = max((len(name) for name in contents.arrays), default=0)
  for name, x in contents.arrays.items():
    print(f"{name:{width}}  {text(x.shape):>18}  {contents.dtypes[name]}")
  rows = {
    "file": f"{args.file}, {Path(args.file).stat().st_size / 1e6:,.1f} MB, {contents.kind}",
    "tensors": f"{len(contents.arrays):,} with {sum(x.size for x in contents.arrays.values()):,} "
    "numbers",
    "looks like": guess_family(contents.arrays) or "no family that is known here",
  }
  if contents.wrapper:
    rows["inside"] = contents.wrapper
  if contents.left_out:
    rows["left out"] = ", ".join(contents.left_out)
  for key in ("model", "fields"):
    if key in contents.metadata:
      rows[key] = contents.metadata[key]
  for key, value in rows.items():
    print(f"{key:11} {value}")


def _fit(args: argparse.Namespace, contents: Any) -> None:
  """Prints what fits the model and what does not."""
  from vit_jax.pretrained.load import report  # noqa: PLC0415
  from vit_jax.pretrained.match import match  # noqa: PLC0415
  from vit_jax.pretrained.problems import problem, text  # noqa: PLC0415

  keeps = args.head == "keep"
  found = match(contents.arrays, _model(args, contents), keeps, args.file)
  trouble = problem(found, keeps)
  if trouble is None:
    print(f"{args.file} fits {args.model} at {found.model.image_size} pixels; load would say:")
    print("\n".join(report(contents, found, args.interpolation, [], args.file)))
    return
  print(f"{args.file} does not fit {args.model}: {trouble}")
  good = [n for n in found.used if n not in found.wrong]
  print(f"{len(good)} of {len(found.expected)} tensors fit ({found.format.name} names)")
  wrong = [
    f"{n} (file {text(found.state[n].shape)}, model {text(found.expected[n])})" for n in found.wrong
  ]
  for title, names in (("shape", wrong), ("missing", found.missing), ("unused", found.unused)):
    for name in names[:_MOST]:
      print(f"{title:8} {name}")
    if len(names) > _MOST:
      print(f"{title:8} and {len(names) - _MOST} more")


def _convert(args: argparse.Namespace) -> None:
  import jax  # noqa: PLC0415

  from vit_jax.pretrained import files  # noqa: PLC0415
  from vit_jax.pretrained.export import check_free, export  # noqa: PLC0415
  from vit_jax.pretrained.load import load_contents  # noqa: PLC0415

  if args.out.suffix != ".safetensors":
    raise UserError(f"{args.out}: the name of what is written must end in .safetensors")
  check_free(args.out, args.force)
  contents = files.read(args.file)
  model = _model(args, contents)
  variables = load_contents(
    contents,
    model,
    args.file,
    head=args.head,
    interpolation=args.interpolation,
    key=jax.random.key(args.seed),
  )
  export(args.out, model, variables, to=args.to, name=args.model, overwrite=args.force)
  print(
    f"wrote {args.out} for {args.model}, image_size={model.image_size}, "
    f"num_classes={model.num_classes}, {args.to} names"
  )


def main(argv: Sequence[str]) -> int:
  """Runs one command."""
  args = _parser().parse_args(argv)
  {"inspect": _inspect, "convert": _convert}[args.command](args)
  return 0


if __name__ == "__main__":
  from vit_jax import cli

  cli.run(main)
