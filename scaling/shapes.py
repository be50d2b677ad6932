"""Which shapes of a ViT fit which devices, and how fast do they train? No device is needed.

  python -m scaling.shapes --config configs/vit_g_pretrain.py:G/14,unseen --topology v3:2x2

prints how many shapes of a grid fit with which optimiser, and writes shapes.csv, shapes.json and
the figure of "Scaling Vision Transformers" (2106.04560, figure 8) into --out. Memory and cycles
are the TPU compiler's, as far as --compile lets it be asked (libtpu: pip install libtpu); of what
it is not asked, an estimate. What has been compiled is kept: the same command continues.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from scaling import command
from scaling.errors import DataError
from scaling.planner import (
  best,
  cache,
  checks,
  figure,
  grid,
  largest,
  pool,
  report,
  solve,
  topology,
)
from scaling.planner.outcome import Outcome
from scaling.planner.plan import Plan, positive, versions
from scaling.planner.savings import SAVINGS

_EXAMPLES = """\
  python -m scaling.shapes --estimate --grid paper        the paper's 1495 shapes, in a minute
  python -m scaling.shapes --depth 48 --width 1664//16 --mlp 8192 --optimizer adafactor \\
    --batch 1,8 --fsdp 1,8 --compile all                  ViT-G, in four ways
  python -m scaling.shapes --topology v4:2x2x1,v6e:2x2 --largest_batch --compile 20
  python -m scaling.shapes --topology H200 --grid paper --flops 1e22 --batch 64
  python -m scaling.shapes --topology cpu --config configs/cifar10_ladder.py --classes 10 \\
    --depth 6 --width 192//3 --mlp 768 --patch 4 --batch 32 --compile all
  --config.KEY=VALUE sets a key of the config, as for vit_jax.main"""

_CONFIG = "configs/vit_g_pretrain.py:G/14,unseen"


def _parser() -> command.Parser:
  parser = command.Parser(
    "scaling.shapes", __doc__.split("\n\n")[0] + "\n\n" + __doc__.split("\n\n")[2], _EXAMPLES
  )
  add = parser.add_argument
  add("--config", default=_CONFIG, metavar="FILE.py[:ARG]", help=f"config (default: {_CONFIG})")
  add("--classes", type=int, default=29593, help="of the head (default: JFT-3B's 29593)")
  shapes = parser.add_argument_group("shapes: numbers with commas, which replace an axis of --grid")
  shapes.add_argument(
    "--grid", default="small", choices=sorted(grid.GRIDS), help="(default: small, 12 shapes)"
  )
  shapes.add_argument("--depth", metavar="N,…")
  shapes.add_argument("--width", metavar="N,…", help="1664, or with heads as in the paper 1664//16")
  shapes.add_argument("--heads", metavar="N,…", help="of widths without (default: 16)")
  shapes.add_argument("--mlp", metavar="N,…")
  shapes.add_argument("--patch", metavar="N,…", help="(default: 14)")
  ways = parser.add_argument_group("ways to train them: each with each")
  ways.add_argument(
    "--topology",
    default="v3:2x2",
    help="TPUs such as v3:2x2, v4:2x2x1, v6e:2x2; cpu or gpu, what is here; H200:8 (estimate)",
  )
  ways.add_argument("--batch", default="1", metavar="N,…", help="per device (default: 1)")
  ways.add_argument(
    "--optimizer",
    default="adam,adam-bf16,adafactor,adafactor-within",
    help=f"of {', '.join(SAVINGS)} (default: all but the last)",
  )
  ways.add_argument("--remat", default="full", help="of none, dots, full (default: full)")
  ways.add_argument("--fsdp", default="1", metavar="N,…", help="devices that share all state")
  ways.add_argument("--zero1", default="1", metavar="N,…", help="… the optimiser's state alone")
  asked = parser.add_argument_group("what is asked")
  asked.add_argument(
    "--compile",
    default="8",
    metavar="N|all",
    help="programs to compile at most, nearest to the limit first (default: 8); half of them for "
    "largest batches, if asked for",
  )
  asked.add_argument("--estimate", action="store_true", help="compile none: --compile 0")
  asked.add_argument("--jobs", type=int, default=1, help="compilers at once (default: 1)")
  asked.add_argument(
    "--timeout", type=float, default=3600, help="seconds for one program (default: 3600)"
  )
  asked.add_argument("--largest_batch", action="store_true", help="and the largest batch that fits")
  asked.add_argument("--flops", type=float, help="list the best shapes for this training compute")
  asked.add_argument(
    "--runs", action="append", help="measurements for that law (default: the published one)"
  )
  asked.add_argument("--out", type=Path, default=Path("results/shapes"), metavar="DIR")
  return parser


def _grid(options: argparse.Namespace) -> grid.Grid:
  """Returns the grid with the axes that the options replace."""
  base = grid.GRIDS[options.grid]
  heads = positive(options.heads, "--heads") if options.heads else [16]
  attention = base.attention
  if options.width:
    attention = grid.attention_pairs(options.width, heads)
  elif options.heads:
    widths = dict.fromkeys(width for width, _ in base.attention)
    attention = grid.attention_pairs(",".join(map(str, widths)), heads)
  return grid.Grid(
    positive(options.depth, "--depth") if options.depth else base.depth,
    attention,
    positive(options.mlp, "--mlp") if options.mlp else base.mlp,
    positive(options.patch, "--patch") if options.patch else base.patch,
  )


def _names(text: str, known: Sequence[str], flag: str) -> list[str]:
  names = [name.strip() for name in text.split(",")]
  for name in names:
    if name not in known:
      raise DataError(f"{flag} {name}: choose of {', '.join(known)}")
  return list(dict.fromkeys(names))


def _cells(options: argparse.Namespace) -> list[grid.Cell]:
  topologies = list(dict.fromkeys(name.strip() for name in options.topology.split(",")))
  settings = grid.settings(
    topologies,
    positive(options.batch, "--batch"),
    _names(options.optimizer, list(SAVINGS), "--optimizer"),
    _names(options.remat, ("none", "dots", "full"), "--remat"),
    positive(options.fsdp, "--fsdp"),
    positive(options.zero1, "--zero1"),
  )
  return [grid.Cell(shape, setting) for setting in settings for shape in _grid(options).shapes()]


def _most(options: argparse.Namespace) -> float:
  """Returns how many programs may be compiled."""
  if options.compile != "all" and not options.compile.isdigit():
    raise DataError(f"--compile {options.compile}: give a number of programs, or all")
  if options.estimate:
    return 0
  return math.inf if options.compile == "all" else int(options.compile)


def _notes(plan: Plan, cells: Sequence[grid.Cell], most: float) -> list[str]:
  notes = []
  if plan.left_out:
    notes.append(
      f"estimates of memory and time leave out {', '.join(plan.left_out)}, as do all FLOPs; what "
      "is compiled has it"
    )
  places = [topology.find(name) for name in dict.fromkeys(c.setting.topology for c in cells)]
  if most and any(p.is_tpu and p.compiler is None for p in places):
    notes.append("libtpu is not installed: TPUs are estimated (pip install libtpu)")
  if any(not p.is_tpu for p in places):
    notes.append(
      "the estimate of memory is fitted to the TPU compiler; step times of other devices are from "
      "FLOPs and the published MFU of TPUv3"
    )
  return notes


def _work(options: argparse.Namespace, overrides: Sequence[str]) -> None:
  if options.flops is not None and not 0 < options.flops < math.inf:
    raise DataError(f"--flops {options.flops:g}: the compute must be positive")
  for flag in ("classes", "jobs", "timeout"):
    if getattr(options, flag) <= 0:
      raise DataError(f"--{flag} {getattr(options, flag)}: must be positive")
  wanted, source = None, "arXiv 2305.13035"
  if options.flops and options.runs:
    wanted, source = best.measured(options.runs, options.flops), ", ".join(options.runs)
  elif options.flops:
    wanted = best.published(options.flops)
  if "gpu" not in options.topology.split(","):  # Nor look for a TPU that is not there.
    jax.config.update("jax_platforms", "cpu")
  plan = Plan(options.config, tuple(overrides), options.classes)
  cells, most = _cells(options), _most(options)
  checks.check(plan, cells)
  known = cache.Cache(options.out / "compiled.jsonl")
  kept = int(most) // 2 if options.largest_batch and most < math.inf else 0
  with pool.Pool(plan, options.jobs, options.timeout) as workers:
    compiler = solve.Compiler(plan, known, workers, most - kept)
    found = solve.solve(plan, compiler, cells)
    if options.largest_batch:
      compiler.allow(kept)
      found = largest.fill(plan, compiler, found)
  notes = _notes(plan, cells, most)
  report.write(
    found,
    {
      "config": options.config,
      "overrides": list(overrides),
      "classes": options.classes,
      **versions(),
      "notes": notes,
    },
    options.out,
  )
  print(report.summary(found))
  if wanted:
    near = best.nearest(found, wanted, options.flops)
    print(report.best(near, wanted, options.flops, source, found))
  for note in notes:
    print(f"note: {note}")
  print(
    f"compiled now: {compiler.compiled}, known: {len(known)}; written: "
    f"{', '.join(_written(found, options.out))}"
  )


def _written(found: Sequence[Outcome], out: Path) -> list[str]:
  """Draws the figures and returns the names of all files."""
  names = ["shapes.csv", "shapes.json"]
  many = report.groups(found)
  for i, mine in enumerate(many.values()):
    names.append(f"shapes{f'_{i + 1}' if len(many) > 1 else ''}.png")
    figure.draw(mine, out / names[-1])
  return [str(out / name) for name in names]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser, overrides = _parser(), []
  given = sys.argv[1:] if argv is None else list(argv)
  own = [text for text in given if not text.startswith(("--config.", "--noconfig."))]
  overrides = [text for text in given if text not in own]
  try:
    return command.run(parser, lambda options: _work(options, overrides), own)
  except KeyboardInterrupt:
    print("interrupted; what is compiled is kept, the same command continues", file=sys.stderr)
    return 130


if __name__ == "__main__":
  sys.exit(main())
