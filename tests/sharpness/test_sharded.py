"""Every examination over eight devices, sharded, is that over one."""

import json

import jax
import numpy as np
from training import run_on_devices

from vit_jax import parallel

SCRIPT = """
from test_sharded import results
print(json.dumps(results((2, 4))))
"""


def results(mesh):
  """Returns the numbers that examinations find, and what tells how they were spread."""
  from shrunken_problems import problem_of  # noqa: PLC0415  (the devices are chosen by then)

  from vit_jax.sharpness import registry  # noqa: PLC0415
  from vit_jax.sharpness.examination import Bench  # noqa: PLC0415

  mesh = parallel.make_mesh(*mesh)
  problem, weights = problem_of("ViT-mu/2", depth=1, width=32, examples=11, mesh=mesh)
  split = sum(not x.is_fully_replicated for x in jax.tree.leaves(weights.params))
  out = {"batch": problem.batch_size, "split": split}
  for name, options in (
    ("neurons", {}),
    ("norms", {}),
    ("attention", dict(images=3)),
    ("hessian", dict(top=2, smallest=False, blocks="none", tolerance=1e-3)),
    ("landscape", dict(points=3, plane=0, together=2)),
    ("ntk", dict(examples=5, batches=1, trained=False)),
  ):
    found = registry.make(name, options).measure(problem, weights, Bench())
    keys = {"rollout", "curves", "eigenvalues", "initial"} & found.arrays.keys()
    arrays = [found.arrays[k] for k in sorted(keys)]
    out[name] = [*found.scalars.values(), *map(float, np.concatenate([[], *map(np.ravel, arrays)]))]
  return out


def test_eight_devices_are_one():
  many, one = json.loads(run_on_devices(8, SCRIPT)), results((1, 1))
  assert (many.pop("batch"), one.pop("batch")) == (8, 3)  # batches of another size, too
  assert (many.pop("split") > 0, one.pop("split")) == (True, 0)
  for name, numbers in one.items():
    assert len(numbers) > 2
    rtol = 1e-3 if name == "ntk" else 1e-4  # its smallest eigenvalue feels the rounding most
    np.testing.assert_allclose(many[name], numbers, rtol=rtol, atol=1e-6, err_msg=name)
