"""Softmax regression, SGD and GSAM in NumPy, float64."""

import numpy as np

CLASSES = 3


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def loss_and_gradient(theta, x, y):
  """Mean cross entropy of `x W + b` over the batch; `theta` is W by rows, then b."""
  x = x.reshape(len(x), -1)
  weights, bias = theta[:-CLASSES].reshape(-1, CLASSES), theta[-CLASSES:]
  logs = log_softmax(x @ weights + bias)
  error = (np.exp(logs) - np.eye(CLASSES)[y]) / len(x)
  return -logs[np.arange(len(x)), y].mean(), np.concatenate([(x.T @ error).ravel(), error.sum(0)])


def gsam(gradient, theta, rho, alpha, adaptive):
  """The five numbered steps of the published algorithm for one flat vector."""
  g0 = gradient(theta)
  scale = np.abs(theta) if adaptive else np.ones_like(theta)
  radius = np.sqrt(np.sum((scale * g0) ** 2))
  g1 = gradient(theta + rho / (radius + 1e-12) * scale**2 * g0)
  n0, n1 = np.sqrt(g0 @ g0), np.sqrt(g1 @ g1)
  v = g0 - (g0 @ g1) / (n0 * n1 + 1e-12) * n0 * g1 / (n1 + 1e-12)
  return g1 - alpha * v


def epoch(theta, velocity, x, y, batches, recipe):
  """One epoch over lists of positions; the parameters, the velocity and the mean of the batches' losses."""
  losses = []
  for rows in batches:
    gradient = lambda at, rows=rows: loss_and_gradient(at, x[rows], y[rows])[1]  # noqa: E731
    losses.append(loss_and_gradient(theta, x[rows], y[rows])[0])
    step = gsam(gradient, theta, recipe.rho, recipe.alpha, recipe.adaptive) if recipe.rho else gradient(theta)
    velocity = recipe.momentum * velocity + step + recipe.weight_decay * theta
    theta = theta - recipe.lr * velocity
  return theta, velocity, np.mean(losses)
