"""Constants of the estimates: fitted by `calibrate.py` to what the TPU compiler says."""

# What a term of `memory.terms` is to be multiplied by; 1 where it is not listed. Activations count
# little: where they are many, a part of them lies where gradients will be. "rest" is in MiB.
MEMORY: dict[str, float] = {
  "kept": 0.89,
  "layer": 0.18,
  "gathered": 4.66,
  "one block": 0.6,
  "rest": 42.7,
}
# The same for `speed.terms`: passes through the matrix units at full speed, bytes per parameter
# and step, times that an activation is read or written.
SPEED: dict[str, float] = {
  "products": 0.948,
  "parameters, adam": 56.7,
  "parameters, adam within": 62.7,
  "parameters, adafactor": 54.2,
  "parameters, adafactor within": 60.2,
  "activations": 9.51,
}
