"""Constants of the estimates: fitted by `calibrate.py` to what the TPU compiler says."""

# What a term of `memory.terms` is to be multiplied by; 1 where it is not listed. "rest" is in MiB.
MEMORY: dict[str, float] = {
  "kept, none": 0.604,
  "kept, none, unrolled": 0.343,
  "kept, dots": 0.84,
  "kept, dots, unrolled": 0.828,
  "layer": 0.258,
  "layer, gradients in parts": 0.493,
  "gathered": 2.03,
  "one block": 1.76,
  "rest": 4.86,
}
# The same for `speed.terms`: passes through the matrix units at full speed, bytes per parameter
# and step, times that an activation is read or written.
SPEED: dict[str, float] = {
  "activations": 6.7,
  "parameters, adafactor": 55.4,
  "parameters, adafactor within": 62.9,
  "parameters, adam": 59.5,
  "products": 0.917,
}
