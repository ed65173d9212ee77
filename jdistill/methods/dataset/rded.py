"""RDED: images made of the crops of real images that a trained network is surest of; no pixel is optimised."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Apply, Batch, Key, Method, Metrics, Variables
from jdistill.schema import Above, Count, Range, validated
from jdistill.synthetic import Feed, Materials, SyntheticSet
from jdistill.synthetic.patches import check_candidates, hard_classes, patch_crop, score_crops, select_tiles, tile_grid

Candidates = tuple[Variables, Batch]  # the teacher, and `mipc` real images of one class


class RDEDState(NamedTuple):
  """What a resume needs.

  Attributes:
    images: `[classes, ipc, height, width, channels]`: those of the first classes are finished.
    labels: `[classes * ipc]` int32.
    crops: `[mipc, h, w, channels]`, the best crop of every candidate of the current class so far.
    scores: `[mipc]` their cross entropies.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  images: jax.Array
  labels: jax.Array
  crops: jax.Array
  scores: jax.Array
  count: jax.Array
  lr: jax.Array


def candidate_stream(*, mipc: Count = 300, num_crop: Count = 5, factor: Count = 2) -> Feed:
  """The stream of `rded`: the teacher's variables and `mipc` random images of a class, the same for `num_crop` steps.

  Args:
    mipc: images per class to choose from.
    num_crop: crops of each.
    factor: tiles along an axis.

  Raises:
    UserError: from `example`, a class with fewer images.
  """

  def stream(found: Materials) -> Callable[[int], Candidates]:
    def batch(step: int) -> Candidates:
      c = min(step // num_crop, found.num_classes - 1)
      own = np.random.default_rng((found.seed, 7, c)).permutation(np.flatnonzero(found.y == c))[:mipc]
      return found.teacher, Batch(found.x[own], found.y[own].astype(np.int32), own.astype(np.int32))

    return batch

  def example(found: Materials) -> Candidates:
    check_candidates(found.y, mipc, 1, factor, found.num_classes)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stream(found)(0))

  return Feed(stream, example)


@validated("method")
def rded(
  teacher_apply: Apply,
  initial: SyntheticSet,
  *,
  mipc: Count = 300,
  num_crop: Count = 5,
  factor: Count = 2,
  patch_scale: Annotated[float, Above(0), Range(high=1)] = 0.08,
) -> Method:
  """Builds RDED's selection of crops.

  A step draws one random square crop of each of `mipc` real images of a class, resized to a tile, and asks the teacher
  in evaluation mode for its cross entropy with the class. Of an image's `num_crop` crops the one with the lowest is
  kept, of the images the `ipc factor^2` lowest; `factor x factor` of them make an image. A step costs one forward pass
  on `mipc` images.

  Args:
    teacher_apply: the trained network.
    initial: a set of the wanted form: its labels and learning rate are kept, its images are not looked at.
    mipc: real images per class to choose from; at least `ipc factor^2`.
    num_crop: crops of each.
    factor: tiles along an axis: 2 for ImageNet, 1 for CIFAR and Tiny-ImageNet.
    patch_scale: smallest share of the area of a crop.

  Returns:
    A `Method` with `num_crop` steps per class, whose stream is `candidate_stream`.

  Raises:
    UserError: too few candidates, or sides that `factor` does not divide.
    ValueError: soft labels.

  References:
    Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (arXiv
    2312.03526), sec. 3 and its code.
  """
  (classes, ipc), sides = hard_classes(initial.labels), np.shape(initial.images)[1:3]
  crop = patch_crop(sides, factor, patch_scale)
  check_candidates(np.repeat(np.arange(classes), mipc), mipc, ipc, factor, classes)

  def init(key: Key, batch: Candidates) -> RDEDState:
    del key, batch
    images = jnp.array(initial.images, copy=True).reshape(classes, ipc, *np.shape(initial.images)[1:])
    shape = (mipc, sides[0] // factor, sides[1] // factor, images.shape[-1])
    crops, scores = jnp.zeros(shape, images.dtype), jnp.full(mipc, jnp.inf, images.dtype)
    labels, lr = (jnp.array(leaf, copy=True) for leaf in (initial.labels, initial.lr))
    return RDEDState(images, labels, crops, scores, jnp.zeros((), jnp.int32), lr)

  def step(key: Key, state: RDEDState, batch: Candidates) -> tuple[RDEDState, Metrics]:
    teacher, real = batch
    c, place = state.count // num_crop, state.count % num_crop
    crops = crop.apply(crop.sample(key, real.x.shape), real.x)
    scores = score_crops(teacher_apply, teacher, crops[:, None], real.y, sides)[:, 0]
    better = (place == 0) | (scores < state.scores)
    scores = jnp.where(better, scores, state.scores)
    crops = jnp.where(better[:, None, None, None], crops, state.crops)
    rows = select_tiles(scores, ipc * factor**2)
    metrics = {"rded/cross_entropy": jnp.mean(scores[rows]), "rded/candidates": jnp.mean(scores)}
    made = tile_grid(crops[rows], factor)
    images = state.images.at[jnp.minimum(c, classes - 1)].set(made)
    images = jnp.where(c < classes, images, state.images)
    return state._replace(images=images, crops=crops, scores=scores, count=state.count + 1), metrics

  def result(state: RDEDState) -> SyntheticSet:
    return SyntheticSet(state.images.reshape(-1, *state.images.shape[2:]), state.labels, state.lr)

  return Method(init, step, result, steps=classes * num_crop)
