"""Shuffling of an image's strips: what RDED shows of images that are made of tiles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill import base
from jdistill.augment.basic import check_replay, check_shape


class StripRecord(NamedTuple):
  """What `shuffle_strips` drew.

  Attributes:
    columns: `[batch, factor]` int32, which vertical strip stands at each place, from the left.
    rows: `[batch, factor]` int32, which horizontal strip then stands at each place, from the top.
  """

  columns: jax.Array
  rows: jax.Array


def shuffle_strips(factor: int) -> base.Augmentation:
  """Cuts every image into `factor` vertical strips of equal width, shuffles them, and does the same with rows.

  Args:
    factor: strips along an axis, at least 1; 1 changes nothing.

  Returns:
    `Augmentation` whose record is a `StripRecord`. Only moves pixels.

  Raises:
    UserError: `factor < 1`, or sides that it does not divide; a shape is not `(batch, height, width, channels)`; a
      record of another batch size.

  References:
    Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (arXiv
    2312.03526), as in its code.
  """
  if factor < 1:
    raise base.UserError(f"factor: {factor}; give at least 1 strip along an axis")

  def sample(key: base.Key, shape: tuple[int, ...]) -> StripRecord:
    check_shape(shape)
    if any(side % factor for side in shape[1:3]):
      raise base.UserError(f"factor: {factor} does not divide images of {shape[1]} x {shape[2]} pixels; give a divisor")
    draw = lambda key: jax.random.permutation(key, factor).astype(jnp.int32)  # noqa: E731
    return StripRecord(*(jax.vmap(draw)(jax.random.split(part, shape[0])) for part in jax.random.split(key)))

  def apply(record: StripRecord, x: jax.Array) -> jax.Array:
    check_replay(record.rows.shape[0], x)
    for axis, order in ((2, record.columns), (1, record.rows)):
      shape = x.shape
      strips = x.reshape(*shape[:axis], factor, shape[axis] // factor, *shape[axis + 1 :])
      order = order.reshape(shape[0], *(1,) * (axis - 1), factor, *(1,) * (strips.ndim - axis - 1))
      x = jnp.take_along_axis(strips, order, axis=axis).reshape(shape)
    return x

  return base.Augmentation(sample, apply)
