"""Gradients of strided convolutions in the pixels, phase by phase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdistill.ops import conv2d, strided

CASES = [
  # height and width, kernel, stride, padding
  ((8, 8), (3, 3), 2, ((1, 1), (1, 1))),
  ((7, 6), (3, 3), 2, ((1, 1), (0, 1))),
  ((9, 10), (3, 3), 3, ((0, 0), (0, 0))),  # a last column that no tap meets
  ((7, 8), (5, 5), 3, ((2, 1), (0, 2))),
  ((8, 9), (2, 4), 2, ((0, 0), (3, 1))),
]


def lax_conv(x, k, padding, stride=1):
  return lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def operands(size, kernel, channels=(3, 4), dtype=np.float64):
  rng = np.random.default_rng(0)
  x, k = rng.normal(size=(2, *size, channels[0])), rng.normal(size=(*kernel, *channels))
  return jnp.asarray(x, dtype), jnp.asarray(k, dtype)


@pytest.mark.parametrize("size, kernel, stride, padding", CASES)
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_equals_the_derivative_of_the_convolution(x64, size, kernel, stride, padding, wrap):
  x, k = operands(size, kernel)
  y, pull = jax.vjp(lambda x: lax_conv(x, k, padding, stride), x)
  g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
  ordinary = jax.vmap(lax_conv, (0, 0, None))
  own = wrap(lambda g, k: strided.input_gradient(g[None], k[None], size, padding, stride, ordinary)[0])
  np.testing.assert_allclose(own(g, k), pull(g)[0], rtol=1e-12, atol=1e-12)


def test_layers_with_enough_to_do_take_it_in_derivatives_of_any_order(x64, monkeypatch):
  padding = ((1, 1), (1, 1))
  x, k = operands((8, 6), (3, 3))

  def outer(conv):
    inner = jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv(x, k))), (0, 1))
    return jax.jit(jax.grad(lambda x, k: sum(jnp.sum(jnp.sin(part)) for part in inner(x, k)), (0, 1)))

  want = outer(lambda x, k: lax_conv(x, k, padding, 2))(x, k)
  for fewest in (0, 10**9):
    monkeypatch.setattr(strided, "_FEWEST_PRODUCTS", fewest)
    made = jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv2d(x, k, strides=2, padding=padding)))))(x, k)
    assert str(made).count("jdistill_conv[") == (5 if fewest == 0 else 2)
    got = outer(lambda x, k: conv2d(x, k, strides=2, padding=padding))(x, k)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got, want)


def test_kernels_smaller_than_the_stride_are_left_to_blocks():
  g, k = jax.ShapeDtypeStruct((1, 100, 8, 8, 64), np.float32), jax.ShapeDtypeStruct((1, 2, 3, 64, 64), np.float32)
  assert strided.suits(g, k, 2) and not strided.suits(g, k, 3)
