"""Every config in configs/ is built and trained for two steps or more, made small by overrides."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax import branches, cli, job, measurements, models, rundir, train
from vit_jax import config as config_lib
from vit_jax.checkpoint import Checkpoints
from vit_jax.errors import UserError
from vit_jax.optim import BACKBONE, frozen, groups

CONFIGS = Path(__file__).parent.parent / "configs"

# File -> the arguments to try ("": none). A new file needs an entry.
ARGUMENTS = {
  "adversarial_cifar10.py": ("", "8"),
  "cait_i1k.py": ("CaiT-S24", "CaiT-XXS24", "CaiT-XXS36"),
  "cct_cifar10.py": ("", "7/3x1"),
  "cifar10_ladder.py": ("",),
  "compact_cifar.py": tuple(
    f"{model},{recipe}"
    for recipe in ("300,cifar10", "300,cifar100", "200,cifar10", "200,cifar100")
    for model in ("CVT-7/4", "CCT-7/3x1", "CCT-7/3x2", "CCT-2/3x2", "ViT-Lite-7/4")
  ),
  "deit_i1k.py": tuple(
    f"DeiT-{size}/16{kind}" for kind in ("-distilled", "") for size in ("Ti", "S", "B")
  ),
  "distill_cifar10.py": ("", "elsewhere"),
  "ladder.py": ("",),
  "optimizers.py": ("adafactor", "adamw", "lion", "muon", "schedule_free_adamw", "sgd"),
  "quickstart.py": ("",),
  "regularization_cifar10.py": ("", "1"),
  "sam_i1k.py": tuple(
    f"{model}{kind}"
    for kind in ("", ",plain", ",adversarial", ",plain,adversarial")
    for model in ("Mixer-B/16", "ResNet-50", "ResNet-152", "ViT-B/16", "ViT-S/16")
  ),
  "sharpness_cifar10.py": ("",),
  "supcon_cifar10.py": ("pretrain", "pretrain,sam", "linear"),
  "swin_i1k.py": ("Swin-T", "Swin-S", "Swin-B"),
  "tiny_imagenet.py": tuple(
    f"{model},{trained}"
    for model in ("vit_l16", "deit_b", "cait_s36", "swin_l")
    for trained in ("frozen", "full")
  ),
  "transfer.py": (
    *(f"{data},ViT-B/16" for data in ("cifar10", "cifar100", "flowers", "pets")),
    *(f"cifar10,{model},frozen" for model in ("Mixer-B/16", "BiT-R50x1", "T2T-ViT-7")),
    *("cifar10,ResNet-50,frozen,224", "suite,ViT-B/16"),
  ),
  "vit_g_pretrain.py": ("g/14,photos", "G/14,photos"),
  "vit_i1k.py": ("S/16,90", "S/16,300", "B/16,300"),
  "zoo_cifar10.py": ("", "6e12"),
}
# The arguments that are trained with as well, where the others are much the same made small.
TRAINED = {
  "adversarial_cifar10.py": ("8",),
  "cait_i1k.py": ("CaiT-S24",),
  "compact_cifar.py": ("CVT-7/4,300,cifar10", "ViT-Lite-7/4,200,cifar100"),
  "cct_cifar10.py": ("7/3x1",),
  "deit_i1k.py": ("DeiT-Ti/16-distilled",),
  "distill_cifar10.py": ("",),
  "regularization_cifar10.py": ("1",),
  "sam_i1k.py": ("Mixer-B/16", "ResNet-50,adversarial"),
  "supcon_cifar10.py": ("pretrain,sam", "linear"),
  "swin_i1k.py": ("Swin-T",),
  "tiny_imagenet.py": ("vit_l16,full", "deit_b,frozen", "cait_s36,frozen", "swin_l,frozen"),
  "transfer.py": ("pets,ViT-B/16", "cifar10,T2T-ViT-7,frozen"),
  "vit_g_pretrain.py": ("g/14,photos",),
  "vit_i1k.py": ("S/16,90",),
  "zoo_cifar10.py": ("",),
  "optimizers.py": ("lion", "muon", "schedule_free_adamw"),
}
# Of a ladder one or two: every class of models is trained by another file too.
RUNGS = {
  "adversarial_cifar10.py": ("fast_sam",),
  "cifar10_ladder.py": ("w64",),
  "distill_cifar10.py": ("hard-0", "soft-0"),
  "ladder.py": ("w16d1",),
  "quickstart.py": ("w16",),
  "regularization_cifar10.py": ("autoaugment-0", "sam-0"),
  "sharpness_cifar10.py": ("resnet-sam",),
  "zoo_cifar10.py": ("T2T-ViT",),
  "optimizers.py": ("w16", "w16_100"),
}

SIZE = 16  # pixels
_BLOCKS = dict(width=16, depth=2, mlp_dim=24, num_heads=2)
# Fields of each class of models that make it small; they are still of the same kind.
SMALL = {
  "BiT": dict(width=32, depths=(1,)),
  "CaiT": dict(_BLOCKS, patch_size=4),
  "CompactTransformer": _BLOCKS,
  "Mixer": dict(width=16, depth=2, mlp_dim=24, token_mlp_dim=12, patch_size=4),
  "ResNet": dict(width=4, depths=(1, 1)),
  "Swin": dict(width=16, depths=(1, 2), head_dim=8, window=2, patch_size=2),
  "T2TViT": dict(_BLOCKS, token_width=8, strides=(2, 2, 1)),
  "ViT": dict(_BLOCKS, patch_size=4),
}
# What making it small may change; all else is what the config is about.
MAY_DIFFER = (
  *("batch_size", "total_steps", "branches", "cooldown", "init_from", "sam.m"),
  *("schedule.warmup", "schedule.hold", "schedule.every"),
  r"data\..*",
  r"evaluators\.\w+\.split",
  rf"model\.({'|'.join(sorted({key for fields in SMALL.values() for key in fields}))})",
)

CASES = [(file, arg) for file, arguments in ARGUMENTS.items() for arg in arguments]


def load(file, arg):
  path = f"{CONFIGS / file}:{arg}" if arg else str(CONFIGS / file)
  return cli.load_rungs(path)


def fields_of(config):
  return {k: v for k, v in config.model.items() if k != "name" and v is not None}


def create(config, num_classes=10):
  size = config.data.image_size
  return models.create(
    config.model.name, num_classes=num_classes, image_size=size, **fields_of(config)
  )


def shrink(config):
  """Returns the config with a small model, small images that need no files, and few steps."""
  small = config_lib.resolve(config.to_dict()).unlock()
  small.model.update(SMALL[type(create(config)).__name__])
  size = config.data.image_size

  def smaller(text):  # whole numbers of two digits or more are pixels
    return re.sub(r"(?<![.\w])\d{2,}\b", lambda m: str(int(m[0]) * SIZE // size), text)

  small.data.update(
    name="synthetic(train_size=64, test_size=100)",
    split="train",
    image_size=SIZE,
    train=smaller(config.data.train),
    eval=smaller(config.data.eval),
    num_threads=0,
  )
  for evaluator in small.evaluators.values():
    evaluator.split = "test[:8]"
  small.batch_size = 4 * config.accumulate
  if config.sam.m is not None:
    small.sam.m = 2
  for key in ("warmup", "hold", "every"):
    small.schedule[key] = min(1, config.schedule[key])
  if config.branches:
    small.branches = (4,)
    small.cooldown = min(2.0, config.cooldown)
  else:
    # The first step of a warm-up may have a rate of 0.
    small.total_steps = 2 + small.schedule.warmup + small.schedule.hold
  return config_lib.resolve(small)


def save_weights(config, directory):
  """Writes a run directory that a config of this model can start from; returns the parameters."""
  config = config_lib.resolve(config.to_dict() | {"init_from": None, "seed": 3})
  state = job.build(config, "source").create_state()
  checkpoints = Checkpoints(directory)
  checkpoints.save(state, 1, {})
  checkpoints.wait()
  checkpoints.close()
  return jax.device_get(state.params)


def save_teacher(config, directory):
  """Writes a run directory of a residual network on the images of a config."""
  model = {"name": "BiT-R50x1", **SMALL["BiT"]}
  config = config_lib.resolve({"data": config.data.to_dict(), "total_steps": 1, "model": model})
  save_weights(config, directory)
  rundir.write_config(directory, config)


def test_every_file_has_an_entry():
  assert {p.name for p in CONFIGS.glob("*.py")} == ARGUMENTS.keys()


@pytest.mark.parametrize(("file", "arg"), CASES)
def test_it_is_built_as_it_is(file, arg):
  for config in load(file, arg).values():
    create(config)
    branches.plan(config.branches, config.cooldown, config.total_steps)
    job.make_schedule(config)
    config_lib.config_hash(config)


@pytest.mark.parametrize(("file", "arg"), CASES)
def test_making_it_small_leaves_what_it_is_about(file, arg):
  for config in load(file, arg).values():
    small = shrink(config)
    assert type(create(small)) is type(create(config))
    a, b = (dict(config_lib.flatten(config_lib.to_json(c))) for c in (config, small))
    differing = [key for key in a if a[key] != b[key]]
    assert [k for k in differing if not any(re.fullmatch(p, k) for p in MAY_DIFFER)] == []


def rungs_to_train(file, arg):
  """Yields name, config and shrunken config of the rungs that still differ when made small."""
  seen = []
  for name, config in load(file, arg).items():
    small = shrink(config)
    if small.to_dict() not in seen and name in RUNGS.get(file, (name,)):
      seen.append(small.to_dict())
      yield name, config, small


@pytest.mark.parametrize(
  ("file", "arg"), [(file, arg) for file, arg in CASES if arg in TRAINED.get(file, (arg,))]
)
def test_it_trains(file, arg, tmp_path):
  for name, config, small in rungs_to_train(file, arg):
    start = None
    if small.init_from == "":
      with pytest.raises(UserError, match=r"give --config\.init_from"):
        train.prepare(small, tmp_path / "nothing", "t")
      start = save_weights(small, tmp_path / "weights")
      small = config_lib.resolve(small.to_dict() | {"init_from": str(tmp_path / "weights")})
    if small.distill.teacher is not None:
      save_teacher(small, tmp_path / name)
      distill = small.distill.to_dict() | {"teacher": str(tmp_path / name)}
      small = config_lib.resolve(small.to_dict() | {"distill": distill})
    workdir = tmp_path / "run" / name
    train.run(small, workdir, "t")
    end = workdir / "branches/4" if small.branches else workdir
    (last,) = [m for m in measurements.read(end) if m["final"]]
    assert last["step"] >= 2
    if start is not None:
      checkpoints = Checkpoints(end, read_only=True)
      params = checkpoints.weights(last["step"])["params"]
      checkpoints.close()
      is_frozen = frozen.mask(tuple(config.freeze), start)
      same = jax.tree.map(np.array_equal, params, start)
      left = {n for n, f in zip(groups.path_names(start), jax.tree.leaves(same), strict=True) if f}
      masked = jax.tree.leaves(is_frozen)
      held = {n for n, f in zip(groups.path_names(start), masked, strict=True) if f}
      assert held <= left
      assert "head/kernel" not in left
      assert bool(held) == (BACKBONE in config.freeze)
      if not held:
        assert len(left) < 0.2 * len(masked)


@pytest.mark.parametrize(
  ("file", "arg", "message"),
  [
    ("optimizers.py", "soap", "give one of adafactor, adamw, lion, muon, schedule_free"),
    ("tiny_imagenet.py", "vit_b,frozen", "give one of vit_l16, deit_b, cait_s36, swin_l"),
    ("tiny_imagenet.py", "vit_l16", "and frozen or full"),
    ("transfer.py", "cifar10", "give a data set"),
    ("transfer.py", "cifar,ViT-B/16", "give a data set"),
    ("transfer.py", "cifar10,ViT-B/16,frosen", "give a data set"),
    ("transfer.py", "cifar10,ViT-B16,frozen", "did you mean ViT-B/16"),
  ],
)
def test_wrong_arguments_are_named(file, arg, message):
  with pytest.raises(UserError, match=message):
    load(file, arg)
