"""Frequencies at which characteristic functions are compared: drawn, or made by a network that learns which to take."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key, PyTree

_LAYERS, _SLOPE, _EPSILON = 3, 0.2, 1e-5


class Sampler(NamedTuple):
  """Frequencies as a function of parameters that may learn.

  Attributes:
    init: `(key) -> params`.
    draw: `(params, key, count) -> [count, features]`, differentiable in the parameters.
  """

  init: Callable[[Key], PyTree]
  draw: Callable[[PyTree, Key, int], jax.Array]


def sampling_network(features: int, *, scale: float = 1.0, dtype: jnp.dtype = jnp.float32) -> Sampler:
  """NCFM's sampling network `psi`: normal noise `z` `[count, features]` through three layers.

      h <- act(gain (h W - mean) / sqrt(var + 1e-5) + shift),   t = scale h

  from `h = z`, with mean and biased variance over the draws, a leaky ReLU of slope 0.2 after the first two layers and
  the hyperbolic tangent after the last, so that every entry lies within `(-scale, scale)`.

  Args:
    features: F, of the embeddings; every layer has as many units.
    scale: see above; 1 in the released code.
    dtype: of the parameters.

  Returns:
    The `Sampler`: `W` starts uniform within `1 / sqrt(F)`, gains at 1 and shifts at 0. It refuses fewer than two draws
    (`ValueError`), which have no variance.

  References:
    Wang et al. (NCFM, arXiv 2502.20653); layers, widths and activations are those of the released code. That repeats
    each of its draws 16 times, which changes no mean over them; and the layers' biases, which the norm takes out, are
    left out here.
  """

  def init(key: Key) -> PyTree:
    bound = features**-0.5
    kernels = jax.random.uniform(key, (_LAYERS, features, features), dtype, -bound, bound)
    ends = jnp.ones((_LAYERS, features), dtype), jnp.zeros((_LAYERS, features), dtype)
    return {"kernel": kernels, "gain": ends[0], "shift": ends[1]}

  def draw(params: PyTree, key: Key, count: int) -> jax.Array:
    if count < 2:
      raise ValueError(f"frequencies={count}: the sampling network needs two draws or more; raise it")
    h = jax.random.normal(key, (count, features), dtype)
    for layer in range(_LAYERS):
      kernel, gain, shift = (params[name][layer] for name in ("kernel", "gain", "shift"))
      h = h @ kernel
      spread = jnp.sqrt(jnp.var(h, axis=0, keepdims=True) + _EPSILON)
      h = gain[None] * ((h - jnp.mean(h, axis=0, keepdims=True)) / spread) + shift[None]
      h = jnp.tanh(h) if layer == _LAYERS - 1 else jax.nn.leaky_relu(h, _SLOPE)
    return scale * h

  return Sampler(init, draw)


def gaussian(features: int, *, scale: float = 1.0, dtype: jnp.dtype = jnp.float32) -> Sampler:
  """Frequencies `t ~ N(0, scale^2 I)` `[count, features]`; nothing learns."""
  return Sampler(lambda key: {}, lambda params, key, count: scale * jax.random.normal(key, (count, features), dtype))
