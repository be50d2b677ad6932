"""The command `scaling.shapes`: grids, what is compiled, the cache, and what it writes."""

import csv
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import shapes
from scaling.errors import DataError
from scaling.planner import best, cache, grid, largest, plan, pool, report, solve, topology, worker
from scaling.planner.outcome import Outcome

CONFIG = "configs/vit_g_pretrain.py:G/14,unseen"
TINY = [
  "--config.data.image_size=16",
  "--classes=10",
  "--topology=cpu",
  "--width=32//2,64//2",
  "--mlp=64",
  "--patch=8",
]


def cell(depth=4, optimizer="adam", batch=2, place="cpu", **fields):
  shape = grid.Shape(depth, 32, 2, 64, 8)
  return grid.Cell(shape, grid.Setting(place, batch, optimizer, "full", **fields))


def tiny_plan(*overrides):
  return plan.Plan(CONFIG, ("--config.data.image_size=16", *overrides), 10)


def test_the_papers_grid():
  found = grid.GRIDS["paper"].shapes()
  assert len(found) == len(set(found)) == 5 * 13 * 23
  assert grid.Shape(48, 1664, 16, 8192) in found
  assert grid.Shape(40, 1408, 16, 6144) in found
  assert all(s.width % s.num_heads == 0 for s in found)
  assert found[0].attention == "1024//16"


def test_widths_with_and_without_heads():
  assert grid.attention_pairs("1664//13,1408", [16, 11, 10]) == [(1664, 13), (1408, 16), (1408, 11)]
  for wrong in ("1664//15", "96,100//", "a", "17"):
    with pytest.raises(DataError, match="--width"):
      grid.attention_pairs(wrong, [2])


def test_a_cell_survives_json():
  one = cell(fsdp=4)
  assert grid.Cell.of_json(json.loads(json.dumps(one.to_json()))) == one


@given(st.data(), st.integers(-1, len(largest.BATCHES) - 1), st.integers(0, 5000))
def test_the_search_finds_the_largest_batch(data, last, guess):
  fitting = set(largest.BATCHES[: last + 1])
  low = data.draw(st.integers(-1, last))
  high = data.draw(st.integers(last + 1, len(largest.BATCHES)))
  search, asked = largest.search(largest.BATCHES, guess, low, high), []
  answer = None
  try:
    batch = next(search)
    while True:
      asked.append(batch)
      batch = search.send(batch in fitting)
  except StopIteration as end:
    answer = end.value
  assert answer == (max(fitting) if fitting else 0)
  assert len(asked) == len(set(asked))
  assert set(asked) <= set(largest.BATCHES[low + 1 : high])


def test_a_good_guess_takes_two_questions():
  search = largest.search(largest.BATCHES, 12)
  assert next(search) == 12
  assert search.send(True) == 16
  with pytest.raises(StopIteration) as end:
    search.send(False)
  assert end.value.value == 12


@pytest.mark.parametrize(
  ("message", "gib"),
  [
    (
      "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
      "required for HLO temporaries (21.27G) exceeds available HBM (15.48G). HLO module: x",
      21.27,
    ),
    ("Ran out of memory in memory space hbm. Used 16.02G of 15.48G hbm. Exceeded by", 16.02),
    ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 512.5MiB.", 512.5 / 1024),
    ("RESOURCE_EXHAUSTED: something else", None),
  ],
)
def test_what_the_compiler_would_have_needed(message, gib):
  found = worker.wanted_bytes(message)
  assert found is None if gib is None else found == pytest.approx(gib * 2**30)


def test_the_cache_outlives_a_crash(tmp_path):
  path = tmp_path / "new" / "compiled.jsonl"
  first = cache.Cache(path)
  first.add({"key": "a", "hbm": 1})
  with path.open("a") as file:
    file.write('{"key": "b", "hb')  # a crash within a write
  second = cache.Cache(path)
  assert second.get("b") is None
  second.add({"key": "c", "hbm": 3})
  first.refresh()
  assert [first.get(k) and first.get(k)["hbm"] for k in "abc"] == [1, None, 3]


