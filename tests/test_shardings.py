"""Every layout of the state over eight devices trains as one device does, and stores what it says.

One process with eight virtual devices goes through all of CASES; the tests look at what it wrote.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from training import tiny, with_devices

from vit_jax import job, parallel
from vit_jax.branches import Window
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.optim.schedules import NEVER

STEPS, BATCH, DEPTH, WIDTH = 3, 48, 3, 32

# Adam divides the rounding errors of tiny gradients by their own size, but for its epsilon.
ADAM = {
  "optimizer": {"name": "adamw", "learning_rate": 0.01, "eps": 1e-2},
  "ema": {"decay": 0.5},
}
ADAFACTOR = {"optimizer": {"name": "adafactor", "learning_rate": 0.003}}
UNCLIPPED = {"optimizer": {**ADAM["optimizer"], "clip_norm": 0.0}}
LOOKSAM = {
  "optimizer": {"name": "sgd", "learning_rate": 0.1},
  "sam": {"kind": "looksam", "rho": 0.05, "every": 2, "m": 24},
}
NARROW = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "dtype": "bfloat16"}

ZERO1, FSDP = {"zero1": 8}, {"fsdp": 8}
# name -> optimiser, mesh, scan, remat, micro-batches
CASES = {
  "data, blocks": (ADAM, {}, False, "dots", 2),
  "zero1": (ADAM, ZERO1, True, "full", 1),
  "zero1, blocks": (ADAM, {"data": 2, "zero1": 4}, False, "none", 2),
  "fsdp": (ADAM, FSDP, True, "full", 1),
  "fsdp, micro-batches": (ADAM, FSDP, True, "none", 2),
  "fsdp, part": (ADAM, {"data": 2, "fsdp": 4}, True, "dots", 1),
  "fsdp, blocks": (ADAM, FSDP, False, "full", 2),
  "zero1, factored": (ADAFACTOR, ZERO1, True, "dots", 2),
  "fsdp, factored": (ADAFACTOR, FSDP, True, "full", 1),
  "zero1, within": (UNCLIPPED, {"data": 2, "zero1": 4}, True, "full", 1),
  "fsdp, within": (UNCLIPPED, FSDP, True, "full", 1),
  "zero1, sam": (LOOKSAM, {"data": 2, "zero1": 4}, True, "none", 1),
  "fsdp, bfloat16": (NARROW, FSDP, True, "full", 1),
}
OPTIMISERS = {
  "adam": ADAM,
  "adafactor": ADAFACTOR,
  "unclipped": UNCLIPPED,
  "looksam": LOOKSAM,
  "narrow": NARROW,
}


def config(optimiser, mesh=None, scan=False, remat="none", accumulate=1):
  model = dict(name="ViT-mu/8", depth=DEPTH, width=WIDTH, mlp_dim=4 * WIDTH, num_heads=2)
  model["dtype"] = optimiser.get("dtype", "float32")
  return tiny(
    **{k: v for k, v in optimiser.items() if k != "dtype"},
    branches=(),
    total_steps=STEPS,
    batch_size=BATCH,
    accumulate=accumulate,
    mesh=mesh or {},
    model={**model, "dropout": 0.0, "scan": scan, "remat": remat},
  )


def flat(params):
  """Returns the parameters as NumPy arrays by path, each block by itself."""
  tree = stacking.unstack(jax.device_get(params))
  return {k: np.asarray(x) for k, x in flatten_dict(tree, sep="/").items()}


def begin(built, start):
  """Returns the state at step 0 with these parameters (see `flat`)."""
  params = unflatten_dict(start, sep="/")
  if built.config.model.scan:
    params = stacking.stack(params)
  # All else starts at zero; to run a program for that takes as long to compile as a step.
  zeros = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), built.target)
  state = jax.tree.map(
    lambda x, like: parallel.put(x, like.sharding), zeros.replace(params=params), built.target
  )
  return state.with_window(Window(NEVER, NEVER))


def train(built, state):
  """Returns the state at the end, the losses, and the parameters with their averages."""
  losses, batches = [], built.batches(int(state.step))
  while int(state.step) < STEPS:
    state, metrics = built.train_step(state, next(batches))
    losses.append(float(metrics["loss"]))
  found = {f" {path}": x for path, x in flat(state.params).items()}
  if built.averages:
    found |= {f"ema {k}": x for k, x in flat(state.averages["ema"]["params"]).items()}
  return state, losses, found


def go_through(directory, start):
  """Trains all of CASES and writes what is looked at."""
  parallel.MIN_SHARDED_SIZE = 2**6  # of a model so small
  report, jobs = {}, {}
  for name, case in CASES.items():
    changed = config(*case).unlock()
    changed.updates = "within" if "within" in name else "after"
    built = jobs[name] = job.build(changed.lock(), "t")
    state, losses, found = train(built, begin(built, start))
    np.savez(directory / f"{name}.npz", losses=losses, **found)
    (directory / f"{name}.hlo").write_text(built.train_step.as_text())
    report[name] = {
      part: [
        sum(math.prod(s(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for s in (lambda x: x.shape, lambda x: x.sharding.shard_shape(x.shape))
      ]
      for part, tree in (("params", state.params), ("rest", state.replace(params=None)))
    }
  (directory / "bytes.json").write_text(json.dumps(report))
  state = hand_over(Checkpoints(directory / "run"), [jobs[name] for name in CHAIN], start)
  np.savez(directory / "handed.npz", **{f" {k}": x for k, x in flat(state.params).items()})


CHAIN = ["fsdp", "zero1", "fsdp, part"]


def hand_over(checkpoints, jobs, start):
  """Takes each step on another layout, from the checkpoint of the one before."""
  for step, built in enumerate(jobs):
    state = checkpoints.restore(step, built.target) if step else begin(built, start)
    state, _ = built.train_step(state, next(built.batches(step)))
    checkpoints.save(state, step + 1, {})
    checkpoints.wait()
  checkpoints.close()
  return state


SCRIPT = """
import pathlib, sys
sys.path[:0] = {paths!r}
import jax, numpy as np
import test_shardings
assert jax.device_count() == 8
with np.load({out!r} + "/start.npz") as file:
  test_shardings.go_through(pathlib.Path({out!r}), dict(file))
