"""ViTs in NumPy that read the tensors of other projects by their names, one image at a time."""

from math import erf, pi

import numpy as np


def gelu(x, form):
  if form == "erf":
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2
  return x * (1 + np.tanh(np.sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2


def norm(x, weight, bias, epsilon=1e-6):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight + bias


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def heads_attend(q, k, v, heads):
  """[Q, D], [K, D], [K, D], head after head along D."""
  size = q.shape[1] // heads
  out = []
  for h in range(heads):
    part = slice(h * size, (h + 1) * size)
    out.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(size)) @ v[:, part])
  return np.concatenate(out, axis=1)


def cut(image, p):
  """The patches of [H, W, C], each as [p, p, C], row by row."""
  rows, columns = image.shape[0] // p, image.shape[1] // p
  return [
    image[y * p : (y + 1) * p, x * p : (x + 1) * p] for y in range(rows) for x in range(columns)
  ]


def with_tokens(x, tokens, table):
  """Joins tokens and positions: before the tokens if the table has no rows for them."""
  if len(table) == len(x):
    return np.concatenate([*tokens, x + table])
  return np.concatenate([*tokens, x]) + table


class Timm:
  """timm's names and layouts; `form` is that of the GELU, `change` tries wrong readings."""

  def __init__(self, state, heads, form="erf", change=None):
    self.s, self.heads, self.form, self.change = state, heads, form, change

  def linear(self, x, name):
    return x @ self.s[f"{name}.weight"].T + self.s[f"{name}.bias"]

  def norm(self, x, name):
    return norm(x, self.s[f"{name}.weight"], self.s[f"{name}.bias"])

  def mlp(self, x, name):
    return self.linear(gelu(self.linear(x, f"{name}.fc1"), self.form), f"{name}.fc2")

  def block(self, x, name):
    y = self.norm(x, f"{name}.norm1")
    q, k, v = np.split(self.linear(y, f"{name}.attn.qkv"), 3, axis=1)
    if self.change == "k first":
      q, k = k, q
    x = x + self.linear(heads_attend(q, k, v, self.heads), f"{name}.attn.proj")
    return x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")

  def pool(self, x):
    q = self.linear(self.s["attn_pool.latent"][0], "attn_pool.q")
    k, v = np.split(self.linear(x, "attn_pool.kv"), 2, axis=1)
    y = self.linear(heads_attend(q, k, v, self.heads), "attn_pool.proj")
    return (y + self.mlp(self.norm(y, "attn_pool.norm"), "attn_pool.mlp"))[0]

  def one(self, image):
    kernel = self.s["patch_embed.proj.weight"]
    x = [np.einsum("ocyx,yxc->o", kernel, patch) for patch in cut(image, kernel.shape[-1])]
    x = np.array(x) + self.s["patch_embed.proj.bias"]
    tokens = [self.s[n][0] for n in ("cls_token", "dist_token") if n in self.s]
    table = self.s["pos_embed"][0]
    if self.change == "class row last":
      table = np.roll(table, -1, axis=0)
    x = with_tokens(x, tokens, table)
    depth = len({n.split(".")[1] for n in self.s if n.startswith("blocks.")})
    for i in range(depth):
      x = self.block(x, f"blocks.{i}")
    x = self.norm(x, "norm")
    if "attn_pool.latent" in self.s:
      features = self.pool(x)
    else:
      features = x[0] if tokens else x.mean(0)
    if "pre_logits.fc.weight" in self.s:
      features = np.tanh(self.linear(features, "pre_logits.fc"))
    logits = self.linear(features, "head")
    if "head_dist.weight" not in self.s:
      return logits
    return (logits + self.linear(x[1], "head_dist")) / 2

  def __call__(self, images):
    return np.stack([self.one(image) for image in images.astype(np.float64)])


class Google:
  """The names of vision_transformer ("old": one counter for all parts) and of big_vision."""

  def __init__(self, state, form="tanh", old=True):
    self.s, self.form = state, form
    parts = ("LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3")
    newer = ("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")
    self.norm2, self.attention_name, self.mlp_name = parts if old else newer

  def norm(self, x, name):
    return norm(x, self.s[f"{name}/scale"], self.s[f"{name}/bias"])

  def mlp(self, x, name):
    k0, b0, k1, b1 = (
      self.s[f"{name}/Dense_{i}/{leaf}"] for i in (0, 1) for leaf in ("kernel", "bias")
    )
    return gelu(x @ k0 + b0, self.form) @ k1 + b1

  def attention(self, queries, inputs, name):
    q, k, v = (
      np.einsum("nd,dhe->nhe", x, self.s[f"{name}/{n}/kernel"]) + self.s[f"{name}/{n}/bias"]
      for n, x in (("query", queries), ("key", inputs), ("value", inputs))
    )
    weights = softmax(np.einsum("qhe,khe->hqk", q, k) / np.sqrt(q.shape[-1]))
    y = np.einsum("hqk,khe->qhe", weights, v)
    return np.einsum("qhe,hed->qd", y, self.s[f"{name}/out/kernel"]) + self.s[f"{name}/out/bias"]

  def one(self, image):
    kernel = self.s["embedding/kernel"]
    x = [np.einsum("yxco,yxc->o", kernel, patch) for patch in cut(image, kernel.shape[0])]
    x = np.array(x) + self.s["embedding/bias"]
    table = self.s.get("pos_embedding", self.s.get("Transformer/posembed_input/pos_embedding"))[0]
    x = with_tokens(x, [self.s["cls"][0]] if "cls" in self.s else [], table)
    depth = len({n.split("/")[1] for n in self.s if n.startswith("Transformer/encoderblock_")})
    for i in range(depth):
      name = f"Transformer/encoderblock_{i}"
      y = self.norm(x, f"{name}/LayerNorm_0")
      x = x + self.attention(y, y, f"{name}/{self.attention_name}")
      x = x + self.mlp(self.norm(x, f"{name}/{self.norm2}"), f"{name}/{self.mlp_name}")
    x = self.norm(x, "Transformer/encoder_norm")
    if "MAPHead_0/probe" in self.s:
      name = "MAPHead_0"
      y = self.attention(self.s[f"{name}/probe"][0], x, f"{name}/MultiHeadDotProductAttention_0")
      features = (y + self.mlp(self.norm(y, f"{name}/LayerNorm_0"), f"{name}/MlpBlock_0"))[0]
    else:
      features = x[0] if "cls" in self.s else x.mean(0)
    if "pre_logits/kernel" in self.s:
      features = np.tanh(features @ self.s["pre_logits/kernel"] + self.s["pre_logits/bias"])
    return features @ self.s["head/kernel"] + self.s["head/bias"]

  def __call__(self, images):
    return np.stack([self.one(image) for image in images.astype(np.float64)])


def transformers_to_timm(state):
  """timm's state dict for one of transformers, for the same function."""
  out = {}
  simple = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
  }
  layer = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
  }
  heads = {"classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist"}
  for full, x in state.items():
    name = full.removeprefix("vit.").removeprefix("deit.")
    stem, _, leaf = name.rpartition(".")
    if name in simple:
      out[simple[name]] = x
    elif stem in simple | heads:
      out[f"{(simple | heads)[stem]}.{leaf}"] = x
    else:
      _, _, i, rest = stem.split(".", 3)
      if rest in layer:
        out[f"blocks.{i}.{layer[rest]}.{leaf}"] = x
      elif rest.endswith("query"):
        parts = [state[full.replace("query", part)] for part in ("query", "key", "value")]
        out[f"blocks.{i}.attn.qkv.{leaf}"] = np.concatenate(parts)
  return out
