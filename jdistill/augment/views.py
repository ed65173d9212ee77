"""Views: what a method looks at in the place of each synthetic image, on its way into whatever the method does."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill import base
from jdistill.augment import basic

_ORIENTED = ("digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "omniglot", "usps")  # beginnings of names


class NamedView(NamedTuple):
  """A view with what goes with it.

  Attributes:
    view: itself; `None` for images as they are.
    always: the operator of `dsa` that is not one of those drawn from beside it, but applied to every batch first.
    caution: why it does not suit signs, if it does not.
  """

  view: base.View | None
  always: str = ""
  caution: str = ""


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


_VIEWS: dict[str, Callable[[], NamedView]] = {"none": lambda: NamedView(None), "flip": flip}


def view(name: str, *, key: str = "view") -> NamedView:
  """A view by the name that configurations use.

  Args:
    name: `"none"`, or `"flip"`, each image and its mirror image.
    key: what messages call it.

  Raises:
    UserError: an unknown name.
  """
  if name not in _VIEWS:
    raise base.UserError(f"{key}={name!r}: unknown view; choose one of {', '.join(_VIEWS)}")
  return _VIEWS[name]()


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
