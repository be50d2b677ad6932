"""MLP-Mixer in NumPy: names and shapes of timm's state dict, and its forward pass in float64.

Written from the paper (2105.01601, §2 and appendix E), image by image.
"""

from math import erf, pi

import numpy as np


def shapes(*, width, depth, token_mlp_dim, mlp_dim, patch, tokens, classes):
  out = {}

  def layer(name, outputs, *inputs):
    out[f"{name}.weight"], out[f"{name}.bias"] = (outputs, *inputs), (outputs,)

  layer("stem.proj", width, 3, patch, patch)
  for i in range(depth):
    layer(f"blocks.{i}.norm1", width)
    layer(f"blocks.{i}.mlp_tokens.fc1", token_mlp_dim, tokens)
    layer(f"blocks.{i}.mlp_tokens.fc2", tokens, token_mlp_dim)
    layer(f"blocks.{i}.norm2", width)
    layer(f"blocks.{i}.mlp_channels.fc1", mlp_dim, width)
    layer(f"blocks.{i}.mlp_channels.fc2", width, mlp_dim)
  layer("norm", width)
  layer("head", classes, width)
  return out


def random_state(seed=0, **sizes):
  rng = np.random.default_rng(seed)

  def draw(shape):
    if len(shape) == 1:
      return 0.2 * rng.normal(size=shape)
    return 1.5 * rng.normal(size=shape) / np.prod(shape[1:]) ** 0.5

  state = {name: np.float32(draw(shape)) for name, shape in shapes(**sizes).items()}
  return {name: x + 1 if "norm" in name and "weight" in name else x for name, x in state.items()}


def _gelu(x, mistake):
  if mistake == "tanh":
    return x * (1 + np.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
  return x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2


def forward(state, images, mistake=None):
  """Returns logits and features of images [B, H, W, 3]."""
  state = {name: x.astype(np.float64) for name, x in state.items()}
  epsilon = 1e-3 if mistake == "epsilon" else 1e-6

  def norm(name, x):
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]

  def linear(name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

  def mlp(name, x):
    return linear(f"{name}.fc2", _gelu(linear(f"{name}.fc1", x), mistake))

  def tokens(block, x):
    return mlp(f"{block}.mlp_tokens", norm(f"{block}.norm1", x).T).T

  def channels(block, x):
    return mlp(f"{block}.mlp_channels", norm(f"{block}.norm2", x))

  def features(image):
    kernel = state["stem.proj.weight"]
    p = kernel.shape[2]
    patches = [
      image[y : y + p, x : x + p]
      for y in range(0, image.shape[0], p)
      for x in range(0, image.shape[1], p)
    ]
    x = np.stack([np.einsum("yxc,dcyx->d", patch, kernel) for patch in patches])
    x = x + state["stem.proj.bias"]
    for i in range(sum(name.endswith(".norm1.bias") for name in state)):
      order = (channels, tokens) if mistake == "channels first" else (tokens, channels)
      for mix in order:
        x = x + mix(f"blocks.{i}", x)
    return norm("norm", x).mean(0)

  out = np.stack([features(image) for image in images.astype(np.float64)])
  return linear("head", out), out
