"""Trajectory matching in plain NumPy, float64: a tanh network with derivatives by hand and a Python loop."""

import numpy as np
from finite_differences import numeric_gradient

HIDDEN, CLASSES = 3, 3


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def split(theta, features):
  cut = features * HIDDEN
  return theta[:cut].reshape(features, HIDDEN), theta[cut:].reshape(HIDDEN, CLASSES)


def inner_gradient(theta, x, probabilities, mask):
  """Gradient in `theta` of the mean cross entropy over the rows where `mask`."""
  x = x.reshape(len(x), -1)
  first, second = split(theta, x.shape[1])
  hidden = np.tanh(x @ first)
  weight = mask.astype(np.float64) / mask.sum()
  error = weight[:, None] * (softmax(hidden @ second) - probabilities)
  back = (error @ second.T) * (1 - hidden**2)
  return np.concatenate([(x.T @ back).ravel(), (hidden.T @ error).ravel()])


def outer_loss(images, labels, lr, start, target, indices, mask, augment=lambda step, x: x):
  """`|theta_N - target|^2 / |start - target|^2`; labels are logits `[m, classes]` or integers `[m]`."""
  probabilities = softmax(labels) if labels.ndim == 2 else np.eye(CLASSES)[labels]
  theta = start.copy()
  for step in range(len(indices)):
    rows = indices[step]
    theta = theta - lr * inner_gradient(theta, augment(step, images[rows]), probabilities[rows], mask[step])
  return ((theta - target) ** 2).sum() / ((start - target) ** 2).sum()


def numeric_gradients(value, at, step=1e-5):
  """Central differences of `value(**at)` in every entry of every floating array of `at`."""
  return {
    name: numeric_gradient(lambda x, name=name: value(**(at | {name: x})), np.asarray(array), step)
    for name, array in at.items()
  }
