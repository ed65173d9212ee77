"""Views: what a method looks at in the place of each synthetic image, on its way into whatever the method does."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import base
from jdistill.augment import basic

_ORIENTED = ("digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "omniglot", "usps")  # beginnings of names


class NamedView(NamedTuple):
  """A view with what goes with it.

  Attributes:
    view: itself; `None` for images as they are.
    always: the operator of `dsa` that is not one of those drawn from beside it, but applied to every batch first.
    caution: why it does not suit signs, if it does not.
    divides: what height and width of the images must be multiples of.
  """

  view: base.View | None
  always: str = ""
  caution: str = ""
  divides: int = 1


def flip_pairs(images: jax.Array) -> jax.Array:
  """Each image with its left-right mirror image, `y[i, 0] = x[i]` and `y[i, 1, r, c] = x[i, r, width - 1 - c]`.

  Args:
    images: `[n, height, width, channels]`.

  Returns:
    `[n, 2, height, width, channels]`.

  Raises:
    UserError: images of another rank, whose width would be another axis.

  References:
    "FYI: Flip Your Images for Dataset Distillation" (arXiv 2407.08113).
  """
  basic.check_shape(images.shape)
  return jnp.stack([images, images[:, :, ::-1]], axis=1)


def flip() -> NamedView:
  """FYI: each image and its mirror image, so that neither need be painted into the other.

  The gradient of a host method reaches an image through both. With an augmentation, mirroring is not one of the
  operators of which one is drawn, but applied before them with probability 1/2.
  """
  return NamedView(
    base.View(2, flip_pairs),
    always="flip",
    caution="the mirror image of a sign may belong to another class or none; use method.view='none'",
  )


def tiles(images: jax.Array, side: int) -> jax.Array:
  """The `side x side` tiles of each image, each enlarged to the image's own size (multi-formation, "decoding").

  Bilinear: with `n` pixels of the image and `m = n / side` of a tile along an axis, output pixel `i` is interpolated at
  `(i + 1/2) / side - 1/2` of the tile, whose border is continued beyond it.

  Args:
    images: `[n, height, width, channels]`.
    side: a divisor of height and width.

  Returns:
    `[n, side^2, height, width, channels]`, row by row.

  Raises:
    UserError: images of another rank.
    ValueError: `side` does not divide height and width.

  References:
    Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (arXiv 2205.14959). The released
    codes of IDC and NCFM fill images up where `side` does not divide them.
  """
  basic.check_shape(images.shape)
  n, height, width, channels = images.shape
  if height % side or width % side:
    raise ValueError(f"tiles: {height} x {width} pixels cannot be cut into {side} x {side} equal tiles")
  cut = images.reshape(n, side, height // side, side, width // side, channels)
  rows, columns = (jnp.asarray(_enlargement(size, side), images.dtype) for size in (height, width))
  out = jnp.einsum("Hh,Ww,nahbwc->nabHWc", rows, columns, cut, precision=jax.lax.Precision.HIGHEST)
  return out.reshape(n, side**2, height, width, channels)


def _enlargement(size: int, side: int) -> np.ndarray:
  """`[size, size / side]`: what each pixel of an enlarged tile takes of the pixels of the tile along one axis."""
  short = size // side
  place = np.clip((np.arange(size) + 0.5) / side - 0.5, 0, short - 1)
  return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(short)[None]))


def mosaic(side: int) -> NamedView:
  """IDC's multi-formation: each image is a mosaic of smaller ones, and all that is shown are these, enlarged.

  What is learned so has to be shown so to the networks that are trained on it: `eval.view`.
  """
  return NamedView(base.View(side**2, functools.partial(tiles, side=side)), divides=side)


_VIEWS: dict[str, Callable[[], NamedView]] = {
  "none": lambda: NamedView(None),
  "flip": flip,
  "mosaic2": lambda: mosaic(2),
  "mosaic3": lambda: mosaic(3),
}


def view(name: str, *, key: str = "view", image_shape: tuple[int, ...] = ()) -> NamedView:
  """A view by the name that configurations use.

  Args:
    name: `"none"`; `"flip"`, each image and its mirror image; `"mosaic2"` or `"mosaic3"`, the four or nine tiles of
      each image, enlarged.
    key: what messages call it.
    image_shape: `(height, width, channels)` of what it is for, where it is known.

  Raises:
    UserError: an unknown name, or images that it cannot divide.
  """
  if name not in _VIEWS:
    raise base.UserError(f"{key}={name!r}: unknown view; choose one of {', '.join(_VIEWS)}")
  found = _VIEWS[name]()
  if any(size % found.divides for size in image_shape[:2]):
    raise base.UserError(
      f"{key}={name!r}: images of {image_shape[0]} x {image_shape[1]} pixels cannot be cut into equal tiles; choose "
      "another view, or images of another size"
    )
  return found


def show(view: base.View | None, images: jax.Array) -> jax.Array:
  """All views of images, those of one beside each other: `[..., n, h, w, c] -> [..., n * copies, h, w, c]`."""
  if view is None:
    return images
  *lead, n, h, w, c = images.shape
  return view.images(images.reshape(-1, h, w, c)).reshape(*lead, n * view.copies, h, w, c)


def repeat(view: base.View | None, rows: jax.Array, axis: int = 0) -> jax.Array:
  """What belongs to images (labels, weights), for all of their views: `n` entries on `axis` become `n * copies`."""
  return rows if view is None else jnp.repeat(rows, view.copies, axis)


def caution(name: str, dataset: str) -> str:
  """Why a view should not be taken of a data set; empty where nothing is known against it."""
  stem = dataset.rpartition("/")[2].lower()
  return view(name).caution if stem.startswith(_ORIENTED) else ""
