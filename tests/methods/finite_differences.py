"""Gradients by central differences."""

import numpy as np


def numeric_gradient(function, x, eps=1e-6):
  """Of a scalar function of one array, at `x`."""
  grad = np.zeros_like(x)
  for place in np.ndindex(x.shape):
    moved = [x.copy(), x.copy()]
    moved[0][place] += eps
    moved[1][place] -= eps
    grad[place] = (function(moved[0]) - function(moved[1])) / (2 * eps)
  return grad
