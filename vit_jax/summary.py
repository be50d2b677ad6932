"""The table at the end of a run: what each branch cost, what it is worth, what sharing saved."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from vit_jax import measurements
from vit_jax.branches import Plan
from vit_jax.progress import seconds, si


def finals(workdir: Path) -> list[dict]:
  """Returns the final measurements of a run and its branches, shortest first."""
  directories = [workdir, *(workdir / "branches").glob("*")]
  found = [m for d in directories for m in measurements.read(d) if m["final"]]
  return sorted(found, key=lambda m: m["step"])


def show(runs: dict[Path, Plan], console: Console | None = None) -> None:
  """Prints one table over runs (workdir -> plan), and what their branches saved."""
  console = console or Console(width=124)  # as much as the table needs
  table = Table(title="Measurements", title_justify="left")
  for heading in (
    "run",
    "model",
    "parameters",
    "steps",
    "images seen",
    "train FLOPs",
    "device time",
    "error",
    "loss",
  ):
    table.add_column(heading, justify="left" if heading in ("run", "model") else "right")
  for workdir in runs:
    for m in finals(workdir):
      table.add_row(
        m["run"],
        m["model"],
        si(m["parameters"]),
        f"{m['step']:,}",
        si(m["images_seen"]),
        si(m["train_flops"]),
        seconds(m["device_seconds"]),
        _metric(m, "_error"),
        _metric(m, "_loss"),
      )
    table.add_section()
  if table.row_count:
    console.print(table)
  for line in savings(runs):
    console.print(line)


def _metric(record: dict, suffix: str) -> str:
  values = [v for k, v in record["metrics"].items() if k.endswith(suffix)]
  return f"{values[0]:.4f}" if values else ""


def savings(runs: dict[Path, Plan]) -> list[str]:
  """Says what finished branches saved against training each of their durations from scratch."""
  steps = scratch_steps = 0
  time = scratch_time = 0.0
  for workdir, plan in runs.items():
    done = {m["branch"]: m for m in finals(workdir) if m["branch"] in plan.branches}
    if not done:
      continue
    starts = {b: plan.branches[b].start for b in done}
    trunk = max(starts.values())
    steps += trunk + sum(b - starts[b] for b in done)
    scratch_steps += sum(done)
    scratch_time += sum(m["device_seconds"] for m in done.values())
    # The rate of the trunk, as the longest branch saw it, prices the shared steps.
    longest = done[max(done)]
    rate = longest["device_seconds"] / longest["step"]
    time += sum(m["device_seconds"] - starts[b] * rate for b, m in done.items()) + trunk * rate
  if not scratch_steps:
    return []
  return [
    f"Branches share their trunks: {steps:,} steps instead of {scratch_steps:,} "
    f"({1 - steps / scratch_steps:.0%} saved), {seconds(time)} of device time instead of "
    f"{seconds(scratch_time)}."
  ]
