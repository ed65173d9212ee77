"""The ordinary augmentations of network training, and what joins augmentations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jdistill import base
from jdistill.augment import operators


class FlipCropRecord(NamedTuple):
  """What `flip_crop` drew.

  Attributes:
    flip: `[batch]` bool, mirror left and right.
    shift: `[batch, 2]` int32, `(rows, columns)` in `[-pad, pad]`.
  """

  flip: jax.Array
  shift: jax.Array


def check_shape(shape: tuple[int, ...]) -> None:
  """Raises `UserError` unless `shape` is `(batch, height, width, channels)`."""
  if len(shape) != 4:
    raise base.UserError(f"shape: {tuple(shape)} has rank {len(shape)}; images are (batch, height, width, channels)")


def check_replay(drawn_for: int, x: jax.Array) -> None:
  """Raises `UserError` unless `x` is a batch of `drawn_for` images."""
  check_shape(x.shape)
  if x.shape[0] != drawn_for:
    raise base.UserError(
      f"record: drawn for {drawn_for} images but x has {x.shape[0]}; draw it with sample(key, x.shape)"
    )


def identity() -> base.Augmentation:
  """No augmentation: an empty record, and `apply` returns `x` itself."""
  return base.Augmentation(sample=lambda key, shape: (), apply=lambda record, x: x)


def flip_crop(pad: int = 4) -> base.Augmentation:
  """Random mirroring and random crop, independent per image: the usual augmentation of small colour images.

  Each image is mirrored left-right with probability 1/2, padded with `pad` zeros on every side, and a window of the
  original size is cut out, its corner uniform over the `(2 pad + 1)^2` places.

  Args:
    pad: pixels of zero padding, at least 0.

  Returns:
    `Augmentation` whose record is a `FlipCropRecord`.

  Raises:
    UserError: `pad` is negative; a shape is not `(batch, height, width, channels)`; a record of another batch size.
  """
  if pad < 0:
    raise base.UserError(f"pad: {pad} is negative; give the number of zero pixels on each side, 0 for no crop")

  def sample(key: base.Key, shape: tuple[int, ...]) -> FlipCropRecord:
    check_shape(shape)
    key_flip, key_shift = jax.random.split(key)
    flip = jax.random.bernoulli(key_flip, 0.5, shape[:1])
    return FlipCropRecord(flip, jax.random.randint(key_shift, (shape[0], 2), -pad, pad + 1, jnp.int32))

  def apply(record: FlipCropRecord, x: jax.Array) -> jax.Array:
    check_replay(record.flip.shape[0], x)
    return operators.translate(operators.flip(x, record.flip), record.shift, (pad, pad))

  return base.Augmentation(sample, apply)


def compose(*augmentations: base.Augmentation) -> base.Augmentation:
  """One augmentation after the other, the first one first, with independent draws.

  Args:
    *augmentations: the parts; none at all gives the identity.

  Returns:
    `Augmentation` whose record is the tuple of the parts' records.
  """

  def sample(key: base.Key, shape: tuple[int, ...]) -> tuple[Any, ...]:
    keys = jax.random.split(key, max(len(augmentations), 1))
    return tuple(part.sample(keys[i], shape) for i, part in enumerate(augmentations))

  def apply(record: tuple[Any, ...], x: jax.Array) -> jax.Array:
    for part, drawn in zip(augmentations, record, strict=True):
      x = part.apply(drawn, x)
    return x

  return base.Augmentation(sample, apply)
