"""Bilinear resampling against a loop that reads one pixel at a time, and against images small enough to do by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.ops import affine

SHAPES = [(2, 8, 8, 1), (3, 6, 5, 3), (2, 1, 4, 2), (2, 4, 1, 2)]
sample = jax.jit(affine.affine_sample)


def bilinear(image, row, column):
  """One value of a zero-padded image at a real position, by the textbook formula over the four neighbours."""
  height, width, _ = image.shape
  top, left = math.floor(row), math.floor(column)
  value = np.zeros(image.shape[2])
  for p, weight_p in ((top, top + 1 - row), (top + 1, row - top)):
    for q, weight_q in ((left, left + 1 - column), (left + 1, column - left)):
      if 0 <= p < height and 0 <= q < width:
        value += weight_p * weight_q * image[p, q]
  return value


def sample_by_loop(x, theta):
  """Normalised coordinates with the corner pixels' centres at -1 and 1, one output pixel after the other."""
  batch, height, width, _ = x.shape
  u = np.linspace(-1, 1, width) if width > 1 else np.zeros(1)
  v = np.linspace(-1, 1, height) if height > 1 else np.zeros(1)
  out = np.zeros_like(x)
  for b in range(batch):
    for i in range(height):
      for j in range(width):
        u_in, v_in = theta[b] @ np.array([u[j], v[i], 1.0])
        out[b, i, j] = bilinear(x[b], (v_in + 1) / 2 * (height - 1), (u_in + 1) / 2 * (width - 1))
  return out


def draw(shape, seed=0):
  rng = np.random.default_rng(seed)
  theta = np.array([[1.0, 0, 0], [0, 1, 0]]) + 0.6 * rng.standard_normal((shape[0], 2, 3))
  return rng.standard_normal(shape), theta


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_sample_is_the_loop(x64, shape):
  x, theta = draw(shape)
  np.testing.assert_allclose(sample(jnp.array(x), jnp.array(theta)), sample_by_loop(x, theta), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_separable_resample_is_the_loop_with_a_diagonal_theta(x64, shape):
  x, _ = draw(shape)
  factors = np.random.default_rng(1).uniform(0.5, 1.7, (shape[0], 2))
  theta = np.zeros((shape[0], 2, 3))
  theta[:, 0, 0], theta[:, 1, 1] = factors[:, 0], factors[:, 1]
  rows, columns = affine.affine_positions(jnp.array(theta), shape[1], shape[2])
  wy, wx = affine.hat_weights(rows[:, :, 0], shape[1]), affine.hat_weights(columns[:, 0], shape[2])
  y = affine.separable_resample(jnp.array(x), wy, wx)
  np.testing.assert_allclose(y, sample_by_loop(x, theta), atol=1e-12)


def test_separable_resample_may_change_the_size():
  x = jnp.arange(6.0).reshape(1, 2, 3, 1)
  wy = jnp.array([[[0.5, 0.5]]])
  wx = jnp.array([[[1.0, 0, 0], [0, 0, 1], [0, 0.25, 0.75], [0, 0, 0]]])
  y = affine.separable_resample(x, wy, wx)
  assert y.shape == (1, 1, 4, 1)
  np.testing.assert_array_equal(y.reshape(-1), [1.5, 3.5, 3.25, 0.0])


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_returns_the_very_pixels(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  theta = jnp.broadcast_to(jnp.array([[[1.0, 0, 0], [0, 1, 0]]]), (shape[0], 2, 3))
  np.testing.assert_array_equal(sample(x, theta), x)


def test_quarter_turn_half_shift_and_zoom_of_small_images():
  x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
  cases = {
    "a positive angle turns counter-clockwise": ([[0.0, -1, 0], [1, 0, 0]], [[2, 4], [1, 3]]),
    "one pixel is two units: +1 reads half a pixel to the right": ([[1.0, 0, 1], [0, 1, 0]], [[1.5, 1], [3.5, 2]]),
    "and below, for row 1": ([[1.0, 0, 0], [0, 1, 1]], [[2, 3], [1.5, 2]]),
    "half the diagonal reads quarters": ([[0.5, 0, 0], [0, 1, 0]], [[1.25, 1.75], [3.25, 3.75]]),
    "twice the diagonal reads half a pixel outside": ([[2.0, 0, 0], [0, 1, 0]], [[0.5, 1], [1.5, 2]]),
    "far away there is nothing": ([[1.0, 0, 1e12], [0, 1, -1e12]], [[0, 0], [0, 0]]),
  }
  for what, (theta, expected) in cases.items():
    y = sample(x, jnp.array([theta]))
    np.testing.assert_allclose(y.reshape(2, 2), expected, atol=1e-6, err_msg=what)


def test_hat_weights_literal():
  weights = affine.hat_weights(jnp.array([[-1.0, -0.25, 0.0, 1.5, 2.75]]), 3)
  expected = [[0, 0, 0], [0.75, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 0.25]]
  np.testing.assert_array_equal(weights[0], expected)


def test_gradients_in_pixels_and_in_theta(x64):
  x, theta = draw((2, 4, 3, 2), seed=3)
  squares = jax.jit(lambda x, theta: affine.affine_sample(x, theta) ** 2)
  check_grads(squares, (jnp.array(x), jnp.array(theta)), order=2)
  wy, wx = jnp.array(np.random.default_rng(4).random((2, 4, 4))), jnp.array(np.random.default_rng(5).random((2, 3, 3)))
  check_grads(jax.jit(affine.separable_resample), (jnp.array(x), wy, wx), order=2)


def test_half_precision_stays_half_precision():
  x = jax.random.normal(jax.random.key(0), (1, 6, 6, 1))
  theta = jnp.array([[[0.9, -0.2, 0], [0.2, 0.9, 0]]])
  y = sample(x.astype(jnp.bfloat16), theta)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(jnp.float32), sample(x, theta), atol=0.05)
