"""A small head on a denoiser's features that tells real data from samples."""

import math

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


def feature_size(network: Network, params: PyTree, site: str) -> int:
  """Numbers per example at a site of a denoiser.

  Raises:
    UserError: there is no such site; with those that there are.
  """
  known = network.denoiser
  like = jnp.zeros((1, *known.shape))
  taps = jax.eval_shape(lambda: asked(network, params, like, jnp.ones(1), jnp.zeros(1, jnp.int32))).taps
  if site not in taps:
    raise UserError(f"method.site={site!r}: the denoiser has no such site; choose one of {', '.join(taps)}")
  return math.prod(taps[site].shape[1:])


def realness(
  network: Network,
  params: PyTree,
  head_params: PyTree,
  key: Key,
  x: jax.Array,
  cond: jax.Array,
  *,
  site: str,
  levels: jax.Array,
) -> jax.Array:
  """Logits of being real of noisy `x`, each at one of these noise levels: `head` of a denoiser's features.

  Args:
    network, params: the denoiser.
    head_params: of `head`.
    key: of levels and noise.
    x: `[B, ...]`.
    cond: `[B]`.
    site: the features' name.
    levels: `[n]` times, of which each row draws one.

  Returns:
    `[B]`.
  """
  key_t, key_eps = jax.random.split(key)
  t = jax.random.choice(key_t, levels, (x.shape[0],))
  x_t = diffusion.add_noise(network.denoiser.schedule, x, jax.random.normal(key_eps, x.shape, x.dtype), t)
  return head(head_params, asked(network, params, x_t, t, cond).taps[site])
