"""The formulas of the losses of diffusion models in NumPy; see `numpy_losses`."""

import numpy as np
from numpy_losses import WEIGHTS

FAKE = np.array([[0.5, -1.0, 2.0], [0.0, 0.25, -0.5], [1.0, 1.0, 1.0], [-2.0, 0.5, 0.0], [0.75, -0.25, 0.5]])

CURVES = np.array([1.0, 2.0, 0.5])


def _unit(x):
  norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True))
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def _softplus(x):
  return np.logaddexp(0, x)


def denoising_loss(s, t, rows):
  return WEIGHTS[rows] * np.mean((s - t) ** 2, axis=(1, 2, 3))


def pseudo_huber(s, t, rows, scale):
  return np.sqrt(np.sum((s - t) ** 2, axis=(1, 2, 3)) + scale**2) - scale


def score_distillation_grad(s, t, rows, eps):
  return (FAKE[rows] - t) / (np.mean(np.abs(s - t), axis=1, keepdims=True) + eps)


def loss_from_grad(s, t, rows):
  return np.mean(t**2) / 2


def gan_generator_loss(s, t, rows):
  return _softplus(-s)


def gan_discriminator_loss(s, t, rows):
  return np.mean(_softplus(-s)) + np.mean(_softplus(t))


def gradient_penalty(s, t, rows):
  return np.sum((CURVES * s) ** 2, axis=1)


def identity_loss(s, t, rows):
  one, other = (_unit((x * np.abs(x)).reshape(len(x), -1)) for x in (s, t))
  return 1 - np.sum(one * other, axis=1)


def perceptual_loss(s, t, rows):
  maps = np.mean(np.sum((_unit(s) - _unit(t)) ** 2, axis=-1), axis=(1, 2))
  return maps + np.sum((_unit(s.sum((1, 2))) - _unit(t.sum((1, 2)))) ** 2, axis=-1)
