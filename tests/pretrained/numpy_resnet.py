"""Residual networks in NumPy: names and shapes of the state dicts, forward passes in float64.

ResNet v1.5 by torchvision's names, written from 1512.03385; BiT by those of timm, written from
1912.11370, 1603.05027 (pre-activation), 1803.08494 (group normalisation) and 1903.10520
(standardised kernels). One image [C, H, W] at a time.
"""

import numpy as np


def resnet_shapes(*, width, depths, classes, stem=7):
  out = {}

  def conv(name, outputs, inputs, size=1):
    out[f"{name}.weight"] = (outputs, inputs, size, size)

  def norm(name, channels):
    for part in ("weight", "bias", "running_mean", "running_var"):
      out[f"{name}.{part}"] = (channels,)

  conv("conv1", width, 3, stem)
  norm("bn1", width)
  inputs = width
  for i, depth in enumerate(depths):
    mid, outputs = width * 2**i, 4 * width * 2**i
    for j in range(depth):
      block = f"layer{i + 1}.{j}"
      sizes = ((mid, inputs, 1), (mid, mid, 3), (outputs, mid, 1))
      for k, (o, n, size) in enumerate(sizes, 1):
        conv(f"{block}.conv{k}", o, n, size)
        norm(f"{block}.bn{k}", o)
      if j == 0:
        conv(f"{block}.downsample.0", outputs, inputs)
        norm(f"{block}.downsample.1", outputs)
      inputs = outputs
  out["fc.weight"], out["fc.bias"] = (classes, inputs), (classes,)
  return out


def bit_shapes(*, width, depths, classes):
  out = {"stem.conv.weight": (width, 3, 7, 7)}

  def norm(name, channels):
    out[f"{name}.weight"] = out[f"{name}.bias"] = (channels,)

  inputs = width
  for i, depth in enumerate(depths):
    mid, outputs = width * 2**i, 4 * width * 2**i
    for j in range(depth):
      block = f"stages.{i}.blocks.{j}"
      sizes = ((mid, inputs, 1), (mid, mid, 3), (outputs, mid, 1))
      for k, (o, n, size) in enumerate(sizes, 1):
        norm(f"{block}.norm{k}", n)
        out[f"{block}.conv{k}.weight"] = (o, n, size, size)
      if j == 0:
        out[f"{block}.downsample.conv.weight"] = (outputs, inputs, 1, 1)
      inputs = outputs
  norm("norm", inputs)
  out["head.fc.weight"], out["head.fc.bias"] = (classes, inputs, 1, 1), (classes,)
  return out


def random_state(shapes, seed=0):
  rng = np.random.default_rng(seed)

  def draw(name, shape):
    x = rng.normal(size=shape)
    if len(shape) > 1:
      return x * (1.5 / np.prod(shape[1:])) ** 0.5
    if name.endswith("running_var"):
      return np.exp(0.3 * x)
    return 0.2 * x + name.endswith("weight")  # one-dimensional weights are scales of norms

  return {name: np.float32(draw(name, shape)) for name, shape in shapes.items()}


def _windows(x, size, stride, pads, value):
  """Yields the offsets of a window and the pixels [C, H', W'] that are there in each window."""
  x = np.pad(x, ((0, 0), pads, pads), constant_values=value)
  last = [n - size + 1 for n in x.shape[1:]]
  for a in range(size):
    for b in range(size):
      yield a, b, x[:, a : a + last[0] : stride, b : b + last[1] : stride]


