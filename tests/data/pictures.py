"""Images with the smoothness of photographs, and the same ones for Pillow."""

import cv2
import numpy as np


def photo(height=48, width=40, seed=0, cells=6, noise=6, channels=3):
  """uint8 [H, W, C]: `cells` blobs a side and a little noise, levels from 20 to 240."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
  image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
  image = image.reshape(height, width, channels).astype(int)
  image += rng.integers(-noise, noise + 1, image.shape)
  return np.clip(image, 20, 240).astype(np.uint8)


def distance(a, b):
  """Largest difference in levels, and the mean one."""
  difference = np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))
  return difference.max(), difference.mean()
