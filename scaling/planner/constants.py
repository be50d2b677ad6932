"""Constants of the estimates: fitted by `calibrate.py` to what the TPU compiler says."""

# What a term of `memory.terms` is to be multiplied by; 1 where it is not listed. "rest" is in MiB.
MEMORY: dict[str, float] = {
  "kept, none": 0.893,
  "kept, none, unrolled": 0.21,
  "kept, dots": 1.23,
  "layer": 0.152,
  "layer, gradients in parts": 0.659,
  "gathered": 1.14,
  "one block": 0.261,
  "rest": 54.2,
}
# The same for `speed.terms`: passes through the matrix units at full speed, bytes per parameter
# and step, times that an activation is read or written.
SPEED: dict[str, float] = {
  "activations": 9.49,
  "parameters, adafactor": 55.3,
  "parameters, adafactor within": 60.5,
  "parameters, adam": 57.4,
  "parameters, adam within": 62.4,
  "products": 0.895,
}
