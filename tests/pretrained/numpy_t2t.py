"""T2T-ViT in NumPy: names and shapes of the official state dict, and its forward pass in float64.

Written from the paper (2101.11986, §3) and the tensors of the official files, with loops over
images, windows and heads.
"""

from math import erf, sqrt

import numpy as np

ERF = np.vectorize(erf, otypes=[float])


def shapes(*, tokens, width, depth, mlp_dim, grid, classes, token_width=64, kernels=(7, 3, 3)):
  """Shapes by name; `tokens` is "performer" or "transformer"."""
  out = {"cls_token": (1, 1, width), "pos_embed": (1, grid * grid + 1, width)}

  def linear(name, outputs, inputs, bias=True):
    out[f"{name}.weight"] = (outputs, inputs)
    if bias:
      out[f"{name}.bias"] = (outputs,)

  def norm(name, size):
    out[f"{name}.weight"] = out[f"{name}.bias"] = (size,)

  t = token_width
  for name, inputs in (("attention1", 3 * kernels[0] ** 2), ("attention2", t * kernels[1] ** 2)):
    p = f"tokens_to_token.{name}"
    norm(f"{p}.norm1", inputs)
    norm(f"{p}.norm2", t)
    if tokens == "performer":
      out[f"{p}.w"] = (t // 2, t)
      linear(f"{p}.kqv", 3 * t, inputs)
      linear(f"{p}.proj", t, t)
      linear(f"{p}.mlp.0", t, t)
      linear(f"{p}.mlp.2", t, t)
    else:
      linear(f"{p}.attn.qkv", 3 * t, inputs, bias=False)
      linear(f"{p}.attn.proj", t, t)
      linear(f"{p}.mlp.fc1", t, t)
      linear(f"{p}.mlp.fc2", t, t)
  linear("tokens_to_token.project", width, t * kernels[2] ** 2)
  for i in range(depth):
    norm(f"blocks.{i}.norm1", width)
    linear(f"blocks.{i}.attn.qkv", 3 * width, width, bias=False)
    linear(f"blocks.{i}.attn.proj", width, width)
    norm(f"blocks.{i}.norm2", width)
    linear(f"blocks.{i}.mlp.fc1", mlp_dim, width)
    linear(f"blocks.{i}.mlp.fc2", width, mlp_dim)
  norm("norm", width)
  linear("head", classes, width)
  return out


def random_state(seed=0, **sizes):
  """Random float32 values: norms' scales around 1, matrices that keep the size of what passes."""
  rng = np.random.default_rng(seed)
  state = {}
  for name, shape in shapes(**sizes).items():
    x = rng.normal(size=shape)
    if "norm" in name:
      x = 0.3 * x + (1 if name.endswith("weight") else 0)
    elif name.endswith("weight"):
      x = x / sqrt(shape[1])
    elif name.endswith("bias"):
      x = 0.3 * x
    state[name] = np.float32(x)
  return state


def linear(s, name, x):
  y = x @ s[f"{name}.weight"].T
  return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def norm(s, name, x, epsilon=1e-5):
  centred = x - x.mean(-1, keepdims=True)
  deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
  return centred / deviation * s[f"{name}.weight"] + s[f"{name}.bias"]


def mlp(s, first, second, x):
  hidden = linear(s, first, x)
  return linear(s, second, hidden * (1 + ERF(hidden / sqrt(2))) / 2)


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def unfold(image, kernel, stride, padding):
  """[C, H, W] -> (windows row by row [N, C * kernel * kernel], rows of windows)."""
  image = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
  rows, columns = ((n - kernel) // stride + 1 for n in image.shape[1:])
  windows = [
    image[:, r * stride : r * stride + kernel, c * stride : c * stride + kernel].ravel()
    for r in range(rows)
    for c in range(columns)
  ]
  return np.stack(windows), rows


def fold(tokens, rows):
  """[N, C] -> [C, H, W]."""
  return tokens.T.reshape(tokens.shape[1], rows, -1)


def performer(s, p, x):
  k, q, v = np.split(linear(s, f"{p}.kqv", norm(s, f"{p}.norm1", x)), 3, axis=1)
  w = s[f"{p}.w"]

  def phi(rows):
    return np.stack([np.exp(w @ r - r @ r / 2) for r in rows]) / sqrt(len(w))

  kernel = phi(q) @ phi(k).T
  y = kernel @ v / (kernel.sum(1, keepdims=True) + 1e-8)
  x = v + linear(s, f"{p}.proj", y)
  return x + mlp(s, f"{p}.mlp.0", f"{p}.mlp.2", norm(s, f"{p}.norm2", x))


def transformer(s, p, x, scale):
  q, k, v = np.split(linear(s, f"{p}.attn.qkv", norm(s, f"{p}.norm1", x)), 3, axis=1)
  scale = x.shape[1] ** -0.5 if scale is None else scale
  x = v + linear(s, f"{p}.attn.proj", softmax(q @ k.T * scale) @ v)
  return x + mlp(s, f"{p}.mlp.fc1", f"{p}.mlp.fc2", norm(s, f"{p}.norm2", x))


def block(s, p, x, heads, scale):
  qkv = linear(s, f"{p}.attn.qkv", norm(s, f"{p}.norm1", x))
  # Rows of the packed matrix: q, k, v, and inside each of them head after head.
  q, k, v = qkv.reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
  mixed = [softmax(q[h] @ k[h].T * scale) @ v[h] for h in range(heads)]
  x = x + linear(s, f"{p}.attn.proj", np.concatenate(mixed, axis=1))
  return x + mlp(s, f"{p}.mlp.fc1", f"{p}.mlp.fc2", norm(s, f"{p}.norm2", x))


def forward(
  state, images, *, heads, scale=None, token_scale=None, splits=((7, 4, 2), (3, 2, 1), (3, 2, 1))
):
  """Returns (logits [B, K], features [B, D]).

  Args:
    state: arrays by their official names.
    images: [B, H, W, C].
    heads: of the backbone.
    scale: of the backbone's scores; (width / heads)^-0.5 if None.
    token_scale: of the scores of token transformers; (their input's width)^-0.5 if None.
    splits: kernel, stride and padding of each soft split.
  """
  s = {name: x.astype(np.float64) for name, x in state.items()}
  width = s["cls_token"].shape[-1]
  scale = (width / heads) ** -0.5 if scale is None else scale
  depth = sum(name.endswith("attn.qkv.weight") and name.startswith("blocks.") for name in s)
  features = []
  for image in images.astype(np.float64).transpose(0, 3, 1, 2):
    for i, split in enumerate(splits):
      x, rows = unfold(image, *split)
      p = f"tokens_to_token.attention{i + 1}"
      if i < 2:
        x = performer(s, p, x) if f"{p}.w" in s else transformer(s, p, x, token_scale)
        image = fold(x, rows)
    x = linear(s, "tokens_to_token.project", x)
    x = np.concatenate([s["cls_token"][0], x]) + s["pos_embed"][0]
    for i in range(depth):
      x = block(s, f"blocks.{i}", x, heads, scale)
    features.append(norm(s, "norm", x)[0])
  features = np.stack(features)
  return linear(s, "head", features), features
