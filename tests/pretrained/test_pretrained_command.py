"""python -m vit_jax.pretrained: what it prints, writes and refuses."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from modeling import tiny
from test_export import random_variables
from test_load import state_of

from vit_jax import models, pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.__main__ import main

TINY = [f"--override={k}" for k in ("width=16", "depth=2", "mlp_dim=24", "num_heads=2")]


@pytest.fixture
def file(tmp_path):
  """A file of vision_transformer's with 5 classes, at 8 pixels."""
  path = tmp_path / "x.npz"
  np.savez(path, **state_of(tiny(), random_variables(tiny()), "google"))
  return str(path)


def test_inspect_lists_the_tensors(file, capsys):
  assert main(["inspect", file]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ["cls", "1x1x16", "float32"]
  assert "tensors     40 with " in lines[-2]
  assert lines[-1] == "looks like  ViT"
  assert len(lines) == 40 + 3


def test_inspect_says_what_fits(file, capsys):
  assert main(["inspect", file, "--model", "ViT-mu/2", "--image-size=8", *TINY]) == 0
  out = capsys.readouterr().out
  assert "fits ViT-mu/2 at 8 pixels" in out
  assert "loaded 40 tensors" in out
  assert main(["inspect", file, "--model", "ViT-mu/2", *TINY]) == 0
  assert "fits ViT-mu/2 at 8 pixels" in capsys.readouterr().out  # the file's own size
  assert (
    main(["inspect", file, "--model", "ViT-mu/4", "--image-size=16", *TINY, "--override=depth=3"])
    == 0
  )
  out = capsys.readouterr().out
  assert "does not fit ViT-mu/4: embedding/kernel has shape 2x2x3x16" in out
  assert "shape    embedding/kernel (file 2x2x3x16, model 4x4x3x16)" in out
  assert "missing  Transformer/encoderblock_2/LayerNorm_0/scale" in out
  assert out.endswith("missing  Transformer/encoderblock_2/MlpBlock_0/Dense_1/bias\n")


def test_convert_to_our_names_and_to_timms(file, tmp_path, capsys):
  out = tmp_path / "ours.safetensors"
  command = ["convert", file, str(out), "--model", "ViT-mu/2", *TINY]
  assert main(command) == 0
  assert f"wrote {out} for ViT-mu/2, image_size=8, num_classes=5" in capsys.readouterr().out
  expected = flatten_dict(random_variables(tiny()), sep="/")
  got = safetensors.numpy.load_file(out)
  assert got.keys() == expected.keys()
  for path, x in expected.items():
    np.testing.assert_array_equal(got[path], x)
  timm = tmp_path / "timm.safetensors"
  assert main(["convert", str(out), str(timm), "--model", "ViT-mu/2", "--to=timm", *TINY]) == 0
  got = safetensors.numpy.load_file(timm)
  for name, x in state_of(tiny(), random_variables(tiny())).items():
    np.testing.assert_array_equal(got[name], x)


def test_convert_to_another_size_with_a_new_head(file, tmp_path, capsys):
  out = tmp_path / "x.safetensors"
  assert (
    main(
      ["convert", file, str(out), "--model=ViT-mu/2", "--image-size=12", "--head=fresh"]
      + ["--num-classes=7", "--override=scan=True", *TINY]
    )
    == 0
  )
  text = capsys.readouterr().out
  assert "resized pos_embedding: 1x17x16 to 1x37x16, bicubic" in text
  assert "fresh: params/head/" in text
  model = models.create(
    "ViT-mu/2", num_classes=7, image_size=12, width=16, depth=2, mlp_dim=24, num_heads=2
  )
  variables = pretrained.load(out, model, log=lambda _: None)
  assert variables["params"]["pos_embedding"].shape == (1, 37, 16)


MISTAKES = {
  "no file": (["inspect", "nowhere.npz"], "nowhere.npz is not there"),
  "no model": (["inspect", "FILE", "--model=ViT-Q/16"], "unknown model 'ViT-Q/16'"),
  "no field": (
    ["inspect", "FILE", "--model=ViT-mu/2", "--override=widht=3"],
    "did you mean 'width'",
  ),
  "no value": (["inspect", "FILE", "--model=ViT-mu/2", "--override=width"], "write FIELD=VALUE"),
  "suffix": (["convert", "FILE", "x.npz", "--model=ViT-mu/2"], "must end in .safetensors"),
  "directory": (["convert", "FILE", "no/x.safetensors", "--model=ViT-mu/2"], "no is not there"),
  "misfit": (
    ["convert", "FILE", "OUT", "--model=ViT-mu/2", *TINY, "--num-classes=9"],
    "5 classes .*, the model 9",
  ),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_mistakes_are_one_line(case, file, tmp_path):
  arguments, message = MISTAKES[case]
  out = tmp_path / "out.safetensors"
  arguments = [{"FILE": file, "OUT": str(out)}.get(a, a) for a in arguments]
  with pytest.raises(UserError, match=message) as error:
    main(arguments)
  assert "\n" not in str(error.value)
  assert not out.exists()


def test_nothing_is_overwritten_unless_asked(file, tmp_path):
  out = tmp_path / "x.safetensors"
  command = ["convert", file, str(out), "--model=ViT-mu/2", *TINY]
  out.write_bytes(b"precious")
  with pytest.raises(UserError, match="is there already.*--force"):
    main(command)
  assert out.read_bytes() == b"precious"
  assert main([*command, "--force"]) == 0
  assert len(out.read_bytes()) > 1000


def test_the_process_exits_with_2_and_one_line_and_teaches_with_examples(tmp_path):
  command = [sys.executable, "-m", "vit_jax.pretrained"]
  run = subprocess.run([*command, "inspect", "nowhere"], capture_output=True, text=True)
  assert run.returncode == 2
  assert run.stderr == "error: the file of weights nowhere is not there\n"
  run = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
  assert "convert B_16.npz" in run.stdout
