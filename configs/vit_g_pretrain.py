"""How are ViT-g/14 and ViT-G/14 pre-trained for Scaling Vision Transformers?

  python -m vit_jax.main --config configs/vit_g_pretrain.py:g/14,DATASET --workdir results/vit_g \
    --config.mesh.fsdp=64

The arguments are the model and your data set, a TFDS name or an image folder; the published JFT-3B,
of 29,593 classes, is Google's alone. Published on ImageNet after pre-training (2106.04560, table 1
and figure 2), and what a million steps of these batches cost on TPUv3, by that figure 10,900
core-days for g/14 and 22,000 for G/14:

  g/14   fine-tuned 89.9% (off figure 2), 10-shot 84.5%   2.6e22 FLOPs
  G/14   fine-tuned 90.45%, 10-shot 84.86%, both after 1.25 million such steps   4.75e22 FLOPs

Both have batches of 16,384 at 224 pixels, cropped and flipped; sigmoid loss with the head's bias
at -10; map pooling; Adafactor as modified there at 8e-4 with gradient norm 1; decay 3.0 of the head
and 0.03 of all other kernels (100 to 1); a trunk of 10,000 steps of warm-up and rsqrt of timescale
10,000, with 50,000 steps of cooldown to 0 (appendices B and C, and big_vision's train_vit_g).

What differs: that config is of g/14 alone, and its rate is here G/14's too, for which the paper
gives none and had batches of up to 32,768. Its results come from G/14 fine-tuned at 518 pixels
(configs/transfer.py has that at other sizes). Blocks are recomputed in the backward pass. On
TPUv3's cores G/14 fits without mesh.fsdp when --config.updates=within (docs/scale.md): the paper
had data parallelism alone.
"""

from ml_collections import ConfigDict

from vit_jax.errors import UserError

MODELS = ("g/14", "G/14")


def get_config(arg: str = "") -> ConfigDict:
  model, _, dataset = arg.partition(",")
  if model not in MODELS or not dataset:
    raise UserError(
      f"configs/vit_g_pretrain.py:{arg}: give {' or '.join(MODELS)}, a comma, and the name of your "
      "data set"
    )
  return ConfigDict(
    dict(
      batch_size=16_384,
      branches=(120_000, 400_000, 1_000_000),
      cooldown=50_000.0,
      cooldown_shape="linear",
      model=dict(
        name=f"ViT-{model}",
        pool="map",
        head_bias_init=-10.0,
        scan=True,
        remat="full",
        dtype="bfloat16",
      ),
      data=dict(
        name=dataset,
        image_size=224,
        train="inception_crop(224)|flip|value_range(-1, 1)",
        eval="resize_small(256)|central_crop(224)|value_range(-1, 1)",
        num_threads=32,
      ),
      loss=dict(name="sigmoid_xent"),
      optimizer=dict(
        name="adafactor",
        learning_rate=8e-4,
        weight_decay=(("head/kernel", 3.0), (".*kernel.*", 0.03), (".*", 0.0)),
        clip_norm=1.0,
      ),
      schedule=dict(name="rsqrt", warmup=10_000, timescale=10_000),
      evaluators=dict(val=dict(type="classification", split="validation", every=10_000)),
    )
  )
