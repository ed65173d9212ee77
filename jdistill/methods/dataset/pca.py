"""PCA: real images that networks find easy, made smaller and put together; no pixel is optimised."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, Method, Metrics, UserError
from jdistill.ops.affine import resize
from jdistill.schema import Above, Count, Positive, Range, validated
from jdistill.synthetic import Feed, Materials, Start, SyntheticSet
from jdistill.synthetic.patches import check_tiles, hard_classes, patch_crop, tile_grid


class PCAState(NamedTuple):
  """What a resume needs.

  Attributes:
    images: `[classes, ipc, height, width, channels]`: those of the first classes are combined.
    labels: `[classes * ipc]` int32.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  images: jax.Array
  labels: jax.Array
  count: jax.Array
  lr: jax.Array


@validated("method")
def pruned_start(*, factor: Count = 2, lr_init: Positive = 0.001) -> Start:
  """How a set of PCA starts: with the first of each class's chosen images, whole, which is pruning alone.

  Args:
    factor: tiles along an axis; of every class `ipc factor^2` images are chosen.
    lr_init: learning rate for training on the set.
  """

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del method, teacher_train

  def empty(ipc: int, num_classes: int, image_shape: tuple[int, ...], width: int = 0) -> SyntheticSet:
    del width
    check_tiles(image_shape[:2], factor)
    classes = np.repeat(np.arange(num_classes, dtype=np.int32), ipc)
    return SyntheticSet(np.zeros((len(classes), *image_shape), np.float32), classes, np.float32(lr_init))

  def make(images, classes, *, ipc: int, num_classes: int, **others) -> SyntheticSet:
    del others
    rows = np.concatenate([np.flatnonzero(classes == c)[:ipc] for c in range(num_classes)])
    return SyntheticSet(images[rows], classes[rows].astype(np.int32), np.float32(lr_init))

  def candidates(labels: np.ndarray, ipc: int, num_classes: int) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < ipc * factor**2:
      c = int(counts.argmin())
      raise UserError(
        f"ipc={ipc}: images of {factor**2} tiles are made of {ipc * factor**2} real ones per class, and class {c} has "
        f"only {counts[c]}; lower ipc or method.factor"
      )

  return Start(make, empty, check, candidates=candidates, keeps=lambda ipc: ipc * factor**2)


def class_stream() -> Feed:
  """The stream of `pca`: step `c` sees the chosen real images of class `c`, in the order of their choice."""

  def stream(found: Materials) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
      own = np.flatnonzero(found.y == min(step, found.num_classes - 1))
      return Batch(found.x[own], found.y[own].astype(np.int32), own.astype(np.int32))

    return batch

  def example(found: Materials) -> Batch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stream(found)(0))

  return Feed(stream, example)


@validated("method")
def pca(
  initial: SyntheticSet,
  *,
  factor: Count = 2,
  crop: Annotated[float, Above(0), Range(high=1)] = 1.0,
  shrink: Literal["bilinear", "area"] = "bilinear",
) -> Method:
  """Builds PCA's second part, Combine: `factor x factor` smaller real images of one class make an image.

  The first part, Prune, is the choice of the real images (stage `prune`): of every class the `ipc factor^2` with the
  lowest EL2N. The third, Augment, is how networks are trained on the set (`eval.cells`): with hard labels, on random
  resized crops inside one tile of each image (`jdistill.augment.cell_crop`).

  A step makes the images of one class. Image `i` of `ipc` has the tiles `i, ipc + i, 2 ipc + i, ...` in the order of
  the choice, so that all images are made of easier and harder ones; the paper does not say how they are grouped.

  Args:
    initial: a set of the wanted form: its labels and learning rate are kept, its images are not looked at.
    factor: tiles along an axis: 2 in the paper; 1 leaves the images as they are.
    crop: smallest share of the area that a tile shows of its image. With 1, as in the paper, it is the whole image;
      below it is a random square crop, as in RDED, for comparison.
    shrink: how whole images become tiles: `"bilinear"`, with hats of the width of a pixel of the tile, as image
      libraries do it, or `"area"`, means over `factor x factor` pixels. Which one the paper used is not known (its code
      was not released). Crops are interpolated without either.

  Returns:
    A `Method` with one step per class, whose stream is `class_stream`.

  Raises:
    UserError: sides that `factor` does not divide.
    ValueError: soft labels.

  References:
    "Rethinking Large-scale Dataset Compression: Shifting Focus From Labels to Images" (arXiv 2502.06434).
  """
  classes, ipc = hard_classes(initial.labels)
  sides = np.shape(initial.images)[1:3]
  check_tiles(sides, factor)
  cut = patch_crop(sides, factor, crop)
  small = (sides[0] // factor, sides[1] // factor)

  def init(key: Key, batch: Batch) -> PCAState:
    del key, batch
    images = jnp.array(initial.images, copy=True).reshape(classes, ipc, *np.shape(initial.images)[1:])
    labels, lr = (jnp.array(leaf, copy=True) for leaf in (initial.labels, initial.lr))
    return PCAState(images, labels, jnp.zeros((), jnp.int32), lr)

  def tiles(key: Key, x: jax.Array) -> jax.Array:
    if crop < 1:
      return cut.apply(cut.sample(key, x.shape), x)
    return resize(x, small, shrink)

  def step(key: Key, state: PCAState, batch: Batch) -> tuple[PCAState, Metrics]:
    made = tiles(key, batch.x)
    images = state.images.at[jnp.minimum(state.count, classes - 1)].set(tile_grid(made, factor))
    images = jnp.where(state.count < classes, images, state.images)
    done = jnp.minimum(state.count + 1, classes)
    metrics = {
      "pca/classes_left": (classes - done).astype(jnp.float32),
      "pca/kept_variance": jnp.var(made) / jnp.var(batch.x),
    }
    return state._replace(images=images, count=state.count + 1), metrics

  def result(state: PCAState) -> SyntheticSet:
    return SyntheticSet(state.images.reshape(-1, *state.images.shape[2:]), state.labels, state.lr)

  return Method(init, step, result, steps=classes)
