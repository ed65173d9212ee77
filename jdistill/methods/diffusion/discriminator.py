"""A small head on a denoiser's features that tells real data from samples."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill import diffusion
from jdistill.base import Key, Network, PyTree, UserError
from jdistill.methods.diffusion.parts import asked


def head_init(key: Key, features: int, hidden: int) -> PyTree:
  """Parameters of `head`: two dense layers, uniform by fan-in, biases at zero."""
  keys, sizes = jax.random.split(key), (features, hidden, 1)

  def layer(key: Key, before: int, after: int) -> dict[str, jax.Array]:
    bound = 1 / math.sqrt(before)
    return {
      "kernel": jax.random.uniform(key, (before, after), minval=-bound, maxval=bound),
      "bias": jnp.zeros((after,)),
    }

  return {f"dense{i}": layer(keys[i], sizes[i], sizes[i + 1]) for i in range(2)}


def head(params: PyTree, features: jax.Array) -> jax.Array:
  """Logits `[B]` of being real: features `[B, ...]`, flattened, to a layer with SiLU and one number."""
  x = features.reshape(features.shape[0], -1)
  x = jax.nn.silu(x @ params["dense0"]["kernel"] + params["dense0"]["bias"][None])
  return (x @ params["dense1"]["kernel"] + params["dense1"]["bias"][None])[:, 0]


def feature_size(network: Network, params: PyTree, site: str, *, key: str = "method.site") -> int:
  """Numbers per example at a site of a denoiser; `key` is what messages call it.

  Raises:
    UserError: there is no such site; with those that there are.
  """
  known = network.denoiser
  like = jnp.zeros((1, *known.shape))
  taps = jax.eval_shape(lambda: asked(network, params, like, jnp.ones(1), jnp.zeros(1, jnp.int32))).taps
  if site not in taps:
    raise UserError(f"{key}={site!r}: the denoiser has no such site; choose one of {', '.join(taps)}")
  return math.prod(taps[site].shape[1:])


class Noise(NamedTuple):
  """What data are noised with.

  Attributes:
    t: `[B]` times.
    eps: `[B, ...]` standard normal.
  """

  t: jax.Array
  eps: jax.Array


def noise_levels(key: Key, levels: jax.Array, shape: tuple[int, ...]) -> Noise:
  """For each row of `shape` one of these times and its noise."""
  key_t, key_eps = jax.random.split(key)
  return Noise(jax.random.choice(key_t, levels, shape[:1]), jax.random.normal(key_eps, shape))


def noised(network: Network, noise: Noise, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`(x_t, t)` of data `x [B, ...]` in the process of a denoiser."""
  return diffusion.add_noise(network.denoiser.schedule, x, noise.eps.astype(x.dtype), noise.t), noise.t


def realness(
  network: Network, params: PyTree, head_params: PyTree, noise: Noise, x: jax.Array, cond: jax.Array, *, site: str
) -> jax.Array:
  """Logits of being real of noisy `x`: `head` of a denoiser's features.

  Args:
    network, params: the denoiser.
    head_params: of `head`.
    noise: of each row.
    x: `[B, ...]`.
    cond: `[B]`.
    site: the features' name.

  Returns:
    `[B]`.
  """
  return head(head_params, asked(network, params, *noised(network, noise, x), cond).taps[site])


def pyramid_init(key: Key, shape: tuple[int, ...], scales: tuple[int, ...], hidden: int) -> PyTree:
  """Parameters of `pyramid`, a `head` for each scale.

  Args:
    key: of the draw.
    shape: `(height, width, channels)`.
    scales: sides of the places that are averaged.
    hidden: units of each head.

  Raises:
    UserError: no scale, one that is there twice, or one that does not divide the sides.
  """
  if not scales or len(set(scales)) < len(scales):
    raise UserError(f"method.scales={tuple(scales)}: name each scale once, and one at least")
  for scale in scales:
    if shape[0] % scale or shape[1] % scale:
      raise UserError(f"method.scales={tuple(scales)}: {scale} does not divide {shape[0]}x{shape[1]}; name divisors")
  sizes = [shape[0] // scale * (shape[1] // scale) * shape[2] for scale in scales]
  keys = jax.random.split(key, len(scales))
  return {f"scale{scale}": head_init(keys[i], sizes[i], hidden) for i, scale in enumerate(scales)}


def pyramid(params: PyTree, x: jax.Array, scales: tuple[int, ...]) -> jax.Array:
  """Logits of being real by an ensemble at several scales: `[n, h, w, c] -> [scales, n]`.

  Each `head` sees the means of `scale x scale` places.
  """
  n, height, width, channels = x.shape

  def one(scale: int) -> jax.Array:
    parts = x.reshape(n, height // scale, scale, width // scale, scale, channels)
    return head(params[f"scale{scale}"], jnp.mean(parts, (2, 4)))

  return jnp.stack([one(scale) for scale in scales])
