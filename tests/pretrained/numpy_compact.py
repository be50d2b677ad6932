"""ViT-Lite, CVT and CCT in NumPy, over state dicts in the names of SHI-Labs' code; float64.

Written from the paper (2104.05704) and the names and shapes of the state dicts, one image at a
time. The keywords of `forward` are readings that are wrong.
"""

from math import erf, sqrt

import numpy as np

HIDDEN = 64


def random_state(
  *, width, depth, mlp_dim, classes, tokens, kernel=3, layers=0, patch=None, seqpool, positions=True
):
  """Returns a state dict with no tensor at a special value."""
  rng = np.random.default_rng(depth + width + layers)
  shapes = {}
  if patch:
    shapes["tokenizer.conv_layers.0.0.weight"] = (width, 3, patch, patch)
    shapes["tokenizer.conv_layers.0.0.bias"] = (width,)
  for j in range(layers):
    ins, outs = 3 if j == 0 else HIDDEN, width if j == layers - 1 else HIDDEN
    shapes[f"tokenizer.conv_layers.{j}.0.weight"] = (outs, ins, kernel, kernel)
  if seqpool:
    shapes["classifier.attention_pool.weight"] = (1, width)
    shapes["classifier.attention_pool.bias"] = (1,)
  else:
    shapes["classifier.class_emb"] = (1, 1, width)
  if positions:
    shapes["classifier.positional_emb"] = (1, tokens + (not seqpool), width)
  for i in range(depth):
    block = f"classifier.blocks.{i}"
    for norm in ("pre_norm", "norm1"):
      shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (width,)
    shapes[f"{block}.self_attn.qkv.weight"] = (3 * width, width)
    shapes[f"{block}.self_attn.proj.weight"] = (width, width)
    shapes[f"{block}.self_attn.proj.bias"] = (width,)
    shapes[f"{block}.linear1.weight"] = (mlp_dim, width)
    shapes[f"{block}.linear1.bias"] = (mlp_dim,)
    shapes[f"{block}.linear2.weight"] = (width, mlp_dim)
    shapes[f"{block}.linear2.bias"] = (width,)
  shapes["classifier.norm.weight"] = shapes["classifier.norm.bias"] = (width,)
  shapes["classifier.fc.weight"] = (classes, width)
  shapes["classifier.fc.bias"] = (classes,)

  def draw(name, shape):
    if "norm" in name:
      x = 0.3 * rng.normal(size=shape) + (1 if name.endswith("weight") else 0)
    elif len(shape) == 1 or name.endswith("emb"):
      x = 0.3 * rng.normal(size=shape)
    else:
      x = rng.normal(size=shape) / sqrt(np.prod(shape[1:]))
      # Far from uniform pooling, so that it matters.
      x = 2 * x if "attention_pool" in name else x
    return np.float32(x)

  return {name: draw(name, shape) for name, shape in shapes.items()}


def norm(x, state, name, epsilon):
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  scale, bias = state[f"{name}.weight"], state[f"{name}.bias"]
  return (x - mean) / np.sqrt(variance + epsilon) * scale + bias


def gelu(x, tanh):
  if tanh:
    return x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
  return x * (1 + np.vectorize(erf)(x / sqrt(2))) / 2


def convolve(image, weight, stride, padding):
  """[H, W, I], [O, I, k, k] -> [H', W', O]."""
  k = weight.shape[-1]
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  rows, cols = ((n + 2 * padding - k) // stride + 1 for n in image.shape[:2])
  out = np.zeros((rows, cols, len(weight)))
  for r in range(rows):
    for c in range(cols):
      window = padded[r * stride : r * stride + k, c * stride : c * stride + k]
      out[r, c] = np.einsum("yxi,oiyx->o", window, weight)
  return out


def pool(image, before):
  """Maxima of 3 x 3 windows with stride 2 and `before` pixels of padding at the top and left."""
  h, w = ((n - 1) // 2 + 1 for n in image.shape[:2])
  out = np.empty((h, w, image.shape[2]))
  for r in range(h):
    for c in range(w):
      y, x = 2 * r - before, 2 * c - before
      out[r, c] = image[max(y, 0) : y + 3, max(x, 0) : x + 3].max((0, 1))
  return out


def tokenize(image, state, pool_before):
  name = "tokenizer.conv_layers.{}.0.weight"
  if "tokenizer.conv_layers.0.0.bias" in state:
    weight = state[name.format(0)]
    x = convolve(image, weight, weight.shape[-1], 0) + state["tokenizer.conv_layers.0.0.bias"]
    return x.reshape(-1, x.shape[-1])
  x, j = image, 0
  while name.format(j) in state:
    weight = state[name.format(j)]
    stride, padding = {3: (1, 1), 7: (2, 3)}[weight.shape[-1]]
    x = pool(np.maximum(convolve(x, weight, stride, padding), 0), pool_before)
    j += 1
  return x.reshape(-1, x.shape[-1])


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def attention(x, state, name, heads, order):
  width = x.shape[-1]
  packed = np.split(x @ state[f"{name}.qkv.weight"].T, 3, axis=-1)
  parts = dict(zip(order, packed, strict=True))
  size = width // heads
  out = []
  for h in range(heads):
    q, k, v = (parts[p][:, h * size : (h + 1) * size] for p in "qkv")
    out.append(softmax(q @ k.T / sqrt(size)) @ v)
  return np.concatenate(out, -1) @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def forward_one(
  state,
  image,
  heads,
  *,
  epsilon=1e-5,
  tanh=False,
  order="qkv",
  pre_norm=False,
  mean=False,
  pool_before=1,
  roll=0,
):
  x = tokenize(image, state, pool_before)
  seqpool = "classifier.attention_pool.weight" in state
  if not seqpool:
    x = np.concatenate([state["classifier.class_emb"][0], x])
  if "classifier.positional_emb" in state:
    x = x + np.roll(state["classifier.positional_emb"][0], roll, 0)
  i = 0
  while (name := f"classifier.blocks.{i}") + ".pre_norm.weight" in state:
    y = norm(x, state, f"{name}.pre_norm", epsilon)
    x = x + attention(y, state, f"{name}.self_attn", heads, order)
    y = norm(x, state, f"{name}.norm1", epsilon)
    x = x if pre_norm else y
    hidden = y @ state[f"{name}.linear1.weight"].T + state[f"{name}.linear1.bias"]
    hidden = gelu(hidden, tanh)
    x = x + hidden @ state[f"{name}.linear2.weight"].T + state[f"{name}.linear2.bias"]
    i += 1
  x = norm(x, state, "classifier.norm", epsilon)
  if not seqpool:
    features = x[0]
  elif mean:
    features = x.mean(0)
  else:
    scores = x @ state["classifier.attention_pool.weight"][0]
    features = softmax(scores + state["classifier.attention_pool.bias"]) @ x
  return features @ state["classifier.fc.weight"].T + state["classifier.fc.bias"]


def forward(state, images, heads, **wrong):
  """Returns the logits [B, K] of images [B, H, W, 3]."""
  state = {name: x.astype(np.float64) for name, x in state.items()}
  return np.stack([forward_one(state, x, heads, **wrong) for x in images.astype(np.float64)])
