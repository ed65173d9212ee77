"""Losses that compare how examples lie to each other, so that the two embeddings may have different widths."""

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_at_least, check_batch, check_batches, check_positive, check_rank, keep, row_mask
from jdistill.ops.pairwise import gram, pairwise_sq_dists, safe_sqrt, unit
from jdistill.ops.precision import widen

_ALL_ANCHORS_UP_TO = 512  # 512^3 float32 angles are 0.5 GB for each network


def _huber(x: jax.Array, delta: float) -> jax.Array:
  size = jnp.abs(x)
  return jnp.where(size < delta, 0.5 * jnp.square(x), delta * (size - 0.5 * delta))


def _sides(name, student, teacher, delta, where, least):
  for side, x in (("student_embeddings", student), ("teacher_embeddings", teacher)):
    check_rank(name, side, x, 2)
  check_batches(name, student, teacher)
  student, teacher = widen(student), jax.lax.stop_gradient(widen(teacher))
  check_batch(name, student.shape[0], least)
  check_positive(name, delta=delta)
  valid = row_mask(name, where, student.shape[0])
  return keep(student, valid), keep(teacher, valid), valid


def _relative_distances(x: jax.Array, pairs: jax.Array, floor: float) -> jax.Array:
  squared = pairwise_sq_dists(x, x)
  squared = jnp.where(pairs, jnp.where(squared > floor, squared, floor), 0)
  distances = safe_sqrt(squared)
  mean = jnp.sum(distances) / jnp.maximum(jnp.sum(distances > 0), 1).astype(distances.dtype)
  return distances / jnp.where(mean > 0, mean, 1)


def rkd_distance_loss(
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  *,
  delta: float = 1.0,
  floor: float = 1e-12,
  where: jax.Array | None = None,
) -> jax.Array:
  """Relative distances between examples: `mean_j huber(||s_i - s_j|| / mu_s - ||t_i - t_j|| / mu_t)`.

  `mu` is the mean distance between different examples of the batch, for each network its own. Unchanged by moving,
  rotating and scaling the student's embeddings. **Coupled over the batch**: distances reach across examples, so under
  data parallelism compute it on the gathered batch or say that it is per device.

  Args:
    student_embeddings: `[B, features_s]`, pooled.
    teacher_embeddings: `[B, features_t]`, pooled, in the same order. No gradient.
    delta: where the Huber function turns from quadratic to linear; 1 in the paper.
    floor: squared distances below it are set to it and have no gradient, except between an example and itself.
      With 0, examples that coincide are left out of `mu`.
    where: `[B]`; excluded examples take part in no distance and get the loss 0.

  Returns:
    `[B]`, per anchor `i` the sum over `j` divided by the number of examples, itself included, so that the mean over
    examples is the mean over all `B * B` entries. Multiply by 25 for the usual weight.

  Raises:
    ValueError: if the embeddings are not matrices with equally many rows, there is only one example, `delta <= 0`,
      `floor < 0` or `where` is not `[B]`.

  Cost: `B^2 * features`, small.

  References:
    Park et al., "Relational Knowledge Distillation" (arXiv 1904.05068), eqs. 5-8 (numbers unverified). The paper sums
    over pairs; the mean over `B * B` entries is that of the implementations its published weights belong to.
  """
  name = "rkd_distance_loss"
  student, teacher, valid = _sides(name, student_embeddings, teacher_embeddings, delta, where, 2)
  check_at_least(name, 0, floor=floor)
  pairs = valid[:, None] & valid[None] & ~jnp.eye(valid.shape[0], dtype=bool)
  difference = _relative_distances(student, pairs, floor) - _relative_distances(teacher, pairs, floor)
  examples = jnp.maximum(jnp.sum(valid), 1).astype(difference.dtype)
  return jnp.sum(_huber(difference, delta), axis=1) / examples


def rkd_angle_loss(
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  *,
  delta: float = 1.0,
  chunk: int | None = None,
  where: jax.Array | None = None,
) -> jax.Array:
  """Angles in triangles of examples: `mean_jk huber(cos angle(s_j, s_i, s_k) - cos angle(t_j, t_i, t_k))`.

  The angle is the one at the anchor `i`, between unit vectors towards `j` and `k`. Unchanged by moving, rotating and
  scaling the student's embeddings. **Coupled over the batch.** A vector between coinciding examples is zero.

  Args:
    student_embeddings: `[B, features_s]`, pooled.
    teacher_embeddings: `[B, features_t]`, pooled, in the same order. No gradient.
    delta: where the Huber function turns from quadratic to linear; 1 in the paper.
    chunk: anchors worked on at once; the same numbers with `chunk * B^2` in memory and one more forward pass in the
      backward one. `None` is all, up to 512 examples.
    where: `[B]`; excluded examples take part in no angle and get the loss 0.

  Returns:
    `[B]`, per anchor the sum over `j, k` divided by the squared number of examples, so that the mean over examples is
    the mean over all `B^3` entries. Multiply by 50 for the usual weight.

  Raises:
    ValueError: if the embeddings are not matrices with equally many rows, there are fewer than three examples (all
      angles are then 0), more than 512 without `chunk`, `delta <= 0`, `chunk < 1` or `where` is not `[B]`.

  Cost: `B^3 * features` operations and `B^3` memory per network (64 examples: 1 MB, 512: 0.5 GB), or `chunk * B^2`.

  References:
    Park et al., "Relational Knowledge Distillation" (arXiv 1904.05068), eqs. 9-11 (numbers unverified).
  """
  name = "rkd_angle_loss"
  student, teacher, valid = _sides(name, student_embeddings, teacher_embeddings, delta, where, 3)
  size = valid.shape[0]
  if chunk is None and size > _ALL_ANCHORS_UP_TO:
    raise ValueError(f"{name}: {size}^3 angles at once need too much memory; pass chunk=16, say")
  if chunk is not None and chunk < 1:
    raise ValueError(f"{name}: chunk must be at least 1, got {chunk}")
  examples = jnp.maximum(jnp.sum(valid), 1).astype(student.dtype)

  def at_anchor(anchors):
    student_anchor, teacher_anchor, used = anchors
    towards_s = unit(student - student_anchor[None])  # [B, features]
    towards_t = unit(teacher - teacher_anchor[None])
    losses = _huber(gram(towards_s, towards_s) - gram(towards_t, towards_t), delta)  # [B, B]
    kept = valid[:, None] & valid[None] & used
    return jnp.sum(jnp.where(kept, losses, 0)) / jnp.square(examples)

  anchors = (student, teacher, valid)
  if chunk is None:
    return jax.vmap(at_anchor)(anchors)
  return jax.lax.map(jax.checkpoint(at_anchor), anchors, batch_size=min(chunk, size))
