"""Products and convolutions of traced functions against counts made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jdistill.ops.conv import conv2d
from jdistill.reporting.flops import calls, count


def shape(*sizes):
  """An argument of which only the shape counts."""
  return jax.ShapeDtypeStruct(sizes, np.float32)


def test_a_product_of_matrices_multiplies_and_adds_once_per_pair():
  assert count(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
  assert count(jnp.matmul, shape(4, 3, 5), shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7
  assert count(lambda x: x @ jnp.zeros((5, 7)), jnp.ones((3, 5))) == 2 * 3 * 5 * 7  # arrays will do


def test_what_is_contracted_twice_counts_in_both_axes():
  assert count(lambda a, b: jnp.einsum("abc,bcd->ad", a, b), shape(2, 3, 4), shape(3, 4, 5)) == 2 * 2 * 3 * 4 * 5


def test_element_wise_work_is_left_out():
  assert count(lambda x: jnp.sum(jnp.exp(x) * x + 1.0), shape(9, 9)) == 0.0


def test_a_gradient_costs_the_products_of_both_sides():
  def loss(w, x):
    return jnp.sum((x @ w) ** 2)

  product = 2 * 3 * 5 * 7
  assert count(loss, shape(5, 7), shape(3, 5)) == product
  assert count(jax.grad(loss), shape(5, 7), shape(3, 5)) == 2 * product  # forward, and for the weights
  assert count(jax.grad(loss, (0, 1)), shape(5, 7), shape(3, 5)) == 3 * product


def test_a_loop_counts_as_often_as_it_runs():
  def body(x, w):
    return jnp.tanh(x @ w), None

  product = 2 * 3 * 5 * 5
  assert count(lambda x, ws: lax.scan(body, x, ws)[0], shape(3, 5), shape(11, 5, 5)) == 11 * product
  nested = lambda x, ws: lax.scan(lambda x, _: lax.scan(body, x, ws), x, length=4)[0]  # noqa: E731
  assert count(nested, shape(3, 5), shape(11, 5, 5)) == 4 * 11 * product
  assert count(lambda x, w: lax.fori_loop(0, 6, lambda _, x: x @ w, x), shape(3, 5), shape(5, 5)) == 6 * product


def test_a_loop_of_unknown_length_counts_once():
  def until(x, w):
    return lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: x @ w, x)

  assert count(until, shape(3, 5), shape(5, 5)) == 2 * 3 * 5 * 5


def test_of_a_choice_the_greatest_branch_counts():
  def choose(x, w, deep):
    return lax.cond(deep, lambda: x @ w @ w, lambda: x @ w)

  assert count(choose, shape(3, 5), shape(5, 5), jax.ShapeDtypeStruct((), bool)) == 2 * 2 * 3 * 5 * 5


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap])
def test_wrapped_functions_are_looked_into(wrap):
  inner = wrap(lambda x: x @ jnp.ones((5, 7)))
  assert count(inner, shape(4, 3, 5)) == 4 * 2 * 3 * 5 * 7


def test_a_gradient_that_computes_again_counts_again():
  def loss(w, x):
    return jnp.sum(jnp.sin(x @ w))

  product = 2 * 3 * 5 * 7
  again = jax.grad(lambda w, x: jax.checkpoint(loss)(w, x))
  assert count(again, shape(5, 7), shape(3, 5)) == 3 * product  # forward, once more, and for the weights


def test_custom_derivatives_are_looked_into():
  @jax.custom_vjp
  def square(x):
    return x @ x

  square.defvjp(lambda x: (x @ x, x), lambda x, ct: (ct @ x.T + x.T @ ct,))
  assert count(square, shape(5, 5)) == 2 * 5**3
  assert count(jax.grad(lambda x: jnp.sum(square(x))), shape(5, 5)) == 3 * 2 * 5**3


def _lax(strides, padding, **options):
  return lambda x, k: lax.conv_general_dilated(
    x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
  )


def test_convolutions_of_jax():
  # 2 images, 8 x 6, 4 -> 10 channels, kernel 3 x 3
  assert count(_lax((1, 1), "SAME"), shape(2, 8, 6, 4), shape(3, 3, 4, 10)) == 2 * (2 * 8 * 6 * 10) * (3 * 3 * 4)
  assert count(_lax((1, 1), "VALID"), shape(2, 8, 6, 4), shape(3, 3, 4, 10)) == 2 * (2 * 6 * 4 * 10) * (3 * 3 * 4)
  assert count(_lax((2, 2), "SAME"), shape(2, 8, 6, 4), shape(3, 3, 4, 10)) == 2 * (2 * 4 * 3 * 10) * (3 * 3 * 4)
  grouped = _lax((1, 1), "SAME", feature_group_count=2)  # every output sees half of the channels
  assert count(grouped, shape(2, 8, 6, 4), shape(3, 3, 2, 10)) == 2 * (2 * 8 * 6 * 10) * (3 * 3 * 2)


@pytest.mark.parametrize(("stride", "height", "width"), [(1, 8, 6), (2, 4, 3)])
def test_our_convolution_counts_like_that_of_jax(stride, height, width):
  x, k = shape(2, 8, 6, 4), shape(3, 3, 4, 10)
  forward = count(lambda x, k: conv2d(x, k, strides=stride, padding="SAME"), x, k)
  assert forward == 2 * (2 * height * width * 10) * (3 * 3 * 4)


def test_gradients_of_our_convolution():
  """Of a convolution that keeps the size, all three derivatives have as many products."""

  def loss(k, x):
    return jnp.sum(jnp.sin(conv2d(x, k, padding="SAME")))

  x, k, forward = shape(2, 8, 6, 4), shape(3, 3, 4, 10), 2 * (2 * 8 * 6 * 10) * (3 * 3 * 4)
  assert count(loss, k, x) == forward
  assert count(jax.grad(loss), k, x) == 2 * forward
  assert count(jax.grad(loss, (0, 1)), k, x) == 3 * forward
  stacked = jax.vmap(loss, (0, None))  # five kernels beside each other
  assert count(stacked, shape(5, 3, 3, 4, 10), x) == 5 * forward


def test_depthwise_convolutions():
  def loss(k, x):
    return jnp.sum(jnp.sin(conv2d(x, k, padding="SAME", groups=4)))

  x, k, forward = shape(2, 8, 6, 4), shape(3, 3, 1, 4), 2 * (2 * 8 * 6 * 4) * (3 * 3)
  assert count(loss, k, x) == forward
  assert count(jax.grad(loss), k, x) == 2 * forward


def test_named_programs_are_counted_as_often_as_loops_run_them():
  @jax.jit
  def asked(x):
    return x @ x

  def sampler(x):
    x, _ = lax.scan(lambda carry, _: (asked(jnp.sin(asked(carry))), None), x, None, length=5)
    return jax.lax.cond(jnp.sum(x) > 0, lambda x: asked(asked(x)), asked, x)

  assert calls(sampler, "asked", shape(3, 3)) == 12
  assert calls(jax.vmap(sampler), "asked", shape(4, 3, 3)) == 13  # rows that are mapped over take both branches
  assert calls(sampler, "another", shape(3, 3)) == 0
