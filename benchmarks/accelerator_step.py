"""One measurement of benchmarks/accelerator.py, in a process of its own: our step, or a product.

  python benchmarks/accelerator_step.py MODEL VARIANT SIZE STEPS ROUNDS BATCH [BATCH ...]
  python benchmarks/accelerator_step.py matmul N

Prints a JSON line for each batch, smallest first, until one does not fit. XLA_FLAGS, of the
variant too, are those of the environment.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from accelerator_variants import VARIANTS

from vit_jax import ahead, cli, compiled, meter, parallel

WARM_UP = 3
CONFIG = "configs/vit_g_pretrain.py:g/14,unseen"


def seconds_of(run, steps, rounds):
  """Returns the median seconds of a call; `run(steps)` calls and waits for the end."""
  run(WARM_UP)
  spent = []
  for _ in range(rounds):
    start = time.perf_counter()
    run(steps)
    spent.append((time.perf_counter() - start) / steps)
  return statistics.median(spent)


def build(model, variant, size, batch):
  """Returns the job of a model under a variant: optimiser, loss and dtype of vit_g_pretrain."""
  n = jax.device_count()
  keys = {"model.name": f"ViT-{model}", "model.pool": "gap", "model.remat": "none"}
  keys |= {"data.image_size": size, "batch_size": batch * n, "mesh.fsdp": 1}
  overrides = [f"--config.{k}={v}" for k, v in {**keys, **VARIANTS[variant].config}.items()]
  return ahead.build(cli.load_config(CONFIG, overrides), jax.devices(), num_classes=1000)


def measure(model, variant, size, steps, rounds, batch):
  """Returns what a batch a device takes; raises what XLA raises where it does not fit."""
  job = build(model, variant, size, batch)
  clock = time.perf_counter()
  step = job.lower().compile()
  compile_seconds = time.perf_counter() - clock
  sharding, total = parallel.batch_sharding(job.mesh), job.config.batch_size
  batch = {
    "image": jax.jit(
      lambda key: jax.random.uniform(key, (total, size, size, 3), minval=-1), out_shardings=sharding
    )(jax.random.key(0)),
    "label": jax.device_put(jnp.arange(total, dtype=jnp.int32) % 1000, sharding),
  }
  state = job.create_state()

  def run(count):
    nonlocal state
    for _ in range(count):
      state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  seconds = seconds_of(run, steps, rounds)
  return dict(
    seconds=seconds,
    images_per_second=total / seconds,
    forward_flops=job.flops_per_image,
    compile_seconds=compile_seconds,
    step_bytes=compiled.peak_bytes(step),
    peak_bytes=meter.memory_peak(),
  )


def matmul(n):
  """Returns the FLOP/s of one device in products of n x n matrices in bfloat16."""
  keys = jax.random.split(jax.random.key(0))
  x, w = (jax.random.normal(k, (n, n), jnp.bfloat16) for k in keys)
  many = 10

  @jax.jit
  def chain(x, w):
    return jax.lax.fori_loop(0, many, lambda _, x: (x @ w) * jnp.bfloat16(n**-0.5), x)

  def run(count):
    nonlocal x
    for _ in range(count):
      x = chain(x, w)
    jax.block_until_ready(x)

  return 2 * n**3 * many / seconds_of(run, 5, 5)


def is_out_of_memory(error):
  return any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory", "out of mem"))


def main():
  here = dict(
    device=jax.devices()[0].device_kind,
    devices=jax.device_count(),
    version=f"jax {jax.__version__}",
  )
  if sys.argv[1] == "matmul":
    print(json.dumps(dict(**here, flops=matmul(int(sys.argv[2])))), flush=True)
    return
  model, variant = sys.argv[1:3]
  size, steps, rounds, *batches = map(int, sys.argv[3:])
  if VARIANTS[variant].change:
    VARIANTS[variant].change()
  for batch in batches:
    try:
      found = measure(model, variant, size, steps, rounds, batch)
    except (jax.errors.JaxRuntimeError, MemoryError) as e:
      if not is_out_of_memory(e):
        raise
      print(json.dumps(dict(**here, batch=batch, error="out of memory")), flush=True)
      return
    print(json.dumps(dict(**here, batch=batch, **found)), flush=True)


if __name__ == "__main__":
  main()
