"""Each operator against a NumPy loop in float64 and against images small enough to do by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.augment import operators

SHAPES = [(4, 8, 8, 1), (4, 6, 5, 3)]


def read(image, row, column):
  """Bilinear value of a zero-padded image at a real position."""
  value = np.zeros(image.shape[2])
  for p in range(image.shape[0]):
    for q in range(image.shape[1]):
      value += max(0.0, 1 - abs(row - p)) * max(0.0, 1 - abs(column - q)) * image[p, q]
  return value


def by_pixel(x, pixel):
  """Builds the output one pixel at a time: `pixel(b, i, j)` gives its channels."""
  out = np.zeros_like(x)
  for b, i, j in np.ndindex(x.shape[:3]):
    out[b, i, j] = pixel(b, i, j)
  return out


def images(shape):
  return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_scale(x64, shape):
  x, s = images(shape), np.array([[1.2, 0.9], [1 / 1.2, 1.1], [1.0, 1.0], [1.15, 1.15]])
  cy, cx = (shape[1] - 1) / 2, (shape[2] - 1) / 2
  expected = by_pixel(x, lambda b, i, j: read(x[b], cy + s[b, 1] * (i - cy), cx + s[b, 0] * (j - cx)))
  np.testing.assert_allclose(jax.jit(operators.scale)(jnp.array(x), jnp.array(s)), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotate(x64, shape):
  x, degrees = images(shape), np.array([15.0, -15.0, 0.0, 7.3])
  cy, cx = (shape[1] - 1) / 2, (shape[2] - 1) / 2

  def pixel(b, i, j):
    a, u, v = math.radians(degrees[b]), (j - cx) / cx, (i - cy) / cy
    return read(x[b], cy + cy * (math.sin(a) * u + math.cos(a) * v), cx + cx * (math.cos(a) * u - math.sin(a) * v))

  np.testing.assert_allclose(
    jax.jit(operators.rotate)(jnp.array(x), jnp.array(degrees)), by_pixel(x, pixel), atol=1e-12
  )


def test_quarter_turn_is_counter_clockwise():
  x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
  turned = jax.jit(operators.rotate)(x, jnp.array([90.0])).reshape(3, 3)
  np.testing.assert_allclose(turned, [[3, 6, 9], [2, 5, 8], [1, 4, 7]], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_unit_scale_and_zero_angle_return_the_very_pixels(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  np.testing.assert_array_equal(jax.jit(operators.scale)(x, jnp.ones((4, 2))), x)
  np.testing.assert_array_equal(jax.jit(operators.rotate)(x, jnp.zeros((4,))), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_translate(x64, shape):
  x, shift = images(shape), np.array([[1, -2], [-1, 0], [0, 2], [0, 0]])

  def pixel(b, i, j):
    p, q = i + shift[b, 0], j + shift[b, 1]
    return x[b, p, q] if 0 <= p < shape[1] and 0 <= q < shape[2] else 0

  y = jax.jit(operators.translate, static_argnums=2)(jnp.array(x), jnp.array(shift), (1, 2))
  np.testing.assert_array_equal(y, by_pixel(x, pixel))


def test_translate_moves_the_picture_up_and_left():
  x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
  y = operators.translate(x, jnp.array([[1, 0]]), (1, 1))
  np.testing.assert_array_equal(y.reshape(2, 2), [[3, 4], [0, 0]])
  y = operators.translate(x, jnp.array([[0, 1]]), (1, 1))
  np.testing.assert_array_equal(y.reshape(2, 2), [[2, 0], [4, 0]])


@pytest.mark.parametrize("side", [(4, 2), (3, 3), (0, 0), (1, 5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_zeroes_clamped_indices(x64, shape, side):
  """The rule written as the published codes do it: a list of indices, those beyond the border clamped to it."""
  x, centre = images(shape) + 10, np.array([[0, 0], [2, 3], [shape[1] - 1, 1], [3, shape[2] - 1]])
  expected = x.copy()
  for b in range(shape[0]):
    for p in range(side[0]):
      for q in range(side[1]):
        row = min(max(p + centre[b, 0] - side[0] // 2, 0), shape[1] - 1)
        column = min(max(q + centre[b, 1] - side[1] // 2, 0), shape[2] - 1)
        expected[b, row, column] = 0
  np.testing.assert_array_equal(
    jax.jit(operators.cutout, static_argnums=2)(jnp.array(x), jnp.array(centre), side), expected
  )


def test_cutout_literal():
  x = jnp.ones((3, 4, 4, 1))
  y = operators.cutout(x, jnp.array([[2, 2], [0, 4], [4, 4]]), (2, 2))[..., 0]
  np.testing.assert_array_equal(y[0], [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
  np.testing.assert_array_equal(y[1], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
  np.testing.assert_array_equal(y[2], [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])


def test_flip_mirrors_the_width_of_the_chosen():
  x = jnp.arange(12.0).reshape(2, 2, 3, 1)
  y = operators.flip(x, jnp.array([True, False]))
  np.testing.assert_array_equal(y[0, ..., 0], [[2, 1, 0], [5, 4, 3]])
  np.testing.assert_array_equal(y[1], x[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_colour_operators(x64, shape):
  x, f = images(shape), np.array([0.0, 0.4, 1.0, 1.7])
  grey = by_pixel(x, lambda b, i, j: sum(x[b, i, j]) / shape[3])
  mean = by_pixel(x, lambda b, i, j: x[b].sum() / (shape[1] * shape[2] * shape[3]))
  factor = f.reshape(-1, 1, 1, 1)
  xs, fs = jnp.array(x), jnp.array(f)
  np.testing.assert_allclose(operators.brightness(xs, fs), x + factor, atol=1e-12)
  np.testing.assert_allclose(operators.saturation(xs, fs), (x - grey) * factor + grey, atol=1e-12)
  np.testing.assert_allclose(operators.contrast(xs, fs), (x - mean) * factor + mean, atol=1e-12)


def test_colour_literal():
  x = jnp.array([1.0, 3, 5, 7]).reshape(1, 1, 2, 2)  # two pixels of two channels: means 2 and 6, of all 4
  np.testing.assert_allclose(operators.saturation(x, jnp.array([0.5])).reshape(-1), [1.5, 2.5, 5.5, 6.5])
  np.testing.assert_allclose(operators.contrast(x, jnp.array([0.5])).reshape(-1), [2.5, 3.5, 4.5, 5.5])