"""


@pytest.fixture(scope="module")
def single():
  """What the optimisers do on one device: optimiser -> (losses, parameters and averages)."""
  out, start = {}, None
  for name, optimiser in OPTIMISERS.items():
    built = job.build(config(optimiser), "t")
    start = start or flat(built.create_state().params)
    out[name] = train(built, begin(built, start))[1:]
  return start, out


@pytest.fixture(scope="module")
def eight(single, tmp_path_factory):
  """The directory with what eight devices did."""
  out = tmp_path_factory.mktemp("eight")
  np.savez(out / "start.npz", **single[0])
  here = Path(__file__).parent
  script = SCRIPT.format(paths=[str(here), str(here.parent)], out=str(out))
  # A cached program cannot say what it consists of.
  env = with_devices(8)
  env["XLA_FLAGS"] += " --xla_backend_optimization_level=1"
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return out


def assert_close(found, expected, tolerance=2e-5):
  assert found.keys() == expected.keys()
  for path, x in expected.items():
    if "key/bias" in path:  # adds the same to all scores of a query: its gradient is rounding error
      continue
    np.testing.assert_allclose(found[path], x, rtol=1e-4, atol=tolerance, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_trains_as_one_device(single, eight, name):
  optimiser = next(k for k, v in OPTIMISERS.items() if v is CASES[name][0])
  losses, expected = single[1][optimiser]
  with np.load(eight / f"{name}.npz") as file:
    found = dict(file)
  narrow = optimiser == "narrow"  # sums over devices of rounded gradients
  np.testing.assert_allclose(found.pop("losses"), losses, rtol=1e-3 if narrow else 1e-4)
  assert_close(found, expected, 3e-4 if narrow else 2e-5)
  assert any(np.abs(x - single[0][k[1:]]).max() > 1e-3 for k, x in found.items() if k[0] == " ")


@pytest.mark.slow
def test_a_checkpoint_of_any_layout_continues_on_any_other(single, eight):
  with np.load(eight / "handed.npz") as file:
    assert_close(dict(file), {k: x for k, x in single[1]["adam"][1].items() if k[0] == " "})


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[0] is ADAM])
def test_what_a_device_stores(eight, name):
  parts = math.prod(v for k, v in CASES[name][1].items() if k != "data")
  held = json.loads((eight / "bytes.json").read_text())[name]
  params = 1 if name.startswith("zero1") else parts
  for part, n in (("params", params), ("rest", parts)):
    whole, own = held[part]
    assert whole / n <= own <= 1.2 * whole / n  # biases and norms are not split


def operations(eight, name):
  """Yields (shape, operation) of the compiled step."""
  for line in (eight / f"{name}.hlo").read_text().splitlines():
    found = re.match(r"\s*(?:ROOT )?%[\w.\-]+ = (.+?) ([\w\-]+)\(", line)
    if found:
      yield found[1], found[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[0] is not LOOKSAM])
def test_each_device_has_its_part_of_the_batch_alone(eight, name):
  """Sharded kernels are no wish to split the layers, and to gather the activations."""
  shapes = {shape for shape, _ in operations(eight, name)}
  tokens = (16 // 8) ** 2 + 1
  micro = BATCH // CASES[name][-1]
  assert any(re.search(rf"\[{micro // 8},{tokens},{WIDTH}\]", s) for s in shapes)
  assert not any(re.search(rf"\[{micro},{tokens}[,\]]", s) for s in shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "fsdp, part", "fsdp, factored", "fsdp, within"])
def test_no_more_than_a_layer_is_gathered(eight, name):
  """Neither the parameters nor their gradients are ever whole for more than one layer."""
  kernels = {(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 2, WIDTH // 2), (2, WIDTH // 2, WIDTH)}
  found = list(operations(eight, name))
  for kernel in kernels:
    one = ",".join(map(str, kernel))
    assert not any(f"[{DEPTH},{one}]" in shape for shape, _ in found)
    gathered = [shape for shape, operation in found if operation.startswith("all-gather")]
    assert any(f"[1,{one}]" in shape or f"[{one}]" in shape for shape in gathered)


@pytest.mark.slow
def test_zero1_updates_each_part_where_it_is(eight):
  """The optimiser's arithmetic is that of a part; only new parameters are gathered."""
  whole, part = f"[{DEPTH},{WIDTH},{4 * WIDTH}]", f"[{DEPTH},{WIDTH},{4 * WIDTH // 8}]"
  found = list(operations(eight, "zero1"))
  roots = [shape for shape, operation in found if operation == "sqrt"]
  assert any(part in shape for shape in roots)
  assert not any(whole in shape for shape in roots)
  gathers = [shape for shape, operation in found if operation == "all-gather" and whole in shape]
  assert len(gathers) == 1


