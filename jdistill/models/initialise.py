"""First parameters of the zoo's networks, from one draw for the whole network.

Compiling a random draw costs far more than running it, and an ordinary init compiles one per parameter array. Here one
vector of standard draws is cut up and scaled, which compiles about five times faster for a ConvNet.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Key

INITS = ("torch", "flax", "he")

# A standard normal cut off at two standard deviations has this standard deviation left.
_TRUNCATED_SPREAD = 0.87962566103423978


def draw_params(key: Key, shapes: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]], init: str) -> dict[str, dict]:
  """Draws the parameters of layers that have a `kernel` (and maybe a `bias`) or a `scale` and a `bias`.

  With fan_in = the product of all kernel axes but the last:

      "torch":  kernel, bias ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in))
      "flax":   kernel ~ N(0, 1/fan_in) truncated at two standard deviations (LeCun), bias = 0
      "he":     convolution kernel ~ N(0, 2/fan_out) with fan_out = height * width * filters (He et al., as CIFAR
                ResNets do), dense kernel ~ N(0, 1/(3 fan_in)), the variance of "torch", bias = 0

  Norms start with scale 1 and bias 0 in all.

  Args:
    key: a typed key.
    shapes: `{layer: {"kernel" | "bias" | "scale": shape}}`.
    init: `"torch"`, `"flax"` or `"he"`.

  Returns:
    `{layer: {name: float32 array}}`.
  """
  fixed = {"scale"} if init == "torch" else {"scale", "bias"}
  sizes = [
    (layer, name, shapes[layer][name].size)
    for layer in sorted(shapes)
    for name in sorted(shapes[layer])
    if "kernel" in shapes[layer] and name not in fixed
  ]
  total = sum(size for *_, size in sizes)
  if init == "torch":
    draws = jax.random.uniform(key, (total,), jnp.float32, -1.0, 1.0)
  elif init == "he":
    draws = jax.random.normal(key, (total,), jnp.float32)
  else:
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (total,), jnp.float32) / _TRUNCATED_SPREAD
  draws = lax.optimization_barrier(draws)  # else XLA repeats the generator inside every slice

  params = {
    layer: {name: jnp.full(leaf.shape, float(name == "scale"), jnp.float32) for name, leaf in leaves.items()}
    for layer, leaves in shapes.items()
  }
  start = 0
  for layer, name, size in sizes:
    values = lax.slice(draws, (start,), (start + size,)) / _divisor(shapes[layer]["kernel"].shape, init)
    params[layer][name] = values.reshape(shapes[layer][name].shape)
    start += size
  return params


def _divisor(kernel: tuple[int, ...], init: str) -> float:
  """What standard draws are divided by for a kernel of this shape, and for its bias."""
  fan_in = math.prod(kernel[:-1])
  if init != "he":
    return math.sqrt(fan_in)
  return math.sqrt(math.prod(kernel[:-2]) * kernel[-1] / 2 if len(kernel) == 4 else 3 * fan_in)


def fresh_moments(shapes: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]) -> dict[str, dict[str, jax.Array]]:
  """Running statistics of batch norm before the first step: zero means and unit variances, by layer."""
  return {
    layer: {name: jnp.full(leaf.shape, float(name == "var"), leaf.dtype) for name, leaf in leaves.items()}
    for layer, leaves in shapes.items()
  }
