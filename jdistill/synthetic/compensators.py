"""Sets that are stored as base images and images that are added to them: the images that networks are trained on."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.synthetic.set import SyntheticSet

PixelRange = tuple[jax.Array, jax.Array]


def materialise(bases: jax.Array, compensators: jax.Array, pixel_range: PixelRange | None = None) -> jax.Array:
  """All images that base images and compensators stand for: `S_kc` and `clip(S_kc + u_km)` for every `m`.

  Args:
    bases: `[K, C, height, width, channels]`, one image of every class in each of `K` slices.
    compensators: `[K, M, height, width, channels]`, those of each slice, which all classes share.
    pixel_range: lowest and highest value per channel, `[channels]` each, to which sums are clipped; `None` for no
      clipping. Base images are given back as they are.

  Returns:
    `[C * K * (M + 1), height, width, channels]`: class by class, in each of them slice by slice, a base image followed
    by its `M` sums.

  Raises:
    ValueError: other numbers of slices, or images of other shapes.

  References:
    Zhang et al., "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator" (arXiv
    2408.06927).
  """
  if (
    bases.ndim != 5
    or compensators.ndim != 5
    or (len(bases), *bases.shape[2:])
    != (
      len(compensators),
      *compensators.shape[2:],
    )
  ):
    raise ValueError(
      f"materialise: base images {bases.shape} and compensators {compensators.shape}; give [K, C, height, width, "
      "channels] and [K, M, height, width, channels]"
    )
  own = jnp.swapaxes(bases, 0, 1)[:, :, None]  # [C, K, 1, ...]
  sums = own + compensators[None]
  if pixel_range is not None:
    sums = jnp.clip(sums, *(jnp.asarray(end, sums.dtype).reshape(*(1,) * (sums.ndim - 1), -1) for end in pixel_range))
  return jnp.concatenate([own, sums], axis=2).reshape(-1, *bases.shape[2:])


def compensated(stored: SyntheticSet, pixel_range: PixelRange | None = None) -> SyntheticSet:
  """The set that networks are trained on: `stored` itself, or where it has compensators, all images they make of it.

  Args:
    stored: with images class by class, one for each slice of the compensators.
    pixel_range: see `materialise`.

  Returns:
    A set without compensators, on the host; every sum has the label of its base image.

  Raises:
    ValueError: another number of images than classes times slices.
  """
  if not np.size(stored.compensators):
    return stored._replace(compensators=())
  slices, each = stored.compensators.shape[:2]
  if len(stored.images) % slices:
    raise ValueError(f"compensated: {len(stored.images)} images are not the same number for each of {slices} slices")
  images = jnp.asarray(stored.images)
  bases = jnp.swapaxes(images.reshape(-1, slices, *images.shape[1:]), 0, 1)
  made = np.asarray(materialise(bases, jnp.asarray(stored.compensators), pixel_range))
  return SyntheticSet(made, np.repeat(np.asarray(stored.labels), 1 + each, axis=0), stored.lr)
