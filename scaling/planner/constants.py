"""Constants of the estimates: fitted by `calibrate.py` to what the TPU compiler says."""

# What a term of `memory.terms` is to be multiplied by; 1 where it is not listed.
MEMORY: dict[str, float] = {"layer": 0.3, "one block": 1.0, "rest": 40.0}
# The same for `speed.terms`: passes through the matrix units at full speed, bytes per parameter
# and step, times that an activation is read or written.
SPEED: dict[str, float] = {
  "products": 0.69,
  "parameters, adam": 66.0,
  "parameters, adam within": 80.0,
  "parameters, adafactor": 60.0,
  "parameters, adafactor within": 85.0,
  "activations": 16.3,
}
