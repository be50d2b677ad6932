"""CaiT in NumPy: names and shapes of timm's state dict, and its forward pass in float64.

Written from the paper (2103.17239, §2 and §3) and the tensors of the public files, with loops over
images and heads.
"""

from math import erf

import numpy as np


def shapes(*, width, depth, class_depth, mlp_dim, heads, patch, tokens, classes):
  """Shapes by name, in no particular order."""
  out = {
    "cls_token": (1, 1, width),
    "pos_embed": (1, tokens, width),
    "patch_embed.proj.weight": (width, 3, patch, patch),
    "patch_embed.proj.bias": (width,),
  }

  def linear(name, outputs, inputs):
    out[f"{name}.weight"], out[f"{name}.bias"] = (outputs, inputs), (outputs,)

  def block(name):
    for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "gamma_1", "gamma_2"):
      out[f"{name}.{part}"] = (width,)
    linear(f"{name}.attn.proj", width, width)
    linear(f"{name}.mlp.fc1", mlp_dim, width)
    linear(f"{name}.mlp.fc2", width, mlp_dim)

  for i in range(depth):
    block(f"blocks.{i}")
    linear(f"blocks.{i}.attn.qkv", 3 * width, width)
    linear(f"blocks.{i}.attn.proj_l", heads, heads)
    linear(f"blocks.{i}.attn.proj_w", heads, heads)
  for i in range(class_depth):
    block(f"blocks_token_only.{i}")
    for part in "qkv":
      linear(f"blocks_token_only.{i}.attn.{part}", width, width)
  out["norm.weight"] = out["norm.bias"] = (width,)
  linear("head", classes, width)
  return out


def random_state(seed=0, **sizes):
  """Random float32 values: norms' and LayerScale's around 1, matrices that keep what passes."""
  rng = np.random.default_rng(seed)
  state = {}
  for name, shape in shapes(**sizes).items():
    x = rng.normal(size=shape)
    if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) or "gamma" in name:
      x = 1 + 0.2 * x
    elif name.endswith("weight"):
      x = x / np.sqrt(np.prod(shape[1:]))
    else:
      x = 0.2 * x
    state[name] = np.float32(x)
  return state


def linear(x, p, name):
  return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(x, p, name):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
  return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def mlp(x, p, name):
  x = linear(x, p, f"{name}.fc1")
  return linear(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2, p, f"{name}.fc2")


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def mix(maps, p, name):
  """[H, Q, K]: each head becomes a sum of all of them."""
  w, b = p[f"{name}.weight"], p[f"{name}.bias"]
  return np.stack([sum(w[g, h] * maps[h] for h in range(len(w))) + b[g] for g in range(len(w))])


def heads_of(x, heads):
  return np.split(x, heads, axis=-1)


def self_attention(x, p, name, heads, mistake):
  q, k, v = (heads_of(part, heads) for part in np.split(linear(x, p, f"{name}.qkv"), 3, axis=-1))
  before, after = ("proj_w", "proj_l") if mistake == "talks exchanged" else ("proj_l", "proj_w")
  scores = np.stack([a @ b.T / np.sqrt(a.shape[-1]) for a, b in zip(q, k, strict=True)])
  weights = mix(softmax(mix(scores, p, f"{name}.{before}")), p, f"{name}.{after}")
  out = [a @ b for a, b in zip(weights, v, strict=True)]
  return linear(np.concatenate(out, -1), p, f"{name}.proj")


def class_attention(query, inputs, p, name, heads):
  q, k, v = (
    heads_of(linear(x, p, f"{name}.{part}"), heads)
    for part, x in (("q", query), ("k", inputs), ("v", inputs))
  )
  out = [softmax(a @ b.T / np.sqrt(a.shape[-1])) @ c for a, b, c in zip(q, k, v, strict=True)]
  return linear(np.concatenate(out, -1), p, f"{name}.proj")


def forward_one(p, image, heads, mistake):
  """Returns (logits [K], features [D]) of one image [H, W, C]."""
  kernel = p["patch_embed.proj.weight"]
  size = kernel.shape[-1]
  cuts = range(0, image.shape[0], size)
  x = np.stack(
    [
      np.tensordot(kernel, image[r : r + size, c : c + size], ((2, 3, 1), (0, 1, 2)))
      for r in cuts
      for c in cuts
    ]
  )
  x = x + p["patch_embed.proj.bias"] + p["pos_embed"][0]

  def scale(name):
    return 1 if mistake == "no LayerScale" else p[name]

  blocks = {name.rsplit(".gamma_1")[0] for name in p if name.endswith("gamma_1")}
  for i in range(sum(name.startswith("blocks.") for name in blocks)):
    b = f"blocks.{i}"
    y = self_attention(norm(x, p, f"{b}.norm1"), p, f"{b}.attn", heads, mistake)
    x = x + scale(f"{b}.gamma_1") * y
    x = x + scale(f"{b}.gamma_2") * mlp(norm(x, p, f"{b}.norm2"), p, f"{b}.mlp")
  cls = p["cls_token"][0]
  for i in range(sum(name.startswith("blocks_token_only.") for name in blocks)):
    b = f"blocks_token_only.{i}"
    u = norm(np.concatenate([cls, x]), p, f"{b}.norm1")
    if mistake == "class token not normed":
      u[:1] = cls
    cls = cls + scale(f"{b}.gamma_1") * class_attention(u[:1], u, p, f"{b}.attn", heads)
    cls = cls + scale(f"{b}.gamma_2") * mlp(norm(cls, p, f"{b}.norm2"), p, f"{b}.mlp")
  features = norm(cls, p, "norm")[0]
  return linear(features, p, "head"), features


def forward(state, images, heads, mistake=None):
  """Returns float64 (logits [B, K], features [B, D]); a `mistake` is a wrong reading, see above."""
  p = {name: x.astype(np.float64) for name, x in state.items()}
  outputs = [forward_one(p, image.astype(np.float64), heads, mistake) for image in images]
  return tuple(np.stack(x) for x in zip(*outputs, strict=True))
