"""Which model shapes fit which devices, and how fast they train: see `python -m scaling.shapes`."""
