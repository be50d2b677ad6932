"""Every family through files: what is written is read again, tensor by tensor."""

import os
import stat

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from shrunken import SHRUNKEN, create

from vit_jax import pretrained
from vit_jax.errors import UserError
from vit_jax.models import stacking
from vit_jax.pretrained import match, rules
from vit_jax.pretrained.formats import FORMATS

every_model = pytest.mark.parametrize("name", list(SHRUNKEN))


def silent(_):
  pass


def random_variables(model, seed=0):
  """Variables of the unscanned model, no tensor at a special value."""
  rng = np.random.default_rng(seed)
  flat = {p: np.float32(rng.normal(size=s)) for p, s in match.shapes(model).items()}
  return unflatten_dict(flat, sep="/")


def assert_same(got, expected):
  got, expected = (flatten_dict(x, sep="/") for x in (got, expected))
  assert got.keys() == expected.keys()
  for path, x in expected.items():
    assert got[path].dtype == np.float32, path
    np.testing.assert_array_equal(got[path], x, err_msg=path)


@every_model
@pytest.mark.parametrize("to", ["timm", "vit_jax"])
def test_round_trip_is_exact(name, to, tmp_path):
  model, path = create(name), tmp_path / "x.safetensors"
  variables = random_variables(model)
  pretrained.export(path, model, variables, to=to, name=name)
  assert_same(pretrained.load(path, model, log=silent), variables)
  if hasattr(model, "scan"):
    scanned = create(name, scan=True)
    stacked = pretrained.load(path, scanned, log=silent)
    target = jax.eval_shape(
      scanned.init,
      jax.random.key(0),
      np.zeros((1, model.image_size, model.image_size, 3), np.float32),
    )
    assert jax.tree.map(lambda x: x.shape, stacked) == jax.tree.map(lambda x: x.shape, target)
    again = tmp_path / "y.safetensors"
    pretrained.export(again, scanned, stacked, to=to, name=name)
    one, two = (safetensors.numpy.load_file(p) for p in (path, again))
    assert one.keys() == two.keys()
    for key, x in one.items():
      np.testing.assert_array_equal(two[key], x)


@every_model
def test_every_format_is_found_and_read(name, tmp_path):
  model, variables = create(name), random_variables(create(name))
  flat = flatten_dict(variables, sep="/")
  for fmt in FORMATS[type(model)]:
    try:
      their_rules = fmt.rules(model)
    except UserError:
      continue  # the project has no such model
    path, lines = tmp_path / f"{fmt.name}.npz", []
    np.savez(path, **rules.save(their_rules, flat))
    assert_same(pretrained.load(path, model, log=lines.append), variables)
    assert lines[0].startswith(f"loaded {len(np.load(path).files)} tensors")


@every_model
def test_a_fresh_head_leaves_the_rest(name, tmp_path):
  model, path = create(name), tmp_path / "x.safetensors"
  variables = random_variables(model)
  pretrained.export(path, model, variables)
  lines = []
  got = pretrained.load(
    path,
    create(name, num_classes=7),
    head="fresh",
    key=jax.random.key(0),
    log=lines.append,
  )
  assert any(line.startswith("fresh: params/head/") for line in lines)
  for part, x in flatten_dict(got, sep="/").items():
    if part.startswith("params/head"):
      assert x.shape[-1] == 7
    else:
      np.testing.assert_array_equal(x, flatten_dict(variables, sep="/")[part])
  dropped = pretrained.load(path, model, head="drop", log=silent)
  heads = [p for p in flatten_dict(variables, sep="/") if p.startswith("params/head")]
  assert heads
  assert flatten_dict(variables, sep="/").keys() - flatten_dict(dropped, sep="/").keys() == set(
    heads
  )
  pretrained.export(path, model, dropped, overwrite=True)
  with pytest.raises(UserError, match='not in the file.*head="fresh"'):
    pretrained.load(path, model, log=silent)


def tiny_file(tmp_path, **overrides):
  model = create("ViT-mu/2", **overrides)
  variables = random_variables(model)
  path = tmp_path / "x.safetensors"
  pretrained.export(path, model, variables)
  return model, variables, path


def test_metadata_say_whose_the_weights_are(tmp_path):
  _, _, path = tiny_file(tmp_path, gelu="tanh")
  with safetensors.safe_open(path, "np") as f:
    metadata = f.metadata()
  assert metadata["format"] == "pt"
  assert metadata["model"] == "ViT"
  assert '"gelu": "tanh"' in metadata["fields"]


def test_a_file_is_replaced_only_when_asked(tmp_path):
  model, variables, path = tiny_file(tmp_path)
  before = path.read_bytes()
  with pytest.raises(UserError, match=r"is there already: .*--force"):
    pretrained.export(path, model, random_variables(model, 1))
  assert path.read_bytes() == before
  pretrained.export(path, model, random_variables(model, 1), overwrite=True)
  assert path.read_bytes() != before


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  model, _, path = tiny_file(tmp_path)
  before = path.read_bytes()

  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match="cannot be written: No space left on device"):
    pretrained.export(path, model, random_variables(model, 1), overwrite=True)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == [path.name]


def test_others_may_read_what_was_written(tmp_path):
  _, _, path = tiny_file(tmp_path)
  mask = os.umask(0)
  os.umask(mask)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_variables_of_another_model_are_refused(tmp_path):
  model, variables, _ = tiny_file(tmp_path)
  other = create("ViT-mu/2", num_classes=6)
  with pytest.raises(UserError, match=r"params/head/kernel must have shape \(16, 6\)"):
    pretrained.export(tmp_path / "y.safetensors", other, variables)
  del variables["params"]["encoder_norm"]
  with pytest.raises(UserError, match="params/encoder_norm/scale .*no such array"):
    pretrained.export(tmp_path / "y.safetensors", model, variables)
  with pytest.raises(UserError, match="the directory .* is not there"):
    pretrained.export(tmp_path / "no" / "y.safetensors", model, variables)


def test_scanned_variables_need_no_scanned_model(tmp_path):
  model, variables, path = tiny_file(tmp_path)
  stacked = {"params": stacking.stack(variables["params"])}
  other = tmp_path / "y.safetensors"
  pretrained.export(other, model, stacked)
  one, two = (safetensors.numpy.load_file(p) for p in (path, other))
  jax.tree.map(np.testing.assert_array_equal, one, two)
