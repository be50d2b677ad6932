"""Fine-tuning on Tiny-ImageNet, after "Vision Transformers in 2022" (2205.10660).

  python -m vit_jax.main --config configs/tiny_imagenet.py:swin_l,frozen --workdir results/tiny \
    --config.init_from=swin_large_patch4_window12_384_22k.pth

The argument is a model, vit_l16, deit_b, cait_s36 or swin_l, and what is trained: `frozen`, new
heads on a frozen backbone, is what the study's published code does; `full`, all weights, is how
its text reads. The weights (of ImageNet, at 384 pixels) are yours to give.

The recipe is the published one: 200 classes at 384 pixels, enlarged from 64; AdamW at 1e-3 with
decay 0.05, cosine to 0 without warm-up, 30 epochs of batch 128 in micro-batches that fit 8 GB,
label smoothing 0.1, mixup 0.8 or cutmix 1.0, random erasing 0.25, drop path 0.1 (DeiT, which it
trains in evaluation mode, without), ImageNet's mean and deviation for every model. Published top-1,
%: ViT-L/16 86.43, DeiT-B distilled 87.29, CaiT-S36 86.74, Swin-L 91.35. Two things differ: bfloat16
takes the place of float16, and each of DeiT's two heads learns from the labels, where evaluation
mode gives the published code the loss of their mean.

`data.name` is the unpacked folder of tiny-imagenet-200, a path or a name below `data.dir`.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.optim import BACKBONE

TRAIN_IMAGES, BATCH_SIZE, EPOCHS, SIZE = 100_000, 128, 30, 384

# Model, images of a micro-batch.
MODELS = {
  "vit_l16": (dict(name="ViT-L/16", gelu="erf", drop_path=0.1), 64),
  "deit_b": (dict(name="DeiT-B/16-distilled", drop_path=0.0), 64),
  "cait_s36": (dict(name="CaiT-S36", drop_path=0.1), 128),
  "swin_l": (dict(name="Swin-L-w12", drop_path=0.1), 32),
}
TRAINED = {"frozen": (BACKBONE,), "full": ()}


def get_config(arg: str = "swin_l,frozen") -> ConfigDict:
  model, _, trained = arg.partition(",")
  if model not in MODELS or trained not in TRAINED:
    raise UserError(
      f"configs/tiny_imagenet.py:{arg}: give one of {', '.join(MODELS)}, a comma, "
      "and frozen or full"
    )
  fields, micro_batch = MODELS[model]
  return ConfigDict(
    dict(
      batch_size=BATCH_SIZE,
      accumulate=BATCH_SIZE // micro_batch,
      total_steps=EPOCHS * TRAIN_IMAGES // BATCH_SIZE,
      init_from="",  # to be given
      init_head="fresh",
      freeze=TRAINED[trained],
      model=dict(fields, dtype="bfloat16"),
      data=dict(
        name="tiny-imagenet-200",
        image_size=SIZE,
        train=f"random_resized_crop({SIZE})|flip|normalize('imagenet')|random_erasing(0.25)",
        eval=f"resize({SIZE}, 'bicubic')|normalize('imagenet')",
        num_threads=8,
      ),
      mixing=dict(mixup=0.8, cutmix=1.0),
      loss=dict(name="softmax_xent", label_smoothing=0.1),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=((".*kernel.*", 0.05), (".*", 0.0)),
        clip_norm=0.0,
      ),
      schedule=dict(name="cosine"),
      evaluators=dict(
        val=dict(type="classification", split="val", every=TRAIN_IMAGES // BATCH_SIZE)
      ),
    )
  )
