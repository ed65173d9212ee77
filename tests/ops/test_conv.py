"""The convolution against `lax.conv_general_dilated`: values and derivatives of every order and mode."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jdistill.ops import avg_pool2, conv, conv2d, depthwise, instance_norm, max_pool2, relu, standardize

CASES = [
  # size, channels in/out, kernel, stride, padding
  ((3, 6, 5), (2, 4), (3, 3), 1, "SAME"),
  ((2, 6, 6), (5, 3), (3, 3), 1, "VALID"),
  ((2, 4, 4), (1, 3), (3, 3), 1, ((3, 3), (3, 3))),  # more padding than the kernel covers: gradients crop
  ((2, 7, 5), (6, 2), (5, 3), 1, ((2, 1), (0, 1))),
  ((2, 5, 8), (3, 2), (3, 5), 1, ((0, 1), (1, 3))),  # pairs of pixels that need three pairs each
  ((2, 7, 6), (3, 4), (3, 3), 2, ((1, 1), (1, 1))),
  ((2, 5, 5), (3, 4), (1, 1), 2, "VALID"),
  ((2, 8, 8), (2, 3), (5, 5), 3, "SAME"),
]


def lax_conv(x, kernel, *, strides=1, padding="SAME"):
  return lax.conv_general_dilated(
    x, kernel, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
  )


def operands(case, dtype=np.float32, stack=()):
  (n, h, w), (i, o), (kh, kw), strides, padding = case
  rng = np.random.default_rng(0)
  x = rng.normal(size=(*stack, n, h, w, i)).astype(dtype)
  kernel = rng.normal(size=(*stack, kh, kw, i, o)).astype(dtype)
  options = {"strides": strides, "padding": padding}
  return jnp.asarray(x), jnp.asarray(kernel), options


def second_order(conv):
  """A scalar whose gradient contains the gradient of another scalar, as in a bilevel loop."""

  def inner(x, k):
    return jnp.sum(jnp.tanh(conv(x, k)))

  def outer(x, k):
    dx, dk = jax.grad(inner, argnums=(0, 1))(x, k)
    return jnp.sum(jnp.sin(dx)) + jnp.sum(jnp.cos(dk))

  return outer


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_equal_lax(case, x64):
  x, k, options = operands(case, np.float64)
  ours, theirs = (functools.partial(f, **options) for f in (conv2d, lax_conv))
  np.testing.assert_allclose(ours(x, k), theirs(x, k), rtol=1e-12, atol=1e-12)
  for build in (lambda conv: lambda x, k: jnp.sum(jnp.tanh(conv(x, k))), second_order):
    got = jax.jit(jax.grad(build(ours), argnums=(0, 1)))(x, k)
    want = jax.jit(jax.grad(build(theirs), argnums=(0, 1)))(x, k)
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_forward_over_reverse_equals_lax(x64):
  x, k, options = operands(CASES[0], np.float64)

  def hvp(conv):
    grad = jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv(x, k, **options)) ** 2), argnums=(0, 1))
    return jax.jit(lambda x, k: jax.jvp(grad, (x, k), (x * 0.5, k * 2)))(x, k)

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), hvp(conv2d), hvp(lax_conv))


def test_check_grads(x64):
  x, k, options = operands(CASES[3], np.float64)
  check_grads(lambda x, k: jnp.tanh(conv2d(x, k, **options)), (x, k), order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 3)])
def test_vmap_equals_a_loop(axes):
  x, k, options = operands(CASES[0], stack=(3,))
  value = functools.partial(conv2d, **options)
  grads = jax.grad(lambda x, k: jnp.sum(jnp.tanh(value(x, k))), argnums=(0, 1))
  stacked = [jnp.moveaxis(a, 0, axis) if axis is not None else a[0] for a, axis in zip((x, k), axes, strict=True)]
  pick = [lambda j, a=a, axis=axis: a[j] if axis is not None else a[0] for a, axis in zip((x, k), axes, strict=True)]
  for fn in (value, grads):
    got = jax.vmap(fn, in_axes=axes)(*stacked)
    want = jax.tree.map(lambda *rows: jnp.stack(rows), *[fn(pick[0](j), pick[1](j)) for j in range(3)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_vmap_of_vmap_and_of_a_gradient_with_one_side_stacked():
  x, k, _ = operands(CASES[0], stack=(2, 3))
  got = jax.vmap(jax.vmap(conv2d))(x, k)
  want = jnp.stack([jnp.stack([conv2d(x[i, j], k[i, j]) for j in range(3)]) for i in range(2)])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  # the kernel gradient with stacked cotangents only, and with stacked inputs only
  _, pull = jax.vjp(lambda k: conv2d(x[0, 0], k), k[0, 0])
  cotangents = jnp.stack([conv2d(x[0, 0], k[0, j]) for j in range(3)])
  np.testing.assert_allclose(
    jax.vmap(pull)(cotangents)[0], jnp.stack([pull(c)[0] for c in cotangents]), rtol=1e-4, atol=1e-4
  )
  kernel_grad = jax.grad(lambda k, x: jnp.sum(conv2d(x, k) ** 2))
  got = jax.vmap(kernel_grad, in_axes=(None, 0))(k[0, 0], x[0])
  np.testing.assert_allclose(got, jnp.stack([kernel_grad(k[0, 0], xi) for xi in x[0]]), rtol=1e-4, atol=1e-3)


def test_scan_and_checkpoint():
  x, k, _ = operands(((2, 4, 4), (3, 3), (3, 3), 1, "SAME"))

  def run(k, wrap):
    step = wrap(lambda h, _: (jnp.tanh(conv2d(h, k)), None))
    return jnp.sum(lax.scan(step, x, None, length=3)[0])

  plain = jax.grad(run)(k, lambda f: f)
  np.testing.assert_allclose(jax.grad(run)(k, jax.checkpoint), plain, rtol=1e-5, atol=1e-6)


def test_values_and_gradients_without_jit():
  """Who debugs with `jax.disable_jit` gets the same numbers."""
  x, kernel, options = operands(CASES[0])
  loss = lambda x, kernel: jnp.sum(jnp.sin(conv2d(x, kernel, **options)))  # noqa: E731
  want = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)
  with jax.disable_jit():
    found = jax.value_and_grad(loss, (0, 1))(x, kernel)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, want)


def test_no_naive_kernel_gradient_inside_scan_on_cpu():
  """The kernel gradient of a loop body must be matmuls: a convolution there would run as a naive loop."""
  x, k, _ = operands(((2, 8, 8), (8, 8), (3, 3), 1, "SAME"))

  def step(k, _):
    return k - 0.1 * jax.grad(lambda k: jnp.sum(jnp.tanh(conv2d(x, k))))(k), None

  hlo = jax.jit(lambda k: lax.scan(step, k, None, length=3)[0]).lower(k).compile().as_text()
  convolutions = [line for line in hlo.splitlines() if " convolution(" in line]
  assert convolutions and all("dim_labels=b01f_01io->b01f" in line for line in convolutions), convolutions


@pytest.mark.parametrize(
  "width, channels, kernel",
  [(8, (5, 16), "3x2x10x32"), (8, (5, 17), "3x3x5x17"), (8, (17, 4), "3x3x17x4"), (7, (5, 16), "3x3x5x16")],
)
def test_narrow_layers_of_even_width_are_computed_in_pairs_on_cpu(width, channels, kernel):
  x, k, _ = operands(((2, 4, width), channels, (3, 3), 1, "SAME"))
  (line,) = [line for line in jax.jit(conv2d).lower(x, k).as_text().splitlines() if "convolution(" in line]
  assert f"tensor<{kernel}xf32>" in line
  np.testing.assert_allclose(conv2d(x, k), lax_conv(x, k), rtol=1e-5, atol=1e-5)


def test_few_outputs_of_many_images_are_computed_a_few_images_at_a_time(monkeypatch):
  x, k, _ = operands(((6, 4, 5), (20, 3), (3, 3), 1, "SAME"))
  want = lax_conv(x, k)
  monkeypatch.setattr(conv, "_TAP_BYTES", 2 * 4 * 5 * 9 * 20 * 4)
  lowered = jax.jit(lambda x, k: conv2d(x, k)).lower(x, k).as_text()
  (line,) = [line for line in lowered.splitlines() if "convolution(" in line]
  assert "tensor<2x4x5x20xf32>" in line
  np.testing.assert_allclose(jax.jit(lambda x, k: conv2d(x, k))(x, k), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [((2, 0), (5, 2)), ((3, 3), (4, -1))])
def test_padding_beyond_the_kernel_in_single_precision(padding):
  """Gradients crop then, and XLA:CPU's own convolutions read beside the image for some negative padding."""
  x, k, _ = operands(((16, 12, 10), (4, 16), (1, 4), 1, None))
  padded = lambda x, k: lax_conv(  # noqa: E731
    lax.pad(x, np.float32(0), [(0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)]), k, padding="VALID"
  )
  got, want = (
    jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1)))(x, k)
    for f in (functools.partial(conv2d, padding=padding), padded)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, want)