def _pads(x, size, stride, same):
  if not same:
    return size // 2, size // 2
  n = x.shape[1]
  total = max((-(-n // stride) - 1) * stride + size - n, 0)
  return total // 2, total - total // 2


def conv(x, kernel, stride=1, same=False):
  size = kernel.shape[2]
  windows = _windows(x, size, stride, _pads(x, size, stride, same), 0)
  return sum(np.einsum("oi,ihw->ohw", kernel[:, :, a, b], part) for a, b, part in windows)


def max_pool(x, same=False, value=-np.inf):
  windows = _windows(x, 3, 2, _pads(x, 3, 2, same), value)
  return np.max([part for _, _, part in windows], axis=0)


def relu(x):
  return np.maximum(x, 0)


def _float64(state):
  return {name: x.astype(np.float64) for name, x in state.items()}


def _blocks(state, name):
  """Yields the names of the blocks that a state dict has, and their strides."""
  for i in range(4):
    j = 0
    while f"{name(i)}.{j}.conv1.weight" in state:
      yield f"{name(i)}.{j}", 2 if i > 0 and j == 0 else 1
      j += 1


def resnet(state, images, mistake=None):
  """Returns logits and features of images [B, H, W, 3]."""
  state = _float64(state)
  epsilon = 1e-3 if mistake == "epsilon" else 1e-5
  same = mistake == "XLA's padding"

  def norm(name, x):
    mean, var, scale, bias = (
      state[f"{name}.{part}"][:, None, None]
      for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias

  def block(name, x, stride):
    strides = (stride, 1, 1) if mistake == "stride in conv1" else (1, stride, 1)
    y = x
    for k in (1, 2, 3):
      y = conv(y, state[f"{name}.conv{k}.weight"], strides[k - 1], same)
      y = norm(f"{name}.bn{k}", y)
      y = relu(y) if k < 3 else y
    if f"{name}.downsample.0.weight" in state:
      x = conv(x, state[f"{name}.downsample.0.weight"], stride, same)
      x = norm(f"{name}.downsample.1", x)
    return relu(x + y)

  def features(x):
    small = state["conv1.weight"].shape[2] == 3
    x = conv(x, state["conv1.weight"], 1 if small else 2, same)
    x = relu(norm("bn1", x))
    x = x if small else max_pool(x, same)
    for name, stride in _blocks(state, lambda i: f"layer{i + 1}"):
      x = block(name, x, stride)
    return x.mean((1, 2))

  out = np.stack([features(x) for x in images.astype(np.float64).transpose(0, 3, 1, 2)])
  return out @ state["fc.weight"].T + state["fc.bias"], out


def bit(state, images, mistake=None):
  """Returns logits and features of images [B, H, W, 3]."""
  state = _float64(state)

  def kernel(name):
    w = state[f"{name}.weight"]
    if mistake == "plain kernels":
      return w
    ddof = 1 if mistake == "unbiased variance" else 0
    axes = dict(axis=(1, 2, 3), keepdims=True)
    return (w - w.mean(**axes)) / np.sqrt(w.var(**axes, ddof=ddof) + 1e-8)

  def norm_relu(name, x):
    groups = x.reshape(32, -1)
    groups = groups - groups.mean(1, keepdims=True)
    groups = groups / np.sqrt(groups.var(1, keepdims=True) + 1e-5)
    scale, bias = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return relu(groups.reshape(x.shape) * scale + bias)

  def block(name, x, stride):
    z = norm_relu(f"{name}.norm1", x)
    if f"{name}.downsample.conv.weight" in state:
      before = x if mistake == "shortcut before the norm" else z
      x = conv(before, kernel(f"{name}.downsample.conv"), stride)
    y = conv(z, kernel(f"{name}.conv1"))
    y = conv(norm_relu(f"{name}.norm2", y), kernel(f"{name}.conv2"), stride)
    return x + conv(norm_relu(f"{name}.norm3", y), kernel(f"{name}.conv3"))

  def features(x):
    x = conv(x, kernel("stem.conv"), 2)
    x = max_pool(x, value=-np.inf if mistake == "pool without zeros" else 0)
    for name, stride in _blocks(state, lambda i: f"stages.{i}.blocks"):
      x = block(name, x, stride)
    return norm_relu("norm", x).mean((1, 2))

  out = np.stack([features(x) for x in images.astype(np.float64).transpose(0, 3, 1, 2)])
  return out @ state["head.fc.weight"][:, :, 0, 0].T + state["head.fc.bias"], out
