"""The same ViT and the same training step in other words, for `benchmarks/cpu_step.py`.

`bare_step` is what one writes with Flax's and Optax's own parts, as big_vision's ViT does:
`nn.Conv` for the patches, `nn.MultiHeadDotProductAttention`, `nn.Dense`, `nn.LayerNorm`, layer
after layer, `optax.adamw` behind a clip of the global norm. `timm_step` is timm's ViT with
PyTorch's AdamW, both as they come.

Each returns a function of a number of steps that does them and waits for the last.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

Steps = Callable[[int], None]

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.03
CLIP_NORM = 1.0


def bare_step(shape: Any, images: np.ndarray, labels: np.ndarray) -> Steps:
  """Makes the step of bare Flax and Optax.

  Args:
    shape: has width, depth, mlp_dim, num_heads, patch_size.
    images: float32 [B, H, W, 3].
    labels: int [B].
  """
  import jax
  import jax.numpy as jnp
  import optax
  from flax import linen as nn

  class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
      inits = dict(
        kernel_init=nn.initializers.xavier_uniform(), bias_init=nn.initializers.normal(1e-6)
      )
      width = x.shape[-1]
      x = nn.gelu(nn.Dense(shape.mlp_dim, **inits)(x))
      return nn.Dense(width, **inits)(x)

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = nn.LayerNorm()(x)
      x = x + nn.MultiHeadDotProductAttention(
        num_heads=shape.num_heads, kernel_init=nn.initializers.xavier_uniform()
      )(y, y)
      return x + Mlp()(nn.LayerNorm()(x))

  class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
      p = (shape.patch_size, shape.patch_size)
      x = nn.Conv(shape.width, p, strides=p, padding="VALID")(x)
      x = x.reshape(x.shape[0], -1, shape.width)
      cls = self.param("cls", nn.initializers.zeros, (1, 1, shape.width))
      x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], 1)
      x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
      for _ in range(shape.depth):
        x = Block()(x)
      return nn.Dense(10, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0])

  model, batch = ViT(), (jnp.asarray(images), jnp.asarray(labels))
  tx = optax.chain(
    optax.clip_by_global_norm(CLIP_NORM), optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
  )
  params = jax.jit(model.init)(jax.random.key(0), batch[0][:1])
  state = (params, jax.jit(tx.init)(params))

  def step(state, batch):
    def loss(params):
      logits = model.apply(params, batch[0])
      return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    params, opt_state = state
    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return (optax.apply_updates(params, updates), opt_state), metrics

  step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

  def run(count: int) -> None:
    nonlocal state
    for _ in range(count):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return run


def timm_step(shape: Any, images: np.ndarray, labels: np.ndarray) -> Steps:
  """Makes the step of timm and PyTorch; arguments as those of `bare_step`.

  Raises:
    ImportError: one of them is not there.
  """
  import timm
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = timm.models.vision_transformer.VisionTransformer(
    img_size=images.shape[1],
    patch_size=shape.patch_size,
    embed_dim=shape.width,
    depth=shape.depth,
    num_heads=shape.num_heads,
    mlp_ratio=shape.mlp_dim / shape.width,
    num_classes=10,
  ).train()
  x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
  y = torch.from_numpy(labels.astype(np.int64))
  optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

  def run(count: int) -> None:
    for _ in range(count):
      loss = torch.nn.functional.cross_entropy(model(x), y)
      optimizer.zero_grad()
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
      optimizer.step()

  return run
