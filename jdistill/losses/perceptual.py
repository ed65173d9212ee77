"""Losses that compare two images by what a frozen network makes of them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_same_shape, flat_rows, keep, row_mask
from jdistill.ops.pairwise import unit
from jdistill.ops.precision import widen

Features = Callable[[jax.Array], jax.Array]
LayerFeatures = Callable[[jax.Array], Sequence[jax.Array]]


def identity_loss(
  features: Features | None, a: jax.Array, b: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`1 - cos(h(a), h(b))` per example: whether a frozen encoder `h` finds the same in two images.

  An example whose features are all zero is at distance 1 from any other and has no gradient.

  Args:
    features: `h`, `[B, ...] -> [B, ...]`; each example's are flattened to one vector.
    a: `[B, ...]`.
    b: `[B, ...]`, the target; no gradient.
    where: `[B]`, false for padding, whose loss is 0.

  Returns:
    `[B]`, in [0, 2].

  Raises:
    ValueError: no encoder; images or features whose shapes differ.

  References:
    "EchoDistill: Bidirectional Concept Distillation for One-Step Diffusion Personalization" (arXiv 2510.20512), whose
    `h` is CLIP with IP-Adapter's projection.
  """
  name = "identity_loss"
  a, b, kept = _pair(name, features, a, b, where)
  found, wanted = (flat_rows(widen(features(side))) for side in (a, b))
  check_same_shape(name, features_a=found, features_b=wanted)
  cosine = jnp.sum(unit(found) * jax.lax.stop_gradient(unit(wanted)), axis=1)
  return keep(1 - cosine, kept)


def perceptual_loss(
  features: LayerFeatures | None, a: jax.Array, b: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`sum_l mean_places |u_l(a) - u_l(b)|^2` per example, with unit vectors `u_l` of the channels of layer `l`.

  This is LPIPS (arXiv 1801.03924, eq. 1) with all weights of channels at 1, on whatever frozen network there is.

  Args:
    features: `[B, ...] -> maps [B, ..., channels]` of each layer.
    a: `[B, ...]`.
    b: `[B, ...]`, the target; no gradient.
    where: `[B]`, false for padding, whose loss is 0.

  Returns:
    `[B]`, summed over layers.

  Raises:
    ValueError: no network, or one without layers; images or features whose shapes differ.
  """
  name = "perceptual_loss"
  a, b, kept = _pair(name, features, a, b, where)
  found, wanted = features(a), features(b)
  if not found or len(found) != len(wanted):
    raise ValueError(f"{name}: features must give the same layers of both, got {len(found)} and {len(wanted)}")
  distances = []
  for one, other in zip(found, wanted, strict=True):
    check_same_shape(name, features_a=one, features_b=other)
    gap = jnp.square(unit(widen(one)) - jax.lax.stop_gradient(unit(widen(other))))
    distances.append(jnp.mean(flat_rows(jnp.sum(gap, axis=-1, keepdims=True)), axis=1))
  return keep(sum(distances), kept)


def _pair(name: str, features: Callable | None, a: jax.Array, b: jax.Array, where: jax.Array | None):
  if features is None:
    raise ValueError(f"{name}: needs a frozen network whose features are compared, got None")
  a, b = widen(a), jax.lax.stop_gradient(widen(b))
  check_same_shape(name, a=a, b=b)
  kept = row_mask(name, where, a.shape[0])
  return keep(a, kept), keep(b, kept), kept
