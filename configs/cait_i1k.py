"""How good is a deep ViT with class attention (CaiT) on ImageNet-1k, taught by a convolutional net?

  python -m vit_jax.main --config configs/cait_i1k.py:CaiT-S24 --workdir results/cait_s24 \
    --config.distill.teacher=results/resnet152

The argument is a model. Published top-1 at 224 pixels, training FLOPs of the student (2103.17239
and its code; for XXS what timm measures with the released weights):

  CaiT-XXS24   78.4%   7.8e18
  CaiT-XXS36   79.8%   1.2e19
  CaiT-S24     83.5%   2.9e19

All published weights learned from a teacher, RegNetY-16GF, by its decisions: with one head, half of
the loss. They trained for 400 epochs of batch 1024, AdamW at 1e-3 with decay 0.05; stochastic depth
is 0.05, 0.1 and 0.1, the same in every block, and evaluation sees the whole shorter side (a crop
ratio of 1). What the paper does not name is DeiT's, see configs/deit_i1k.py: warm-up, RandAugment,
mixing, erasing, repeated images.

What differs: that teacher is none of the models here, so that another must be given: a run
directory, or a file and `--config.distill.model.name`. The rest as for DeiT.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError

BATCH_SIZE, EPOCHS = 1_024, 400
EPOCH = 1_281_167 // BATCH_SIZE  # steps; what does not fill a batch is left out there
DROP_PATH = {"CaiT-XXS24": 0.05, "CaiT-XXS36": 0.1, "CaiT-S24": 0.1}


def get_config(arg: str = "CaiT-S24") -> ConfigDict:
  if arg not in DROP_PATH:
    raise UserError(f"configs/cait_i1k.py:{arg}: give one of {', '.join(DROP_PATH)}")
  return ConfigDict(
    dict(
      batch_size=BATCH_SIZE,
      total_steps=EPOCHS * EPOCH,
      model=dict(name=arg, drop_path=DROP_PATH[arg], scan=True, dtype="bfloat16"),
      data=dict(
        name="imagenet2012",
        image_size=224,
        train="random_resized_crop(224)|flip|randaugment(2, 9, fill=(124, 116, 104))"
        "|normalize('imagenet')|random_erasing(0.25)",
        eval="resize_small(224, 'bicubic', True)|central_crop(224)|normalize('imagenet')",
        repeats=3,
        num_threads=32,
      ),
      mixing=dict(mixup=0.8, cutmix=1.0),
      loss=dict(name="softmax_xent", label_smoothing=0.1),
      distill=dict(teacher="TEACHER", kind="hard", alpha=0.5),
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
