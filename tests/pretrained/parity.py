"""What the tests of foreign weights share: a model's shapes, and its logits with a state dict."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.pretrained import rules


def shapes_of(model):
  """Shapes of all variables by "/"-joined path."""
  images = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  return {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}


def images_for(model, batch=2):
  size = (batch, model.image_size, model.image_size, 3)
  return np.float32(np.random.default_rng(1).normal(size=size))


def imported(model, listed, state):
  """The model's variables from a state dict, by rules."""
  return unflatten_dict(rules.load(listed, state, shapes_of(model)), sep="/")


def outputs_of(model, listed, state, images, **kwargs):
  """The model's Output with the weights of a state dict."""
  fn = jax.jit(
    lambda v, x: model.apply(v, x, **kwargs),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  return jax.device_get(fn(imported(model, listed, state), images))


def assert_round_trip(model, listed, state):
  """Every tensor has one rule and comes back bit for bit; every variable has one as well."""
  assert sorted(name for rule in listed for name in rule.theirs) == sorted(state)
  assert sorted(path for rule in listed for path in rule.ours) == sorted(shapes_of(model))
  back = rules.save(listed, rules.load(listed, state, shapes_of(model)))
  for name, array in state.items():
    np.testing.assert_array_equal(back[name], array, err_msg=name)
    assert back[name].dtype == array.dtype


def perturb(module, seed=0):
  """Adds noise to every parameter and running mean of a torch module, and scales the variances.

  Returns its state dict as NumPy arrays.
  """
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
      noise = torch.randn(x.shape, generator=generator)
      if name.endswith("running_var"):
        x.mul_(torch.exp(0.2 * noise))
      elif x.dtype.is_floating_point:
        spread = x.std().item() if x.numel() > 1 else 0.0
        # Tensors that start constant, such as biases, scales of norms and LayerScale, move most.
        x.add_(noise * (0.5 * spread if spread > 1e-3 and x.ndim > 1 else 0.2))
  return {name: x.numpy().copy() for name, x in module.state_dict().items()}


def torch_logits(module, images):
  """Logits of a torch module in evaluation, for images [B, H, W, C]."""
  import torch

  with torch.no_grad():
    return module.eval()(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
