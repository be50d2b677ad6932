"""Which family of models a file is of, by the names in it."""

from collections.abc import Iterable

DISTILLED = "DeiT with a distillation token"
# A part of a name that only files of this family have; the first that is found counts.
_SIGNS = {
  "cpb_mlp": "Swin V2",
  "relative_position_bias_table": "Swin",
  "tokens_to_token": "T2T-ViT",
  "blocks_token_only": "CaiT",
  "mlp_tokens": "MLP-Mixer",
  "token_mixing": "MLP-Mixer",
  "tokenizer.conv_layers": "Compact Transformers (ViT-Lite, CVT, CCT)",
  "layer1.0.conv1": "ResNet",
  "block1/unit01": "BiT-ResNet",
  "stages.0.blocks.0.conv1": "BiT-ResNet",
  "dist_token": DISTILLED,
  "distillation_token": DISTILLED,
  "Transformer/encoderblock": "ViT",
  "blocks.0.attn.qkv": "ViT",
  "encoder.layer.0.attention": "ViT",
}


def guess_family(names: Iterable[str]) -> str | None:
  """Returns the family of models whose files have such names, None if none is known."""
  joined = "\n".join(names)
  return next((family for sign, family in _SIGNS.items() if sign in joined), None)
