"""The planner against compilers that are there: XLA's for this machine, and libtpu's."""

import pytest

from scaling.planner import cache, grid, memory, plan, pool, solve, topology, worker

CONFIG = "configs/vit_g_pretrain.py:G/14,unseen"


def test_a_cell_compiles_here():
  small = plan.Plan(CONFIG, ("--config.data.image_size=16",), 10)
  cell = grid.Cell(grid.Shape(2, 32, 2, 64, 8), grid.Setting("cpu", 2, "adafactor", "full"))
  found = worker.compile_cell(small, cell)
  assert found["hbm"] > sum(memory.state(small.kind("adafactor"), cell)[:2])
  assert found["cycles"] is None
  assert not found["oom"]


def test_what_does_not_build_is_an_error_of_one_line():
  wrong = plan.Plan(CONFIG, ("--config.data.image_size=17",), 10)
  cell = grid.Cell(grid.Shape(2, 32, 2, 64, 8), grid.Setting("cpu", 2, "adam", "full"))
  found = worker.compile_cell(wrong, cell)
  assert "17" in found["error"]
  assert "\n" not in found["error"]
  assert found["invalid"]


@pytest.mark.slow
@pytest.mark.skipif(not topology.has_libtpu(), reason="libtpu is not installed")
@pytest.mark.parametrize("optimizer", ["adafactor", "adafactor-within"])
def test_depths_that_were_not_compiled(optimizer, tmp_path):
  wanted = plan.Plan(CONFIG, (), 1000)
  shape = grid.Shape(24, 768, 12, 3072, 16)
  cell = grid.Cell(shape, grid.Setting("v3:2x2", 4, optimizer, "full"))
  known = cache.Cache(tmp_path / "compiled.jsonl")
  with pool.Pool(wanted, 1, 1200) as workers:
    compiler = solve.Compiler(wanted, known, workers, 3)
    compiler.ask([cell.at_depth(depth) for depth in solve.PROBES])
    found = solve.outcome(wanted, compiler, cell)
    assert found.source == "extrapolated"
    compiler.ask([cell])
    assert not compiler.failures
  truth = solve.outcome(wanted, compiler, cell)
  assert truth.source == "compiled"
  assert found.hbm == pytest.approx(truth.hbm, rel=0.01)
  assert found.cycles == pytest.approx(truth.cycles, rel=0.02)
  assert memory.estimate(wanted.kind(optimizer), cell) == pytest.approx(truth.hbm, rel=0.1)