def test_a_state_is_sharded_within_its_layers():
  mesh = jax.sharding.AbstractMesh((1, 4), ("data", "fsdp"))
  tree = {
    "blocks": {"kernel": (512, 64, 256), "bias": (2**15, 64), "odd": (64, 255, 257)},
    "lawa": {"blocks": {"kernel": (512, 512, 64, 256)}, "kernel": (512, 64, 256)},
    "head": {"kernel": (512, 64), "bias": (64,)},
  }
  shapes = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, np.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
  )
  specs = jax.tree.map(lambda s: tuple(s.spec), parallel.state_shardings(mesh, shapes))
  assert specs == {
    "blocks": {"kernel": (None, None, "fsdp"), "bias": (), "odd": ()},
    "lawa": {"blocks": {"kernel": (None, None, None, "fsdp")}, "kernel": (None, None, "fsdp")},
    "head": {"kernel": ("fsdp",), "bias": ()},
  }


@pytest.mark.parametrize(
  ("mesh", "message"),
  [
    ({"fsdp": 2, "zero1": 2}, "fsdp=2 shards all that zero1=2 does: leave one of them at 1"),
    ({"zero1": 3}, r"\(data=-1, zero1=3\) does not cover the 1 device\(s\)"),
    ({"fsdp": 0}, r"\(data=-1, fsdp=0\) does not cover"),
    ({"data": 1, "zero1": -2}, "does not cover"),
  ],
)
def test_a_mesh_that_cannot_be(mesh, message):
  with pytest.raises(UserError, match=message):
    parallel.make_mesh(**mesh)


def test_a_mesh_takes_what_is_left():
  assert dict(parallel.make_mesh(data=1, zero1=-1).shape) == {"data": 1, "fsdp": 1}