@pytest.mark.parametrize(
  "x_shape, k_shape, dtype, match",
  [
    ((2, 4, 4, 3), (3, 3, 2, 4), np.float32, "same I"),
    ((4, 4, 3), (3, 3, 3, 4), np.float32, "must be"),
    ((2, 4, 4, 3), (3, 3, 3, 4), np.float16, "cast"),
    ((2, 2, 2, 3), (5, 5, 3, 4), np.float32, "does not fit"),
  ],
)
def test_bad_operands(x_shape, k_shape, dtype, match):
  with pytest.raises(ValueError, match=match):
    conv2d(jnp.zeros(x_shape), jnp.zeros(k_shape, dtype), padding="VALID")


def test_pools_drop_odd_borders():
  x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
  blocks = x[:, :4].reshape(2, 2, 2, 2, 2, 3)
  np.testing.assert_allclose(avg_pool2(jnp.asarray(x)), blocks.mean((2, 4)))
  np.testing.assert_allclose(max_pool2(jnp.asarray(x)), blocks.max((2, 4)))


def test_instance_norm_equals_numpy():
  rng = np.random.default_rng(1)
  x = rng.normal(3.0, 2.0, size=(2, 4, 3, 5))
  scale, bias = rng.normal(size=5), rng.normal(size=5)
  want = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5) * scale + bias
  got = instance_norm(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)))
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_relu_and_its_slope_at_zero():
  x = jnp.array([-1.0, 0.0, 2.0, jnp.nan, jnp.inf])
  np.testing.assert_array_equal(relu(x), [0.0, 0.0, 2.0, np.nan, np.inf])
  np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(x[:3]), [0.0, 0.0, 1.0])