def test_two_processes_may_write_at_once(tmp_path):
  path = tmp_path / "compiled.jsonl"

  def write(start):
    mine = cache.Cache(path)
    for i in range(start, start + 50):
      mine.add({"key": str(i), "text": "x" * 5000})

  threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(cache.Cache(path)) == 200


def test_the_cache_says_where_it_cannot_write(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match="--out"):
    cache.Cache(tmp_path / "file" / "compiled.jsonl")


def test_the_key_is_of_what_matters():
  base = tiny_plan()
  keys = {
    base.key(cell()),
    base.key(cell(depth=5)),
    base.key(cell(optimizer="adafactor")),
    base.key(cell(batch=4)),
    base.key(cell(place="v3:2x2")),
    tiny_plan("--config.optimizer.clip_norm=0.5").key(cell()),
    plan.Plan(base.path, base.overrides, 11).key(cell()),
  }
  assert len(keys) == 7
  same = tiny_plan("--config.seed=3", "--config.log_every=7", "--config.data.num_threads=1")
  assert same.key(cell()) == base.key(cell())


_ANSWERS = """
import json, sys, time
for line in sys.stdin:
  cell = json.loads(line)["cell"]
  depth = cell["depth"]
  if depth == 66: print("it broke", file=sys.stderr, flush=True); sys.exit(3)
  if depth == 77: time.sleep(60)
  answer = {"hbm": 1000 + 10 * depth, "cycles": None, "oom": cell["batch"] > 12}
  if cell["width"] == 88: answer = {"error": "no such width", "invalid": True}
  print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(monkeypatch):
  """Answers in the place of the compiler: linear in depth, a crash at 66, for ever at 77.

  Batches above 12 are refused, and the job refuses the width 88.
  """
  import sys  # noqa: PLC0415

  monkeypatch.setattr(pool, "_COMMAND", (sys.executable, "-c", _ANSWERS))


def test_a_crash_and_a_timeout_are_answers(fake):
  with pool.Pool(tiny_plan(), jobs=1, timeout=2) as workers:
    found = dict(workers.compile([cell(d) for d in (2, 66, 77, 3)]))
  assert found[cell(2)]["hbm"] == 1020
  assert found[cell(3)]["hbm"] == 1030  # a new process
  assert "status 3: it broke" in found[cell(66)]["error"]
  assert "--timeout" in found[cell(77)]["error"]


def test_leaving_a_pool_ends_what_runs(fake):
  workers = pool.Pool(tiny_plan(), jobs=2, timeout=600)
  with workers:
    next(workers.compile([cell(77), cell(1), cell(77, batch=3), cell(2)]))
  assert all(w._process.poll() is not None for w in workers._workers)


def test_two_depths_tell_of_all(fake, tmp_path):
  cells = [cell(d) for d in (24, 40, 48)]
  known = cache.Cache(tmp_path / "compiled.jsonl")
  with pool.Pool(tiny_plan(), jobs=1, timeout=60) as workers:
    compiler = solve.Compiler(tiny_plan(), known, workers, 2)
    found = solve.solve(tiny_plan(), compiler, cells)
    assert compiler.compiled == 2
    assert [(o.source, o.hbm) for o in found] == [
      ("extrapolated", 1000 + 10 * d) for d in (24, 40, 48)
    ]
    again = solve.Compiler(tiny_plan(), cache.Cache(known.path), workers, 2)
    found = solve.solve(tiny_plan(), again, cells)  # the two are left for single cells
    assert [o.source for o in found].count("compiled") == 2
    assert again.compiled == 2


def test_without_a_compiler_all_is_estimated(tmp_path):
  compiler = solve.Compiler(tiny_plan(), cache.Cache(tmp_path / "c.jsonl"), None, math.inf)
  found = solve.solve(tiny_plan(), compiler, [cell(place="H100:8"), cell()])
  assert [o.source for o in found] == ["estimated", "estimated"]
  assert found[0].seconds > 0
  assert found[1].seconds is None  # nobody knows what a CPU can do


def test_largest_batches_fill_what_there_is(tmp_path):
  compiler = solve.Compiler(tiny_plan(), cache.Cache(tmp_path / "c.jsonl"), None, math.inf)
  cells = [
    cell(optimizer=o, depth=d, place="v3:2x2") for o in ("adam", "adafactor") for d in (4, 64)
  ]
  found = largest.fill(tiny_plan(), compiler, solve.solve(tiny_plan(), compiler, cells))
  for known in found:
    assert known.largest_batch in largest.BATCHES
    at = largest.BATCHES.index(known.largest_batch)
    ends = [known.cell.at_batch(b) for b in largest.BATCHES[at : at + 2]]
    fits = [o.fits for o in solve.solve(tiny_plan(), compiler, ends)]
    assert fits == [True, False][: len(fits)]


def searched(tmp_path, cells, most, kept=0):
  """Returns what `scaling.shapes --largest_batch` finds with so many programs, and the compiler."""
  known = cache.Cache(tmp_path / "compiled.jsonl")
  with pool.Pool(tiny_plan(), jobs=1, timeout=60) as workers:
    compiler = solve.Compiler(tiny_plan(), known, workers, most)
    found = solve.solve(tiny_plan(), compiler, cells)
    compiler.allow(kept)
    return largest.fill(tiny_plan(), compiler, found), compiler


def test_other_batches_that_are_compiled_bound_the_largest(fake, tmp_path):
  one = cell(batch=1)
  (guessed,), _ = searched(tmp_path, [one], 0)
  assert guessed.largest_batch > 16
  searched(tmp_path, [cell(batch=5), cell(batch=24)], 2)
  (bounded,), _ = searched(tmp_path, [one], 0)
  assert 5 <= bounded.largest_batch < 24
  (refused,), _ = searched(tmp_path, [cell(batch=24)], 0)
  assert (refused.source, refused.fits, refused.largest_batch) == ("compiled", False, 16)
  (sure,), compiler = searched(tmp_path, [one], 0, kept=3)
  assert (sure.largest_batch, sure.largest_source) == (12, "compiled")
  assert compiler.compiled == 2  # 16 and 12


def test_few_programs_give_sure_answers_for_the_first_cells(fake, tmp_path):
  cells = [cell(depth) for depth in (4, 5, 6, 7)]
  found, _ = searched(tmp_path, cells, 4, kept=15)
  assert [o.source for o in found] == ["compiled"] * 4
  assert (found[0].largest_batch, found[0].largest_source) == (12, "compiled")
  assert found[3].largest_source == "estimated"


def test_half_of_the_programs_are_for_largest_batches(fake, tmp_path, capsys):
  argv = [*TINY, "--depth=4,5", "--optimizer=adam", "--largest_batch", "--compile=4"]
  assert shapes.main([*argv, f"--out={tmp_path}"]) == 0
  text = capsys.readouterr().out
  assert "(2 compiled, 2 estimated)" in text
  assert "compiled now: 4" in text


def test_micro_batches_divide_the_largest_batch(tmp_path):
  plans = tiny_plan("--config.accumulate=5")
  compiler = solve.Compiler(plans, cache.Cache(tmp_path / "c.jsonl"), None, 0)
  one = cell(batch=5, place="v3:2x2", depth=64)
  (known,) = largest.fill(plans, compiler, solve.solve(plans, compiler, [one]))
  assert known.largest_batch > 5
  assert known.largest_batch % 5 == 0


def test_what_the_job_refuses_does_not_fit(fake, tmp_path):
  cells = [
    grid.Cell(grid.Shape(depth, width, 2, 64, 8), cell().setting)
    for depth, width in ((4, 88), (48, 88), (4, 32))
  ]
  found, _ = searched(tmp_path, cells, math.inf)
  assert [o.fits for o in found] == [False, False, True]
  assert [o.note for o in found] == ["no such width", "no such width", ""]
  assert [o.largest_batch for o in found[:2]] == [None, None]
  assert "2 of 3" not in report.summary(found)


def test_the_law_is_beyond_the_grid_or_beyond_what_fits(tmp_path):
  compiler = solve.Compiler(tiny_plan(), cache.Cache(tmp_path / "c.jsonl"), None, 0)
  shapes_of = grid.Grid((4,), ((32, 2), (65536, 2)), (64,), (8,)).shapes()
  setting = cell(place="v3:2x2").setting
  found = solve.solve(tiny_plan(), compiler, [grid.Cell(s, setting) for s in shapes_of])
  wanted = {"depth": 9.0, "width": 4096.0, "mlp_dim": 64.0}
  text = report.best(best.nearest(found, wanted, 1e12), wanted, 1e12, "a law", found)
  assert "the grid's depth ends at 4; the law asks for 9" in text
  assert "of the grid's shapes, those that fit end at width 32; the law asks for 4096" in text
  assert "mlp_dim" not in text


def test_the_published_law_gives_its_own_shape():
  flops = 3 * 40e9 * 221e9
  assert best.published(flops) == pytest.approx({"depth": 27, "width": 1152, "mlp_dim": 4304})
  ten = best.published(10 * flops)
  assert ten["depth"] / 27 == pytest.approx(10**0.45)


def test_the_command_compiles_what_is_here(tmp_path, capsys):
  out = tmp_path / "out"
  argv = [*TINY, "--depth=1", "--optimizer=adam,adafactor", "--compile=1", f"--out={out}"]
  argv += ["--flops=1e12", "--largest_batch"]
  assert shapes.main(argv) == 0
  text = capsys.readouterr().out
  assert "compiled now: 1" in text
  assert "best shape for 1e+12" in text
  rows = list(csv.DictReader((out / "shapes.csv").open()))
  assert len(rows) == len(json.loads((out / "shapes.json").read_text())["cells"]) == 4
  assert (out / "shapes.png").stat().st_size > 10_000
  compiled = [row for row in rows if row["source"] == "compiled"]
  assert len(compiled) == 1
  assert float(compiled[0]["hbm_gib"]) < 0.1
  assert compiled[0]["fits"] == "True"
  assert shapes.main([*argv, "--estimate"]) == 0
  assert "compiled now: 0, known: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--topology=v9:2x2"], "--topology v9:2x2"),
    (["--topology=v3"], "--topology v3"),
    (["--topology=gpu"], "none that JAX can see"),
    (["--depth=0"], "--depth 0"),
    (["--optimizer=sgd"], "--optimizer sgd"),
    (["--remat=some"], "--remat some"),
    (["--width=100//16"], "--width 100//16"),
    (["--fsdp=3", "--topology=v3:2x2"], "does not divide"),
    (["--compile=few"], "--compile few"),
    (["--flops=-1"], "--flops"),
    (["--jobs=0"], "--jobs 0"),
    (["--config=configs/cct_cifar10.py"], "shapes are planned of ViTs"),
    (["--config.model.nme=x"], "unknown config key"),
    (["--config=nowhere.py"], "not found"),
    (["--flops=1e20", "--runs=nowhere.csv"], "nowhere.csv"),
    (["--optimizer=adafactor-within", "--remat=none"], "adafactor-within"),
    (["--optimizer=adam", "--config.updates=within", "--remat=dots"], "model.remat='dots'"),
    (["--optimizer=config", "--config.optimizer.name=foo"], "unknown optimizer 'foo'"),
    (["--config.model.posemb=foo"], "posemb"),
    (["--config.ema.decay=2"], "config.ema.decay"),
    (["--patch=14,15"], "patch 15: image_size=224"),
    (["--config.accumulate=2"], "--batch 1: a device cannot take it in accumulate=2"),
  ],
)
def test_mistakes_take_one_line(argv, words, tmp_path, capsys):
  assert shapes.main(["--estimate", f"--out={tmp_path}", *argv]) == 2
  error = capsys.readouterr().err
  assert words in error
  assert error.count("\n") == 1


def test_topologies():
  assert topology.find("v3:4x4").devices == 32
  assert topology.find("v4:2x2x1").devices == 4
  assert topology.find("H200:8").devices == 8
  assert topology.find("H200").clock is None
  here = topology.find("cpu")
  assert here.compiler == "local"
  assert here.hbm > 2**28


def test_an_outcome_counts_what_the_paper_counts(tmp_path):
  compiler = solve.Compiler(tiny_plan(), cache.Cache(tmp_path / "c.jsonl"), None, 0)
  known: Outcome = solve.outcome(tiny_plan(), compiler, cell(place="v3:2x2"))
  assert known.mfu == pytest.approx(known.images_per_second * 3 * known.work.forward / 61.5e12)
