"""Selection of unlabelled images by what networks predict for them: SSLD's mining and KD^3's moving thresholds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.precision import widen


class Mined(NamedTuple):
  """What `mine_top_k_per_class` chose.

  Attributes:
    chosen: `[M]` bool.
    taken: `[classes]` int32, how many each class chose; below `k` the pool ran short.
  """

  chosen: jax.Array
  taken: jax.Array


def mine_top_k_per_class(
  probabilities: jax.Array, k: int, *, predicted_only: bool = False, where: jax.Array | None = None
) -> Mined:
  """For each class the `k` images that a teacher finds likeliest to show it; all of them, each image once.

  Balanced over classes, where one threshold for all would prefer the easy ones.

  Args:
    probabilities: `[M, classes]` of a teacher, near-duplicates of the test data taken out before.
    k: images per class, at least 1; more than there are is allowed and shows in the counts.
    predicted_only: a class chooses only among images whose likeliest class it is, so that no image is chosen twice.
    where: `[M]` bool, the pool; `None` for all images.

  Returns:
    `Mined(chosen, taken)`. Of equally likely images the first ones are taken.

  Raises:
    UserError: if probabilities are not a matrix or `k < 1`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959). `predicted_only` is an addition.
  """
  _check_matrix("probabilities", probabilities)
  if k < 1:
    raise UserError(f"k: {k} images per class; give at least 1")
  size, classes = probabilities.shape
  probabilities = jnp.asarray(probabilities)
  allowed = jnp.broadcast_to((jnp.ones(size, bool) if where is None else where)[:, None], (size, classes))
  if predicted_only:
    allowed &= jnp.argmax(probabilities, axis=1)[:, None] == jnp.arange(classes)[None]
  order = jnp.argsort(jnp.where(allowed, -probabilities, jnp.inf), axis=0, stable=True)
  rank = jnp.argsort(order, axis=0)
  chosen = allowed & (rank < k)
  return Mined(jnp.any(chosen, axis=1), jnp.sum(chosen, axis=0).astype(jnp.int32))


def near_duplicate_mask(
  pool_features: jax.Array, validation_features: jax.Array, threshold: float, *, chunk_size: int = 1024
) -> jax.Array:
  """Which images of a pool are nearly the same as one of the validation or test set.

  An image is one if the cosine of the angle between its features and those of any validation image is at least the
  threshold. (SSLD matched SIFT key points; features of a network are what this library has.)

  Args:
    pool_features: `[M, D]`.
    validation_features: `[V, D]` of the same network.
    threshold: in `[-1, 1]`, such as 0.95. Vectors of zeros are similar to nothing: their cosine counts as 0.
    chunk_size: rows of the pool compared at once, so that `[chunk_size, V]` similarities fit in memory.

  Returns:
    `[M]` bool, true for what must be left out.

  Raises:
    UserError: if features are not two matrices of one width, or the threshold is not within `[-1, 1]`.

  Cost: `M V D` multiplications.

  References:
    Cui et al. (arXiv 2103.05959), the removal of near-duplicates.
  """
  _check_matrix("pool_features", pool_features)
  _check_matrix("validation_features", validation_features)
  if pool_features.shape[1] != validation_features.shape[1]:
    raise UserError(
      f"validation_features: width {validation_features.shape[1]} but the pool has {pool_features.shape[1]}; "
      "take both from one network"
    )
  if not -1 <= threshold <= 1:
    raise UserError(f"threshold: {threshold} is no cosine; give a number in [-1, 1]")
  if 0 in (pool_features.shape[0], validation_features.shape[0]):
    return jnp.zeros(pool_features.shape[0], bool)
  validation = _unit(validation_features)

  def closest(row):
    return jnp.max(jnp.matmul(validation, row, precision=jax.lax.Precision.HIGHEST))

  return jax.lax.map(closest, _unit(pool_features), batch_size=min(chunk_size, pool_features.shape[0])) >= threshold


def selection_mixing_weight(epoch: int | jax.Array, *, ramp: int = 160, until: int = 120) -> jax.Array:
  """KD^3's share of the teacher in the logits that select, `a(e) = 1 - exp(-5 ((e + 1) / ramp - 1)^2)`, later 0.

  The selecting logits are `a z_t + (1 - a) z_s`: 0.99 of the teacher at first, when the student knows nothing, 0.27 in
  the last epoch before `until`, and the student alone afterwards.

  Args:
    epoch: `e`, from 0; a number or an array of integers.
    ramp: epochs in which `a` would fall to 0.
    until: the first epoch in which `a` is 0.

  Returns:
    float32 in `[0, 1)`, of the shape of `epoch`.

  Raises:
    UserError: if `ramp < 1`.

  References:
    Tang et al., "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images"
    (arXiv 2307.11469), as in its code.
  """
  if ramp < 1:
    raise UserError(f"ramp: {ramp} epochs; give at least 1")
  epoch = jnp.asarray(epoch).astype(jnp.float32)
  return jnp.where(epoch < until, -jnp.expm1(-5 * jnp.square((epoch + 1) / ramp - 1)), 0)


def classwise_confidence_select(
  probabilities: jax.Array, *, cutoff: float = 0.95, where: jax.Array | None = None
) -> jax.Array:
  """KD^3's selection: images predicted with more confidence than the threshold of their class.

  With `n_c` images predicted as class `c` and `b_c = n_c / max_c n_c`, that threshold is `cutoff b_c / (2 - b_c)`:
  `cutoff` for the commonest class and less for the rare ones. Couples all rows: give the whole pool at once.

  Args:
    probabilities: `[M, classes]` of the mixed logits (`selection_mixing_weight`).
    cutoff: in `(0, 1)`.
    where: `[M]`, false for padding, which is neither counted nor selected.

  Returns:
    `[M]` bool. It may be false everywhere: then stop, and look at the distribution of the confidences.

  Raises:
    UserError: if probabilities are not a matrix, `cutoff` is not within `(0, 1)`, or `where` is not `[M]`.

  References:
    Tang et al. (arXiv 2307.11469), as in its code.
  """
  _check_matrix("probabilities", probabilities)
  if not 0 < cutoff < 1:
    raise UserError(f"cutoff: {cutoff} is no confidence; give a number between 0 and 1")
  size, classes = probabilities.shape
  kept = jnp.ones(size, bool) if where is None else jnp.asarray(where).astype(bool)
  if kept.shape != (size,):
    raise UserError(f"where: shape {kept.shape} for {size} images; give one entry per image")
  probabilities = widen(probabilities)
  predicted = jnp.argmax(probabilities, axis=1)
  counts = jnp.zeros(classes, jnp.int32).at[predicted].add(kept.astype(jnp.int32))
  share = counts.astype(probabilities.dtype) / jnp.maximum(jnp.max(counts), 1).astype(probabilities.dtype)
  threshold = cutoff * share / (2 - share)
  return kept & (jnp.max(probabilities, axis=1) > threshold[predicted])


def _check_matrix(name, x):
  if np.ndim(x) != 2:
    raise UserError(f"{name}: shape {np.shape(x)}; give a matrix with one row per image")


def _unit(x):
  x = widen(x)
  norm = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x / jnp.where(norm > 0, norm, 1)
