"""How good is a plain ViT on ImageNet-1k, trained well and without SAM or a teacher?

  python -m vit_jax.main --config configs/vit_i1k.py:S/16,90 --workdir results/vit_s16_90ep

The argument is what to train. Published top-1 and cost:

  S/16,90    76.5%, 6 to 7 hours on a TPUv3-8 (big_vision's config and 2205.01580); 3.2e18 FLOPs
  S/16,300   80.0% (2205.01580); 1.1e19 FLOPs
  B/16,300   about 79%: 79.67% is printed in 2105.01601, table 3, at 20 TPUv3 core-days, and 79.15%
             is what timm measures for the released weights (2106.10270); 4.05e19 FLOPs

S/16 has batch 1024, sines and cosines, the mean of the tokens, RandAugment(2, 10), mixup 0.2; B/16
batch 4096, learned positions, a class token, RandAugment(2, 15), mixup 0.5 (big_vision's
vit_s16_i1k and vit_i1k). Both have Adam at 1e-3 with a first moment in bfloat16, weight decay 0.1
of kernels (1e-4 there, where it is not multiplied by the learning rate), gradient norm 1, 10,000
steps of warm-up and a cosine to 0, softmax, and a tanh layer before the head.

What differs: all of the training images are used (big_vision: 99%), RandAugment's operations are
timm's at one fixed magnitude, for big_vision's have other ranges and wrap around (see
`python -m vit_jax.data transforms randaugment`), mixup's partners come from the whole batch, B/16's
class token has a position of its own, and all of the model computes in bfloat16. 79.15% is of
weights chosen among many runs.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError

TRAIN_IMAGES = 1_281_167

# Batch, fields of the model, magnitude of RandAugment, alpha of mixup.
_S16 = (1_024, dict(pool="gap", posemb="sincos2d"), 10, 0.2)
_B16 = (4_096, dict(pool="tok", posemb="learn"), 15, 0.5)
# Model and epochs of each claim.
RECIPES = {"S/16,90": _S16, "S/16,300": _S16, "B/16,300": _B16}


def get_config(arg: str = "S/16,90") -> ConfigDict:
  if arg not in RECIPES:
    raise UserError(f"configs/vit_i1k.py:{arg}: give one of {' '.join(RECIPES)}")
  batch_size, fields, magnitude, mixup = RECIPES[arg]
  variant, epochs = arg.split(",")
  randaugment = f"randaugment(2, {magnitude}, mstd=0, probability=1, max_m={magnitude})"
  return ConfigDict(
    dict(
      batch_size=batch_size,
      total_steps=int(epochs) * TRAIN_IMAGES // batch_size,
      model=dict(fields, name=f"ViT-{variant}", pre_logits=True, scan=True, dtype="bfloat16"),
      data=dict(
        name="imagenet2012",
        image_size=224,
        train=f"inception_crop(224)|flip|{randaugment}|value_range(-1, 1)",
        eval="resize_small(256)|central_crop(224)|value_range(-1, 1)",
        num_threads=32,
      ),
      mixing=dict(mixup=mixup, kind="big_vision"),
      loss=dict(name="softmax_xent"),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        momentum_dtype="bfloat16",
        weight_decay=((".*kernel.*", 0.1), (".*", 0.0)),
        clip_norm=1.0,
      ),
      schedule=dict(name="cosine", warmup=10_000),
      evaluators=dict(val=dict(type="classification", split="validation", every=5_000)),
    )
  )
