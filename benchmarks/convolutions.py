"""Layers on the CPU: `jdistill.ops.conv2d`, the same without oneDNN's kernels, and `lax.conv_general_dilated`, in turn.

  python -m benchmarks.convolutions [--repeats=5]

3x3 layers with zeros around them: `forward` is one call, `step` a gradient in pixels and kernel inside `lax.scan`, for
which XLA:CPU has no fast form of what JAX states. Without oneDNN is what a program gets that is kept in a compilation
cache, and what other builds of jaxlib get. Wide layers are timed by oneDNN's plain convolution and in Winograd's form,
strided ones' gradients in the pixels over blocks of pixels and phase by phase. Then a training step on 16 CIFAR images
of networks made of such layers, ours alone. All on one core where the system can say so, as in a run, whose other
devices keep the other cores busy. With more cores than devices XLA shares single plain convolutions out better than
those in pairs.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import _reports
from jdistill import models
from jdistill._compat import onednn_call
from jdistill.ops import conv2d, strided, winograd

# images, side, channels in and out, stride, groups
LAYERS = {
  "16 to 16": (32, 32, 16, 16, 1, 1),
  "16 to 32, stride 2": (32, 32, 16, 32, 2, 1),
  "32 to 32": (32, 16, 32, 32, 1, 1),
  "64 to 64": (32, 8, 64, 64, 1, 1),
  "128 to 128": (10, 16, 128, 128, 1, 1),
  "1 to 16": (50, 28, 1, 16, 1, 1),
  "3 to 16": (50, 32, 3, 16, 1, 1),
  "8 to 8": (50, 8, 8, 8, 1, 1),
  "depthwise, 16": (50, 28, 16, 16, 1, 16),
  "depthwise, 16, stride 2": (50, 28, 16, 16, 2, 16),
}
# images, side, channels in and out, stride
WIDE = {
  "20 of 64x64, 64 to 64": (20, 64, 64, 64, 1),
  "20 of 32x32, 128 to 128": (20, 32, 128, 128, 1),
  "20 of 16x16, 256 to 256": (20, 16, 256, 256, 1),
  "100 of 8x8, 512 to 512": (100, 8, 512, 512, 1),
  "10 of 16x16, 128 to 128": (10, 16, 128, 128, 1),
  "16 of 14x14, 256 to 256": (16, 14, 256, 256, 1),
  "20 of 64x64, 64 to 128, stride 2": (20, 64, 64, 128, 2),
  "20 of 32x32, 128 to 256, stride 2": (20, 32, 128, 256, 2),
}
NETWORKS = ("mobilenetv2", "shufflenetv1", "shufflenetv2")
STEPS = 2


def ours(x, k, stride, groups):
  return conv2d(x, k, strides=stride, padding=((1, 1), (1, 1)), groups=groups)


def plain(x, k, stride, groups):
  numbers = ("NHWC", "HWIO", "NHWC")
  pads = ((1, 1), (1, 1))
  return lax.conv_general_dilated(x, k, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=groups)


def in_a_loop(loss, *start):
  """A program of `STEPS` steps of gradient descent on all arguments."""

  def step(carry, _):
    grads = jax.grad(loss, range(len(start)))(*carry)
    return jax.tree.map(lambda a, g: a - 1e-6 * g, carry, grads), None

  return jax.jit(lambda *carry: lax.scan(step, carry, None, length=STEPS)[0])


def without_library(program, *arguments):
  """The program, compiled as for a release of jaxlib whose kernels are not known."""
  known = onednn_call.RELEASES
  onednn_call.RELEASES = ()
  try:
    return program.lower(*arguments).compile()
  finally:
    onednn_call.RELEASES = known


def in_turn(programs, arguments, repeats: int) -> list[float]:
  """Median seconds of each program, which run one after the other, `repeats` times."""
  seconds = [[] for _ in programs]
  for _ in range(repeats):
    for program, found in zip(programs, seconds, strict=True):
      jax.block_until_ready(program(*arguments))  # compiles, and brings back what the one before drove from the caches
      begin = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      found.append(time.perf_counter() - begin)
  return [statistics.median(found) for found in seconds]


def layer(images, side, inputs, outputs, stride, groups, repeats):
  """Milliseconds of `forward` and `step`, each ours, ours without the library, and lax."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(images, side, side, inputs)), jnp.float32)
  k = jnp.asarray(rng.normal(size=(3, 3, inputs // groups, outputs)), jnp.float32)
  forms = [lambda x, k, f=f: f(x, k, stride, groups) for f in (ours, ours, plain)]
  np.testing.assert_allclose(forms[0](x, k), forms[2](x, k), rtol=1e-3, atol=1e-3)
  losses = [lambda x, k, f=form: jnp.sum(f(x, k) ** 2) for form in forms]
  found = []
  for programs, calls in (([jax.jit(f) for f in forms], 1), ([in_a_loop(loss, x, k) for loss in losses], STEPS)):
    programs[1] = without_library(programs[1], x, k)
    found += [1e3 * seconds / calls for seconds in in_turn(programs, (x, k), repeats)]
  return found


def wide(images, side, inputs, outputs, stride, repeats):
  """Milliseconds of both forms: of the forward map, or with a stride of the gradient in the pixels."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(images, side, side, inputs)), jnp.float32)
  k = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)
  module, name = (winograd, "_FEWEST_CHANNELS") if stride == 1 else (strided, "_FEWEST_PRODUCTS")
  before, programs = getattr(module, name), []
  g = ours(x, k, stride, 1)
  for fewest in (10**12, 0):
    setattr(module, name, fewest)
    form = (lambda x, k, g: ours(x, k, 1, 1)) if stride == 1 else lambda x, k, g: pixels(x, k, g, stride)
    programs.append(jax.jit(form).lower(x, k, g).compile())
  setattr(module, name, before)
  found = [program(x, k, g) for program in programs]
  np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3 * float(jnp.std(found[0])))
  return [1e3 * seconds for seconds in in_turn(programs, (x, k, g), repeats)]


def pixels(x, k, g, stride):
  """The gradient in the pixels."""
  return jax.vjp(lambda x: ours(x, k, stride, 1), x)[1](g)[0]


def network(name: str, repeats: int) -> float:
  """Milliseconds of a step."""
  net = models.build(name, num_classes=10, image_shape=(32, 32, 3))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 32, 32, 3)), jnp.float32)
  params = net.init(jax.random.key(0)).params
  program = in_a_loop(lambda p: jnp.sum(net.apply(p, x, train=True).logits ** 2), params)
  return 1e3 * in_turn([program], (params,), repeats)[0] / STEPS


def main() -> None:
  arguments = _reports.parser(__doc__).parse_args()
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  figures = {"machine": _reports.machine(1), "repeats": arguments.repeats}
  columns = [f"{what}{how}" for what in ("forward", "step") for how in ("", " without oneDNN", " lax")]
  figures["layers_ms"] = {
    name: dict(zip(columns, layer(*case, arguments.repeats), strict=True)) for name, case in LAYERS.items()
  }
  figures["wide_layers_ms"] = {
    name: dict(zip(("plain", "Winograd or phases"), wide(*case, arguments.repeats), strict=True))
    for name, case in WIDE.items()
  }
  figures["networks_ms"] = {name: network(name, arguments.repeats) for name in NETWORKS}
  print(_reports.table(["layer, ms", *columns], [[n, *row.values()] for n, row in figures["layers_ms"].items()]))
  rows = [
    [name, *row.values(), row["Winograd or phases"] / row["plain"]] for name, row in figures["wide_layers_ms"].items()
  ]
  print(_reports.table(["layer, ms", "plain", "Winograd or phases", "ratio"], rows))
  print(_reports.table(["network", "step, ms"], [list(row) for row in figures["networks_ms"].items()]))
  _reports.write("convolutions", figures, arguments.out)


if __name__ == "__main__":
  main()
