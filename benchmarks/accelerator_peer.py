"""The peer of benchmarks/accelerator.py: timm's model under torch.compile, on the same GPU.

  python benchmarks/accelerator_peer.py MODEL SIZE STEPS ROUNDS BATCH [BATCH ...]

bfloat16 autocast, fused AdamW, sigmoid loss, mean pooling, no class token: what our step computes,
but for the optimiser. Prints a JSON line for each batch, smallest first, until one does not fit.
"""

import json
import statistics
import sys
import time

import timm
import torch

NAMES = {
  "Ti/16": "vit_tiny_patch16_224",
  "S/16": "vit_small_patch16_224",
  "B/16": "vit_base_patch16_224",
  "L/16": "vit_large_patch16_224",
  "g/14": "vit_giant_patch14_224",
}
WARM_UP = 3


def measure(name, size, steps, rounds, batch, device):
  """Returns what a batch takes; raises OutOfMemoryError where it does not fit."""
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  fields = dict(num_classes=1000, img_size=size, class_token=False, global_pool="avg")
  model = timm.create_model(NAMES[name], **fields).to(device).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.03, fused=True)
  images = torch.rand(batch, 3, size, size, device=device) * 2 - 1
  labels = torch.nn.functional.one_hot(torch.arange(batch, device=device) % 1000, 1000).float()
  forward = torch.compile(model)

  def step():
    with torch.autocast(device, torch.bfloat16):
      logits = forward(images)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
      logits.float(), labels, reduction="sum"
    )
    (loss / batch).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

  def run(count):
    for _ in range(count):
      step()
    if device == "cuda":
      torch.cuda.synchronize()

  clock = time.perf_counter()
  run(WARM_UP)  # compiles, too
  compile_seconds = time.perf_counter() - clock
  spent = []
  for _ in range(rounds):
    clock = time.perf_counter()
    run(steps)
    spent.append((time.perf_counter() - clock) / steps)
  seconds = statistics.median(spent)
  found = dict(seconds=seconds, images_per_second=batch / seconds, compile_seconds=compile_seconds)
  if device == "cuda":
    found["peak_bytes"] = torch.cuda.max_memory_allocated()
  return found


def main():
  model = sys.argv[1]
  size, steps, rounds, *batches = map(int, sys.argv[2:])
  device = "cuda" if torch.cuda.is_available() else "cpu"
  kind = torch.cuda.get_device_name() if device == "cuda" else "cpu"
  here = dict(device=kind, devices=1, version=f"torch {torch.__version__}, timm {timm.__version__}")
  for batch in batches:
    try:
      found = measure(model, size, steps, rounds, batch, device)
    except torch.OutOfMemoryError:
      print(json.dumps(dict(**here, batch=batch, error="out of memory")), flush=True)
      return
    print(json.dumps(dict(**here, batch=batch, **found)), flush=True)
    torch._dynamo.reset()
    if device == "cuda":
      torch.cuda.empty_cache()
      torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
  main()
