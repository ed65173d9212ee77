"""Winograd's form of a convolution against the sum itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdistill.ops import winograd

CASES = [
  # images, height, width; channels in and out; width of the kernel; padding of a row
  ((2, 8, 5), (3, 4), 3, (1, 1)),
  ((3, 4, 4), (1, 2), 3, (1, 1)),  # one tile, whose neighbours are zeros
  ((1, 7, 6), (2, 3), 1, (0, 0)),  # a row that is thrown away
  ((2, 13, 9), (4, 2), 5, (0, 3)),
]


def lax_conv(x, k, padding):
  return lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def ours(x, k, columns):
  return winograd.forward(x, k, ((1, 1), columns), lax_conv)


def operands(case, dtype=np.float64):
  size, (inputs, outputs), width, columns = case
  rng = np.random.default_rng(0)
  x, k = rng.normal(size=(*size, inputs)), rng.normal(size=(3, width, inputs, outputs))
  return jnp.asarray(x, dtype), jnp.asarray(k, dtype), columns


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_values_equal_the_convolution(x64, case, wrap):
  x, k, columns = operands(case)
  got = wrap(functools.partial(ours, columns=columns))(x, k)
  np.testing.assert_allclose(got, lax_conv(x, k, ((1, 1), columns)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_the_convolution(x64, case):
  x, k, columns = operands(case)
  forms = (functools.partial(ours, columns=columns), functools.partial(lax_conv, padding=((1, 1), columns)))
  found = [jax.grad(lambda x, k, f=f: jnp.sum(jnp.tanh(f(x, k))), (0, 1))(x, k) for f in forms]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *found)


@pytest.mark.parametrize("images, loops", [(6, 1), (7, 0)])  # two chunks of three; seven images have no fitting chunk
def test_images_in_chunks(x64, monkeypatch, images, loops):
  x, k, columns = operands(((images, 8, 5), (3, 4), 3, (1, 1)))
  monkeypatch.setattr(winograd, "_CHUNK", 4 * x[0].size)
  fn = jax.jit(lambda x, k: ours(x, k, columns))
  assert fn.lower(x, k).as_text().count("stablehlo.while") == loops
  np.testing.assert_allclose(fn(x, k), lax_conv(x, k, ((1, 1), columns)), rtol=1e-11, atol=1e-11)


def test_rounding_is_about_twice_that_of_the_sum():
  x, k, columns = operands(((2, 16, 16), (64, 16), 3, (1, 1)), np.float32)
  want = sum(
    np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))[:, a : a + 16, b : b + 16]
    @ np.asarray(k[a, b], np.float64)
    for a in range(3)
    for b in range(3)
  )
  error = np.sqrt(np.mean((np.asarray(ours(x, k, columns)) - want) ** 2) / np.mean(want**2))
  assert error < 1.5e-6  # the sum itself has 4e-7


@pytest.mark.parametrize(
  "size, channels, kernel, rows, fits",
  [
    ((8, 16, 16), (128, 128), (3, 3), (1, 1), True),
    ((16, 14, 16), (256, 128), (3, 3), (1, 1), True),
    ((8, 16, 16), (64, 128), (3, 3), (1, 1), False),
    ((8, 16, 16), (128, 64), (3, 3), (1, 1), False),
    ((8, 16, 16), (128, 128), (3, 3), (0, 0), False),
    ((8, 16, 16), (128, 128), (5, 5), (1, 1), False),
    ((1, 16, 16), (128, 128), (3, 3), (1, 1), False),  # its kernels take longer than its pixels
    ((60, 5, 8), (128, 128), (3, 3), (1, 1), False),  # three rows of eight are thrown away
  ],
)
def test_which_layers_it_is_for(size, channels, kernel, rows, fits):
  x = jax.ShapeDtypeStruct((*size, channels[0]), np.float32)
  assert winograd.suits(x, jax.ShapeDtypeStruct((*kernel, *channels), np.float32), (rows, (1, 1))) == fits
