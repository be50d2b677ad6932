"""A Swin Transformer in NumPy that reads a state dict by timm's names, one image and one window at
a time."""

from math import erf

import numpy as np


def norm(x, p, name):
  mean = x.mean(-1, keepdims=True)
  x = (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(x, p, name):
  return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mlp(x, p, name):
  x = linear(x, p, f"{name}.fc1")
  return linear(x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2, p, f"{name}.fc2")


def attention(x, p, name, heads, apart):
  """Tokens [w * w, D] of one window; those that are `apart` cannot see each other."""
  n, width = x.shape
  side, d = round(n**0.5), width // heads
  table = p[f"{name}.relative_position_bias_table"]
  q, k, v = np.split(linear(x, p, f"{name}.qkv"), 3, axis=-1)
  out = np.zeros((n, width))
  for h in range(heads):
    part = slice(h * d, (h + 1) * d)
    scores = q[:, part] @ k[:, part].T / np.sqrt(d)
    for i in range(n):
      for j in range(n):
        dy, dx = i // side - j // side, i % side - j % side
        scores[i, j] += table[(dy + side - 1) * (2 * side - 1) + dx + side - 1, h]
        scores[i, j] -= 100 * apart[i, j]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
  return linear(out, p, f"{name}.proj")


def windowed(x, p, name, heads, window, shift, masked, pad_first):
  """A map [S, S, D]; `pad_first`: zeros before the shift, as in Microsoft's code for detection."""
  side = len(x)
  if side <= window:
    window, shift = side, 0
  size = -(-side // window) * window
  turn = size if pad_first else side  # what the shift is cyclic over

  def source(r):
    return (r + shift) % turn if r < turn else r

  def region(r):
    return (r >= size - window) + (r >= size - shift)

  out = np.zeros_like(x)
  for top in range(0, size, window):
    for left in range(0, size, window):
      places = [(r, c) for r in range(top, top + window) for c in range(left, left + window)]
      tokens = np.zeros((window * window, x.shape[-1]))
      for i, (r, c) in enumerate(places):
        if source(r) < side and source(c) < side:
          tokens[i] = x[source(r), source(c)]
      apart = np.array(
        [[(region(r), region(c)) != (region(u), region(v)) for u, v in places] for r, c in places]
      )
      tokens = attention(tokens, p, name, heads, apart * bool(masked and shift))
      for i, (r, c) in enumerate(places):
        if source(r) < side and source(c) < side:
          out[source(r), source(c)] = tokens[i]
  return out


def merge(x, p, name):
  side, width = len(x), x.shape[-1]
  half = -(-side // 2)
  whole = np.zeros((2 * half, 2 * half, width))
  whole[:side, :side] = x
  parts = [whole[row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
  x = norm(np.concatenate(parts, axis=-1), p, f"{name}.norm")
  return x @ p[f"{name}.reduction.weight"].T


def embed(image, p):
  kernel = p["patch_embed.proj.weight"]
  size = kernel.shape[-1]
  side = -(-len(image) // size)
  whole = np.zeros((side * size, side * size, image.shape[-1]))
  whole[: len(image), : len(image)] = image
  x = np.zeros((side, side, len(kernel)))
  for r in range(side):
    for c in range(side):
      patch = whole[r * size : (r + 1) * size, c * size : (c + 1) * size]
      x[r, c] = np.einsum("hwc,ochw->o", patch, kernel) + p["patch_embed.proj.bias"]
  return norm(x, p, "patch_embed.norm")


def forward(p, images, depths, window, head_dim, shifts=True, masked=True, pad_first=False):
  """Returns logits [B, K] for a state dict of float64 arrays and images [B, S, S, 3]."""
  logits = []
  for image in images:
    x = embed(image, p)
    for i, depth in enumerate(depths):
      if i:
        x = merge(x, p, f"layers.{i}.downsample")
      for j in range(depth):
        name = f"layers.{i}.blocks.{j}"
        shift = window // 2 if j % 2 and shifts else 0
        y = norm(x, p, f"{name}.norm1")
        heads = x.shape[-1] // head_dim
        x = x + windowed(y, p, f"{name}.attn", heads, window, shift, masked, pad_first)
        x = x + mlp(norm(x, p, f"{name}.norm2"), p, f"{name}.mlp")
    logits.append(linear(norm(x, p, "norm").mean((0, 1)), p, "head.fc"))
  return np.stack(logits)