def test_instance_norm_of_a_constant_map_is_its_bias_with_finite_gradients():
  x = jnp.full((1, 4, 4, 2), 3.0)

  def value(x):
    return jnp.sum(instance_norm(x, jnp.ones(2), jnp.array([0.5, -1.0])) * jnp.arange(32.0).reshape(x.shape))

  y = instance_norm(x, jnp.ones(2), jnp.array([0.5, -1.0]))
  np.testing.assert_allclose(y, np.broadcast_to([0.5, -1.0], x.shape), atol=1e-3)
  assert bool(jnp.all(jnp.isfinite(jax.grad(value)(x))))


@pytest.mark.parametrize("groups, dilation, strides", [(2, 1, 1), (4, 1, 2), (1, 2, 1)])
def test_grouped_and_dilated_kernels_equal_a_loop(groups, dilation, strides):
  rng = np.random.default_rng(3)
  x, k = rng.normal(size=(2, 7, 6, 4)), rng.normal(size=(3, 2, 4 // groups, 8))
  got = conv2d(*(jnp.asarray(a, jnp.float32) for a in (x, k)), strides=strides, padding="VALID",
               dilation=dilation, groups=groups)  # fmt: skip
  rows, columns = (7 - 2 * dilation - 1) // strides + 1, (6 - dilation - 1) // strides + 1
  want = np.zeros((2, rows, columns, 8))
  for out in range(8):
    block = slice(out // (8 // groups) * (4 // groups), (out // (8 // groups) + 1) * (4 // groups))
    for i in range(rows):
      for j in range(columns):
        window = x[:, i * strides :: dilation, j * strides :: dilation, block][:, :3, :2]
        want[:, i, j, out] = np.einsum("nhwc,hwc->n", window, k[..., out])
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  "size, channels, kernel, groups, strides, padding",
  [
    ((3, 6, 5), 4, (3, 3), 4, 1, "SAME"),
    ((2, 7, 6), 3, (3, 5), 3, 2, ((1, 1), (2, 1))),
    ((2, 4, 4), 2, (3, 3), 2, 1, ((3, 3), (3, 3))),  # more padding than the kernel covers: gradients crop
    ((2, 5, 6), 6, (1, 1), 3, 2, "VALID"),
  ],
)
def test_groups_and_their_derivatives_equal_lax(size, channels, kernel, groups, strides, padding, x64):
  rng = np.random.default_rng(5)
  x = jnp.asarray(rng.normal(size=(*size, channels)))
  k = jnp.asarray(rng.normal(size=(*kernel, channels // groups, channels)))
  ours = functools.partial(conv2d, strides=strides, padding=padding, groups=groups)

  def theirs(x, k):
    return lax.conv_general_dilated(
      x, k, (strides, strides), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )

  np.testing.assert_allclose(ours(x, k), theirs(x, k), rtol=1e-12, atol=1e-12)
  for build in (lambda conv: lambda x, k: jnp.sum(jnp.tanh(conv(x, k))), second_order):
    got, want = (jax.jit(jax.grad(build(f), argnums=(0, 1)))(x, k) for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got, want)
  check_grads(lambda x, k: jnp.tanh(ours(x, k)), (x, k), order=2, modes=["fwd", "rev"])
  gradient = lambda x, k: jax.grad(lambda x, k: jnp.sum(jnp.tanh(ours(x, k))), (0, 1))(x, k)  # noqa: E731
  xs, ks = jnp.stack([x, 2 * x]), jnp.stack([k, k - 1])
  for axes in ((0, 0), (0, None), (None, 0)):
    at = [(xs[i] if axes[0] == 0 else x, ks[i] if axes[1] == 0 else k) for i in range(2)]
    got = jax.vmap(gradient, axes)(*(s if a == 0 else one for s, a, one in zip((xs, ks), axes, (x, k), strict=True)))
    want = [jnp.stack(leaves) for leaves in zip(*(gradient(*one) for one in at), strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), list(got), want)


def test_depthwise_on_other_platforms_is_the_same_map():
  x, k, g = (
    jnp.asarray(np.random.default_rng(6).normal(size=s), jnp.float32) for s in ((2, 5, 4, 3), (3, 3, 3), (2, 5, 4, 3))
  )
  for fn, a, b in ((depthwise._forward, x, k), (depthwise._kernel, x, g)):
    padding = ((1, 1), (1, 1))
    ours, theirs = (fn(a, b, padding=padding, loop=loop) for loop in (True, False))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_standardize_and_its_derivatives_equal_those_of_its_parts(x64):
  rng = np.random.default_rng(2)
  x, t = (jnp.asarray(rng.normal(1.0, 2.0, size=(3, 4, 2, 5))) for _ in range(2))

  def spelled_out(x, axes, eps):
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + eps)

  for axes in ((0, 1, 2), (1, 3)):
    ours, theirs = (functools.partial(f, axes=axes, eps=0.1) for f in (standardize, spelled_out))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    found = []
    for f in (lambda x, axes=axes: standardize(x, axes, 0.1), theirs):
      grad = jax.grad(lambda x, f=f: jnp.sum(jnp.tanh(f(x)) ** 2))
      found.append(
        (
          grad(x),
          jax.jvp(f, (x,), (t,)),
          jax.jvp(grad, (x,), (t,)),
          jax.grad(lambda x, g=grad: jnp.sum(jnp.sin(g(x))))(x),
        )
      )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *found)


def test_depthwise_sums_halves_in_single_precision():
  rng = np.random.default_rng(7)
  x, k = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((40, 12, 12, 2), (3, 3, 1, 2)))
  got = jax.grad(lambda k: jnp.sum(conv2d(x, k, groups=2).astype(jnp.float32)))(k)
  want = jax.grad(lambda k: jnp.sum(conv2d(x.astype(jnp.float32), k, groups=2)))(k.astype(jnp.float32))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-7, atol=1e-2)


def test_depthwise_on_images_of_two_devices_exchanges_sums_alone():
  mesh = Mesh(jax.devices()[:2], ("data",))
  rng = np.random.default_rng(8)
  x, k = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 5, 6, 3), (3, 3, 1, 3)))
  gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv2d(x, k, groups=3))), (0, 1)))
  placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  split = jax.device_put(k, NamedSharding(mesh, PartitionSpec()))
  compiled = gradient.lower(placed, split).compile()
  exchanged = re.findall(r"= f32\[([\d,]+)\]\S* all-(?:gather|reduce|to-all)\(", compiled.as_text())
  assert exchanged and max(np.prod([int(n) for n in shape.split(",")]) for shape in exchanged) <= k.size
  got, want = compiled(placed, split), gradient(x, k)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
