"""What benchmarks/accelerator.py compares: settings of our train step, each with a name.

A variant changes the config, or puts another function in the model's place before it is built.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.models import attention, encoder, vit
from vit_jax.models.dense import Dense

BASE = "scan"  # a scan over the layers, nothing recomputed, cuDNN's attention on a GPU


class Fused(attention.Attention):
  """Attention of tokens to themselves whose query, key and value are one product."""

  @attention.nn.compact
  def __call__(self, queries, inputs, bias=None):
    width = inputs.shape[-1]
    split = (3, self.num_heads, width // self.num_heads)
    qkv = Dense(split, kernel_init=self.kernel_init, dtype=self.dtype, name="qkv")(inputs)
    query, key, value = (qkv[:, :, i] for i in range(3))
    y = attention.attend(query, key, value, bias=bias, scale=self.scale)
    return Dense((width,), axes=2, kernel_init=self.kernel_init, dtype=self.dtype, name="out")(y)


def fuse():
  encoder.Attention = Fused


def write_out():
  """Leaves cuDNN out: the scores [B, H, N, N] are in memory."""
  attention._flash_can = lambda query: False


def xla_attention():
  def attend(query, key, value, *, bias=None, scale=None, **_):
    bias = None if bias is None else bias.astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias, scale=scale, implementation="xla")

  attention.attend = attend


def pad(multiple):
  """Returns a change that gives the encoder as many tokens as are a multiple, masked as keys."""

  def change():
    plain, real = attention.attend, {}

    def attend(query, key, value, *, bias=None, scale=None, **_):
      total = key.shape[1]
      if query.shape[1] != total or total == real["tokens"]:  # the pooling head's
        return plain(query, key, value, bias=bias, scale=scale)
      if attention._flash_can(query):
        lengths = jnp.full(key.shape[:1], real["tokens"], jnp.int32)
        return jax.nn.dot_product_attention(
          query, key, value, key_value_seq_lengths=lengths, scale=scale, implementation="cudnn"
        )
      mask = jnp.where(jnp.arange(total) < real["tokens"], 0.0, -1e9)[None, None, None]
      return plain(query, key, value, bias=mask, scale=scale)

    class Padded(encoder.Encoder):
      def __call__(self, x, each):
        n = real["tokens"] = x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, -n % multiple), (0, 0)))
        return super().__call__(x, each)[:, :n]

    attention.attend, vit.Encoder = attend, Padded

  return change


@dataclasses.dataclass(frozen=True)
class Variant:
  """Changes to the base: config keys, a function to call before, XLA's flags for GPUs."""

  config: dict = dataclasses.field(default_factory=dict)
  change: Callable[[], None] | None = None
  flags: str = ""


VARIANTS = {
  BASE: Variant(),
  "scan, remat dots": Variant({"model.remat": "dots"}),
  "scan, remat full": Variant({"model.remat": "full"}),
  "unrolled": Variant({"model.scan": False}),
  "unrolled, remat dots": Variant({"model.scan": False, "model.remat": "dots"}),
  "unrolled, remat full": Variant({"model.scan": False, "model.remat": "full"}),
  "attention written out": Variant(change=write_out),
  "attention of jax.nn, XLA": Variant(change=xla_attention),
  "fused QKV": Variant(change=fuse),
  "tokens padded to 64": Variant(change=pad(64)),
  "tokens padded to 128": Variant(change=pad(128)),
  "AdamW": Variant({"optimizer.name": "adamw"}),
  "latency-hiding scheduler": Variant(flags="--xla_gpu_enable_latency_hiding_scheduler=true"),
  "no Triton GEMM": Variant(flags="--xla_gpu_enable_triton_gemm=false"),
  "any Triton GEMM": Variant(flags="--xla_gpu_triton_gemm_any=true"),
  "autotune level 0": Variant(flags="--xla_gpu_autotune_level=0"),
  "exhaustive tiling search": Variant(flags="--xla_gpu_exhaustive_tiling_search=true"),
  "no command buffers": Variant(flags="--xla_gpu_enable_command_buffer="),
}
