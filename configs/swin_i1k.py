"""How good is a Swin Transformer on ImageNet-1k, trained from scratch at 224 pixels?

  python -m vit_jax.main --config configs/swin_i1k.py:Swin-T --workdir results/swin_t

The argument is a model. Published top-1 (2103.14030, table 1; later by its code) and training
FLOPs:

  Swin-T   81.3% (81.2%)   1.0e19
  Swin-S   83.0% (83.2%)   2.0e19
  Swin-B   83.3% (83.5%)   3.6e19

300 epochs of batch 1024: AdamW at 1e-3 with decay 0.05, a cosine to 1e-5, 20 epochs of warm-up from
1e-6, gradient norm 5; stochastic depth 0.2, 0.3 and 0.5, label smoothing 0.1, RandAugment 9 with
deviation 0.5, mixup 0.8 or CutMix 1.0, random erasing 0.25; no repeated images and no averages.

What differs: a batch is mixed as one, there each device's part of it by itself, and bfloat16 takes
the place of float16.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError

BATCH_SIZE, EPOCHS = 1_024, 300
EPOCH = 1_281_167 // BATCH_SIZE  # steps; what does not fill a batch is left out there
DROP_PATH = {"Swin-T": 0.2, "Swin-S": 0.3, "Swin-B": 0.5}


def get_config(arg: str = "Swin-T") -> ConfigDict:
  if arg not in DROP_PATH:
    raise UserError(f"configs/swin_i1k.py:{arg}: give one of {', '.join(DROP_PATH)}")
  return ConfigDict(
    dict(
      batch_size=BATCH_SIZE,
      total_steps=EPOCHS * EPOCH,
      model=dict(name=arg, drop_path=DROP_PATH[arg], dtype="bfloat16"),
      data=dict(
        name="imagenet2012",
        image_size=224,
        train="random_resized_crop(224)|flip|randaugment(2, 9, fill=(124, 116, 104))"
        "|normalize('imagenet')|random_erasing(0.25)",
        eval="resize_small(256, 'bicubic', True)|central_crop(224)|normalize('imagenet')",
        num_threads=32,
      ),
      mixing=dict(mixup=0.8, cutmix=1.0),
      loss=dict(name="softmax_xent", label_smoothing=0.1),
      optimizer=dict(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=((".*kernel.*", 0.05), (".*", 0.0)),
        clip_norm=5.0,
      ),
      schedule=dict(
        name="cosine", warmup=20 * EPOCH, warmup_start=1e-3, warmup_prefix=False, end=0.01
      ),
      evaluators=dict(val=dict(type="classification", split="validation", every=10 * EPOCH)),
    )
  )
