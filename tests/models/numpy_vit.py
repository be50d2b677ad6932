"""A ViT in NumPy, written from the papers with loops instead of einsums; any float type."""

from math import erf, pi

import numpy as np


def norm(x, p):
  mean = x.mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gelu(x, form):
  if form == "erf":
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2
  return x * (1 + np.tanh(np.sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2


def mlp(x, p, form):
  hidden = gelu(x @ p["up"]["kernel"] + p["up"]["bias"], form)
  return hidden @ p["down"]["kernel"] + p["down"]["bias"]


def attention(queries, inputs, p):
  """One image: [Q, D] looks at [N, D]."""
  out = p["out"]["bias"]
  for h in range(p["query"]["kernel"].shape[1]):
    q, k, v = (
      x @ p[n]["kernel"][:, h] + p[n]["bias"][h]
      for n, x in (("query", queries), ("key", inputs), ("value", inputs))
    )
    scores = q @ k.T / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = out + weights / weights.sum(-1, keepdims=True) @ v @ p["out"]["kernel"][h]
  return out


def patches(image, size):
  """[H, W, C] -> [N, size * size * C], row by row."""
  rows, cols = (n // size for n in image.shape[:2])
  return np.stack(
    [
      image[r * size : (r + 1) * size, c * size : (c + 1) * size].ravel()
      for r in range(rows)
      for c in range(cols)
    ]
  )


def sincos(side, width):
  """Positions, one at a time."""
  quarter = width // 4
  table = np.zeros((side * side, width))
  for y in range(side):
    for x in range(side):
      for j in range(quarter):
        w = 10_000.0 ** (-j / (quarter - 1))
        entries = np.sin(x * w), np.cos(x * w), np.sin(y * w), np.cos(y * w)
        table[y * side + x, j::quarter] = entries
  return table


def forward_one(p, image, model, form, heads):
  """Returns (logits [K], features [D]) of one image; with several heads their means."""
  kernel = p["embedding"]["kernel"]
  x = patches(image, kernel.shape[0]) @ kernel.reshape(-1, kernel.shape[-1])
  x = x + p["embedding"]["bias"]
  table = (
    p["pos_embedding"][0]
    if model.posemb == "learn"
    else sincos(image.shape[0] // kernel.shape[0], x.shape[-1])
  )
  if model.pool == "tok" and len(table) > len(x):
    tokens = [p[name][0] for name in ("cls", "dist") if name in p]
    x = np.concatenate([*tokens, x]) + table
  elif model.pool == "tok":
    x = np.concatenate([p["cls"][0], x + table])
  else:
    x = x + table
  for i in range(model.depth):
    b = p["encoder"][f"block_{i}"]
    y = norm(x, b["norm1"])
    x = x + attention(y, y, b["attention"])
    x = x + mlp(norm(x, b["norm2"]), b["mlp"], form)
  x = norm(x, p["encoder_norm"])
  if model.pool == "tok":
    features = x[: len(heads)]
  elif model.pool == "gap":
    features = x.mean(0)
  else:
    m = p["map_pool"]
    y = attention(m["probe"][0], x, m["attention"])
    features = (y + mlp(norm(y, m["norm"]), m["mlp"], form))[0]
  if "pre_logits" in p:
    features = np.tanh(features @ p["pre_logits"]["kernel"] + p["pre_logits"]["bias"])
  features = features.reshape(len(heads), -1)
  logits = [f @ p[h]["kernel"] + p[h]["bias"] for f, h in zip(features, heads, strict=True)]
  return np.mean(logits, 0), features.mean(0)


def forward(params, images, model, gelu_form="tanh", heads=("head",)):
  """Returns (logits [B, K], features [B, D]) for a tree of NumPy arrays.

  Several `heads`, each of the token in its place, are averaged.
  """
  outputs = [forward_one(params, image, model, gelu_form, heads) for image in images]
  return tuple(np.stack(x) for x in zip(*outputs, strict=True))
