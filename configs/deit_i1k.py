"""How good is a ViT on ImageNet-1k with strong augmentation, and with a teacher (DeiT)?

  python -m vit_jax.main --config configs/deit_i1k.py:DeiT-S/16 --workdir results/deit_s
  python -m vit_jax.main --config configs/deit_i1k.py:DeiT-S/16-distilled \
    --workdir results/deit_sd --config.distill.teacher=results/resnet152

The argument is a model. Published top-1 in % (2012.12877 and its code), training FLOPs of the
student:

               alone   distilled
  DeiT-Ti/16   72.2    74.5        2.9e18
  DeiT-S/16    79.8    81.2        1.1e19
  DeiT-B/16    81.8    83.4        4.05e19, 53 hours on 8 V100

300 epochs of batch 1024: AdamW at 1e-3 (5e-4 for 512 images) with decay 0.05, a cosine to 1e-5 that
changes from epoch to epoch, 5 epochs of warm-up from 1e-6; stochastic depth 0.1, label smoothing
0.1, RandAugment 9 with deviation 0.5, mixup 0.8 or CutMix 1.0, random erasing 0.25, every image
three times in a batch, no clipping, and an average of the parameters with decay 0.99996. The
teacher's decision is half of the loss ("hard"). Its colour jitter of 0.3 does nothing beside
RandAugment, in that code as well.

What differs: the published teacher, RegNetY-16GF of 82.9%, is none of the models here, so that
another must be given: a run directory, or a file and `--config.distill.model.name`. A batch is
mixed as one, there each device's part of it by itself. The published code sets each epoch's rate
one epoch late, and its average begins with the initial parameters; it publishes the parameters
themselves (`val_error`, not `ema_val_error`). bfloat16 takes the place of float16.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError

BATCH_SIZE, EPOCHS = 1_024, 300
EPOCH = 1_281_167 // BATCH_SIZE  # steps; what does not fill a batch is left out there
MODELS = tuple(f"DeiT-{size}/16{kind}" for kind in ("", "-distilled") for size in ("Ti", "S", "B"))


def get_config(arg: str = "DeiT-S/16") -> ConfigDict:
  if arg not in MODELS:
    raise UserError(f"configs/deit_i1k.py:{arg}: give one of {', '.join(MODELS)}")
  distill = dict(teacher="TEACHER", kind="hard", alpha=0.5) if "-distilled" in arg else {}
  return ConfigDict(
    dict(
      batch_size=BATCH_SIZE,
      total_steps=EPOCHS * EPOCH,
      model=dict(name=arg, drop_path=0.1, scan=True, dtype="bfloat16"),
      data=dict(
        name="imagenet2012",
        image_size=224,
        train="random_resized_crop(224)|flip|randaugment(2, 9, fill=(124, 116, 104))"
        "|normalize('imagenet')|random_erasing(0.25)",
        eval="resize_small(256, 'bicubic', True)|central_crop(224)|normalize('imagenet')",
        repeats=3,
        num_threads=32,
      ),
      mixing=dict(mixup=0.8, cutmix=1.0),
      loss=dict(name="softmax_xent", label_smoothing=0.1),
      distill=distill,
      optimizer=dict(
        name="adamw",
        learning_rate=5e-4 * BATCH_SIZE / 512,
        weight_decay=((".*kernel.*", 0.05), (".*", 0.0)),
        clip_norm=0.0,
      ),
      schedule=dict(
        name="cosine",
        warmup=5 * EPOCH,
        warmup_start=1e-3,
        warmup_prefix=False,
        every=EPOCH,
        end=0.01,
      ),
      ema=dict(decay=0.99996, warmup=False),
      evaluators=dict(val=dict(type="classification", split="validation", every=10 * EPOCH)),
    )
  )
