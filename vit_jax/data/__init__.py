"""Data sets, host preprocessing and batches; see sources, transforms and pipeline."""
