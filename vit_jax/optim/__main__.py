"""The command line of the optimisers: plot."""

import argparse
from collections.abc import Sequence
from pathlib import Path

_EXAMPLES = """examples:
  python -m vit_jax.optim plot --config configs/cct_cifar10.py --out lr.png
      the trunk and the cooldown of each of its branches
  python -m vit_jax.optim plot --config configs/cifar10_ladder.py --rung w64 --log
      one rung of a ladder, on a logarithmic axis; without --rung all of them
  python -m vit_jax.optim plot --config configs/transfer.py --config.schedule.name=cosine
      what another schedule would do; several keys can be changed
  python -m vit_jax.optim plot --config FILE.py --config.branches="()" \\
      --config.total_steps=20000 --config.schedule.name=cosine_restarts \\
      --config.schedule.period=2000 --config.schedule.period_factor=1.5
      warm restarts; vit_jax/optim/schedules/factory.py explains every key
Nothing is trained and no images are read: only the config, and the size of its data set where it
is at hand, for a second axis in epochs (else in images).
"""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vit_jax.optim",
    description="Look at the learning rates of a config before it is trained.",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  text = "draw the learning rate over the steps, with its branches"
  plot = commands.add_parser(
    "plot",
    help=text,
    description=text[0].upper() + text[1:] + ".",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  plot.add_argument(
    "--config", required=True, metavar="FILE.py[:ARG]", help="config file with get_config()"
  )
  plot.add_argument("--rung", metavar="NAME", help="of a config with a ladder: only this rung")
  plot.add_argument("--log", action="store_true", help="a logarithmic axis of rates")
  plot.add_argument(
    "--out", type=Path, default=Path("lr.png"), help="a .png, .pdf or .svg file (default: lr.png)"
  )
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs one command."""
  args, overrides = _parser().parse_known_args(argv)
  from vit_jax import cli  # noqa: PLC0415  (imports every model; --help starts at once)
  from vit_jax.optim import plot  # noqa: PLC0415

  rungs = cli.pick_rung(cli.load_rungs(args.config, overrides), args.rung)
  plot.write(rungs, args.out.expanduser(), log=args.log)
  print(f"wrote {args.out}")
  return 0


if __name__ == "__main__":
  from vit_jax import cli

  cli.run(main)
