"""Which files each class of models can be read from, and written to."""

from flax import linen as nn

from vit_jax.models.bit import BiT
from vit_jax.models.cait import CaiT
from vit_jax.models.compact import CompactTransformer
from vit_jax.models.mixer import Mixer
from vit_jax.models.resnet import ResNet
from vit_jax.models.swin import Swin
from vit_jax.models.t2t import T2TViT
from vit_jax.models.vit import ViT
from vit_jax.pretrained import bit, cait, compact, mixer, resnet, swin, t2t, vit
from vit_jax.pretrained.format import Format

# The first format of a class is the one that `export` writes. A family has its own file; one line
# here makes its formats known.
FORMATS: dict[type[nn.Module], tuple[Format, ...]] = {
  BiT: bit.FORMATS,
  CaiT: cait.FORMATS,
  CompactTransformer: compact.FORMATS,
  Mixer: mixer.FORMATS,
  ResNet: resnet.FORMATS,
  Swin: swin.FORMATS,
  T2TViT: t2t.FORMATS,
  ViT: vit.FORMATS,
}
