"""Convolutions by the kernels inside jaxlib: the same numbers, and only where a program may hold them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdistill._compat import onednn_call
from jdistill.ops import conv, conv2d, onednn, winograd

INSTRUCTION = "__onednn$convolution"
SETTINGS = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
  "jax_persistent_cache_min_entry_size_bytes",
)

CASES = [
  # size, channels in/out, kernel, stride, padding; 6 and 16 images are one and two chunks of a kernel gradient
  ((6, 6, 5), (2, 4), (3, 3), 1, "SAME"),
  ((16, 6, 6), (5, 3), (3, 3), 1, "VALID"),
  ((2, 4, 4), (1, 3), (3, 3), 1, ((3, 3), (3, 3))),  # more padding than the kernel covers: gradients crop
  ((16, 7, 5), (6, 2), (5, 3), 1, ((2, 1), (0, 1))),
  ((16, 7, 6), (3, 4), (3, 3), 2, ((1, 1), (1, 1))),
  ((6, 5, 5), (3, 4), (1, 1), 2, "VALID"),
  ((7, 8, 9), (2, 3), (5, 5), 3, "SAME"),
  ((8, 9, 10), (2, 3), (3, 3), 3, "VALID"),  # a last row and column that no tap meets
  ((8, 8, 8), (2, 3), (3, 3), 3, ((0, 0), (1, 2))),
  ((8, 6, 5), (4, 5), (1, 4), 1, ((2, 0), (5, 2))),
]


@pytest.fixture
def own_cache():
  """JAX's settings of its cache are the test's, and as before afterwards."""
  before = {name: getattr(jax.config, name) for name in SETTINGS}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def kernels(own_cache, monkeypatch):
  """No cache, and the kernels for all sizes."""
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  monkeypatch.setattr(onednn, "_FEWEST_CHANNELS", dict.fromkeys(onednn._FEWEST_CHANNELS, (0, 0)))
  monkeypatch.setattr(onednn, "_FEWEST_PRODUCTS", 0)
  if not onednn.usable(jnp.float32):
    pytest.skip("this release or build of jaxlib does not offer oneDNN's kernels")


def text(fn, *arguments) -> str:
  return jax.jit(lambda *a: fn(*a)).lower(*arguments).as_text()  # a new function: lowered anew


def operands(case, dtype=np.float32):
  (n, h, w), (i, o), (kh, kw), strides, padding = case
  rng = np.random.default_rng(0)
  x, k = rng.normal(size=(n, h, w, i)), rng.normal(size=(kh, kw, i, o))
  return x.astype(dtype), k.astype(dtype), {"strides": strides, "padding": padding}


def sums(x, k, strides, padding):
  """The convolution as sums in float64."""
  x, k = x.astype(np.float64), k.astype(np.float64)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], k.shape[:2], (strides, strides), padding)
  x = np.pad(x, ((0, 0), *padding, (0, 0)))
  height, width = ((n - taps) // strides + 1 for n, taps in zip(x.shape[1:3], k.shape[:2], strict=True))
  return sum(
    x[:, a : a + strides * height : strides, b : b + strides * width : strides][:, :height, :width] @ k[a, b]
    for a in range(k.shape[0])
    for b in range(k.shape[1])
  )


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_sums_in_double_precision(kernels, case):
  x, k, options = operands(case)
  g = np.random.default_rng(1).normal(size=sums(x, k, **options).shape).astype(np.float32)
  pull = lambda x, k, g: jax.vjp(functools.partial(conv2d, **options), x, k)[1](g)  # noqa: E731
  assert INSTRUCTION in text(functools.partial(conv2d, **options), x, k)
  assert text(pull, x, k, g).count(INSTRUCTION) == 2
  np.testing.assert_allclose(conv2d(x, k, **options), sums(x, k, **options), rtol=1e-5, atol=1e-5)
  gx, gk = jax.jit(pull)(x, k, g)
  # both are linear in what they are gradients of: <g, F(u, k)> = <u, gx> for every unit u, and the same for kernels
  for found, place in ((gx, 0), (gk, 1)):
    for entry in list(np.ndindex(*found.shape))[:: 7 if found.size > 60 else 1]:
      unit = np.zeros(found.shape)
      unit[entry] = 1
      want = np.sum(g * sums(*((unit, k) if place == 0 else (x, unit)), **options))
      np.testing.assert_allclose(found[entry], want, rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients_equal_those_of_lax(kernels):
  x, k, options = operands(CASES[4])

  def plain(x, k):
    return lax.conv_general_dilated(x, k, (2, 2), options["padding"], dimension_numbers=("NHWC", "HWIO", "NHWC"))

  def outer(conv):
    inner = jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv(x, k))), (0, 1))
    return jax.jit(jax.grad(lambda x, k: sum(jnp.sum(jnp.sin(part)) for part in inner(x, k)), (0, 1)))

  got, want = (outer(f)(x, k) for f in (functools.partial(conv2d, **options), plain))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), got, want)


def test_stacked_networks_in_a_loop(kernels):
  x, k, options = operands(CASES[0])
  stacked = jnp.stack([jnp.asarray(k), 2 * jnp.asarray(k)])
  grad = jax.grad(lambda k: jnp.sum(jnp.tanh(conv2d(x, k, **options))))
  got = jax.jit(lambda ks: lax.scan(lambda _, k: (None, jax.vmap(grad)(k)), None, ks[None])[1])(stacked)
  np.testing.assert_allclose(got[0], jnp.stack([grad(k) for k in stacked]), rtol=1e-5, atol=1e-5)


def test_wide_layers_take_winograds_form(kernels, monkeypatch):
  monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 4)
  monkeypatch.setattr(winograd, "_FEWEST_PIXELS", 0)
  x, k, options = operands(((4, 8, 6), (5, 4), (3, 3), 1, ((1, 1), (1, 1))))
  conv = functools.partial(conv2d, **options)
  g = np.random.default_rng(1).normal(size=(4, 8, 6, 4)).astype(np.float32)
  pull = lambda x, k, g: jax.vjp(lambda x: conv(x, k), x)[1](g)[0]  # noqa: E731
  assert text(conv, x, k).count(INSTRUCTION) == text(pull, x, k, g).count(INSTRUCTION) == 6
  assert text(functools.partial(conv2d, padding="VALID"), x, k).count(INSTRUCTION) == 1
  fresh = jax.jit(lambda x, k: conv(x, k))
  np.testing.assert_allclose(fresh(x, k), sums(x, k, **options), rtol=1e-5, atol=1e-5)
  turned = k[::-1, ::-1].swapaxes(2, 3)
  np.testing.assert_allclose(jax.jit(pull)(x, k, g), sums(g, turned, **options), rtol=1e-5, atol=1e-5)
  # images of two devices
  mesh = Mesh(jax.devices()[:2], ("data",))
  placed = (jax.device_put(a, NamedSharding(mesh, PartitionSpec(*axes))) for a, axes in ((x, ["data"]), (k, [])))
  np.testing.assert_allclose(fresh(*placed), sums(x, k, **options), rtol=1e-5, atol=1e-5)


def test_images_of_two_devices_exchange_the_kernel_gradient_alone(kernels):
  mesh = Mesh(jax.devices()[:2], ("data",))
  x, k, _ = operands(CASES[1])
  gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.tanh(conv2d(x, k))), (0, 1)))
  placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  whole = jax.device_put(k, NamedSharding(mesh, PartitionSpec()))
  compiled = gradient.lower(placed, whole).compile()
  assert INSTRUCTION in compiled.as_text()
  exchanged = re.findall(r"= f32\[([\d,]+)\]\S* all-(?:gather|reduce|to-all)\(", compiled.as_text())
  assert exchanged and max(np.prod([int(n) for n in shape.split(",")]) for shape in exchanged) <= k.size
  got, want = compiled(placed, whole), gradient(x, k)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
  # images that all devices hold
  same = gradient.lower(*(jax.device_put(a, NamedSharding(mesh, PartitionSpec())) for a in (x, k))).compile()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), same(x, k), want)


def test_devices_that_form_no_mesh_are_left_to_xla(kernels):
  sharding = pytest.importorskip("jax.extend.sharding").GSPMDSharding
  everywhere = sharding.get_replicated(tuple(jax.devices()[:2]))
  x, k, _ = operands(CASES[1])
  compiled = jax.jit(conv2d, in_shardings=(everywhere, everywhere)).lower(x, k).compile()
  assert INSTRUCTION not in compiled.as_text()
  placed = (jax.device_put(a, everywhere) for a in (x, k))
  np.testing.assert_allclose(compiled(*placed), conv2d(x, k), rtol=1e-5, atol=1e-5)


def test_several_devices_that_each_run_their_own(kernels):
  mesh = Mesh(jax.devices()[:2], ("data",))
  x, k, _ = operands(CASES[1])
  rows = PartitionSpec("data")
  spread = jax.jit(jax.shard_map(conv2d, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows))
  assert INSTRUCTION in spread.lower(x, k).as_text()
  np.testing.assert_allclose(spread(x, k), conv2d(x, k), rtol=1e-6, atol=1e-6)


def test_programs_that_are_stored_do_without(kernels, tmp_path, monkeypatch):
  """The cache has its way until a process says otherwise; from then on nothing is stored."""
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  for name in SETTINGS[1:]:
    jax.config.update(name, 0)
  compilation_cache.reset_cache()
  x, k, options = operands(CASES[0])
  right = sums(x, k, **options)
  assert INSTRUCTION not in text(functools.partial(conv2d, **options), x, k)
  np.testing.assert_allclose(jax.jit(lambda x, k: conv2d(x, k, **options))(x, k), right, rtol=1e-5, atol=1e-5)
  stored = sorted(tmp_path.iterdir())
  assert stored
  monkeypatch.setattr(onednn, "_before_cache", False)
  onednn.come_before_cache()
  assert INSTRUCTION in text(functools.partial(conv2d, **options), x, k)
  np.testing.assert_allclose(jax.jit(lambda x, k: conv2d(x, k, **options) + 0)(x, k), right, rtol=1e-5, atol=1e-5)
  assert sorted(tmp_path.iterdir()) == stored


def test_exported_programs_do_without(kernels):
  x, k, options = operands(CASES[0])
  exported = jax.export.export(jax.jit(functools.partial(conv2d, **options)))(x, k)
  assert INSTRUCTION not in exported.mlir_module()
  np.testing.assert_allclose(exported.call(x, k), sums(x, k, **options), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_precisions_do_without(kernels, dtype):
  x, k, options = operands(CASES[0], dtype)
  assert INSTRUCTION not in text(functools.partial(conv2d, **options), x, k)


def test_small_and_thin_layers_do_without(kernels, monkeypatch):
  monkeypatch.setattr(onednn, "_FEWEST_PRODUCTS", 6 * 6 * 5 * 2 * 9 * 4)
  monkeypatch.setattr(onednn, "_FEWEST_CHANNELS", {"forward": (2, 4), "kernel": (3, 0)})
  x, k, options = operands(CASES[0])
  call = functools.partial(conv2d, **options)
  gradient = jax.grad(lambda k: jnp.sum(call(x, k)))
  assert INSTRUCTION in text(call, x, k)
  assert INSTRUCTION not in text(call, x[1:], k)
  assert INSTRUCTION not in text(call, x[..., :1], k[:, :, :1])
  assert INSTRUCTION not in text(call, *operands(((12, 6, 5), (2, 3), (3, 3), 1, "SAME"))[:2])
  assert INSTRUCTION not in text(gradient, k)
  monkeypatch.setattr(onednn, "_FEWEST_CHANNELS", {"forward": (2, 4), "kernel": (2, 4)})
  assert INSTRUCTION in text(gradient, k)


def test_a_jaxlib_without_them_or_of_another_release_does_without(kernels, monkeypatch):
  x, k, options = operands(CASES[0])
  with monkeypatch.context() as other:
    other.setattr(onednn_call, "RELEASES", ())
    assert INSTRUCTION not in text(functools.partial(conv2d, **options), x, k)
  monkeypatch.setattr(onednn_call, "TARGET", "__onednn$no_such_thing")
  onednn._works.cache_clear()
  try:
    assert not onednn.usable(jnp.float32)
    np.testing.assert_allclose(conv2d(x, k, **options), sums(x, k, **options), rtol=1e-5, atol=1e-5)
  finally:
    onednn._works.cache_clear()


@pytest.mark.parametrize("case", CASES[4:])
def test_strided_layers_on_other_platforms_are_the_same_maps(case, x64):
  x, k, options = operands(case, np.float64)
  padding = conv._explicit_padding(options["padding"], x.shape[1:3], k.shape[:2], (options["strides"],) * 2)
  y = conv._forward(x[None], k[None], padding=padding, stride=options["strides"], loop=False)
  np.testing.assert_allclose(y[0], sums(x, k, **options), rtol=1e-10, atol=1e-10)
