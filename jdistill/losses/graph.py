"""Losses on graphs whose nodes are the tokens (patches) of a batch of feature maps."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature
from jdistill.losses.contrastive import info_nce
from jdistill.ops.checks import (
  check_batch,
  check_batches,
  check_positive,
  check_rank,
  check_same_shape,
  keep,
  leading_mask,
  row_mask,
)
from jdistill.ops.logits import EXCLUDED
from jdistill.ops.pairwise import gram, knn_mask, pairwise_sq_dists
from jdistill.ops.precision import widen


def _median_of_pairs(squared: jax.Array, valid: jax.Array) -> jax.Array:
  pairs = valid[:, None] & valid[None] & ~jnp.eye(valid.shape[0], dtype=bool)
  ordered = jnp.sort(jnp.where(pairs, squared, jnp.inf).reshape(-1))
  count = jnp.sum(pairs)
  middle = jnp.stack([ordered[jnp.maximum(count - 1, 0) // 2], ordered[count // 2]])
  median = jnp.mean(jnp.where(count > 0, middle, 0))
  return jnp.where(median > 0, median, 1)


def knn_affinity(
  tokens: jax.Array, *, k: int = 8, sigma: float | None = None, exact: bool = True, where: jax.Array | None = None
) -> jax.Array:
  """Edge weights of the nearest-neighbour graph: `A_ij = exp(-||x_i - x_j||^2 / (2 sigma))` on edges, 0 elsewhere.

  There is an edge where `i` is one of the `k` nearest to `j`; nodes are not neighbours of themselves. Which edges
  there are has no gradient, their weights do. Unchanged by moving and rotating the tokens, and with `sigma=None` by
  scaling them. **Coupled over the batch.**

  Args:
    tokens: `[n, features]`, see `jdistill.ops.sample_tokens`.
    k: neighbours, in `[1, n)`. The paper's value is unverified.
    sigma: kernel width in squared units of the tokens; `None` is the median squared distance between different
      tokens, without gradient. (A fixed one saturates the kernel unless tokens are normalised. The paper's choice is
      unverified.)
    exact: see `pairwise_sq_dists`; `False` pays from about a thousand wide tokens on.
    where: `[n]`; excluded nodes have no edges.

  Returns:
    `[n, n]` in [0, 1], zero diagonal.

  Raises:
    ValueError: if `tokens` is not a matrix, `k` is outside `[1, n)`, `sigma <= 0` or `where` is not `[n]`.

  Cost: `n^2 * features`, and with `sigma=None` a sort of `n^2` numbers. 1024 nodes are fine, 25,000 are not.

  References:
    "Knowledge Distillation via Token-level Relationship Graph" (arXiv 2306.12442), from a summary of the paper: its
    equations and settings are unverified here.
  """
  check_rank("knn_affinity", "tokens", tokens, 2)
  if sigma is not None:
    check_positive("knn_affinity", sigma=sigma)
  valid = row_mask("knn_affinity", where, np.shape(tokens)[0])
  x = keep(widen(tokens), valid)
  squared = pairwise_sq_dists(x, x, exact=exact)
  edges = knn_mask(squared, k, where=where).T
  width = _median_of_pairs(jax.lax.stop_gradient(squared), valid) if sigma is None else sigma
  return jnp.where(edges, jnp.exp(-squared / (2 * width)), 0)


def local_preserving_loss(
  student_affinity: jax.Array,
  teacher_affinity: jax.Array,
  *,
  direction: str = "student_teacher",
  where: jax.Array | None = None,
) -> jax.Array:
  """TRG's local term: `KL(softmax_j A^S_ij || softmax_j A^T_ij)` of each node's row of edge weights.

  The softmax runs over all nodes, zeros included. **Coupled over the batch.**

  Args:
    student_affinity: `[n, n]`, from `knn_affinity`.
    teacher_affinity: `[n, n]`. No gradient.
    direction: `"student_teacher"` as written, student first (unverified), or `"teacher_student"`,
      `KL(teacher || student)`.
    where: `[n]`; excluded nodes are in no softmax and get the loss 0.

  Returns:
    `[n]` in nats. The paper sums over nodes; take the mean, or the loss grows with the batch.

  Raises:
    ValueError: if the affinities are not square matrices of one shape with at least two nodes, `direction` is neither
      of the two, or `where` is not `[n]`.

  Cost: `n^2`.

  References:
    "Knowledge Distillation via Token-level Relationship Graph" (arXiv 2306.12442), from a summary of the paper: its
    equations and settings are unverified here.
  """
  name = "local_preserving_loss"
  check_rank(name, "student_affinity", student_affinity, 2)
  check_same_shape(name, student_affinity=student_affinity, teacher_affinity=teacher_affinity)
  size, width = np.shape(student_affinity)
  if width != size:
    raise ValueError(f"{name}: affinities must be square, got {(size, width)}")
  check_batch(name, size, 2)
  if direction not in ("student_teacher", "teacher_student"):
    raise ValueError(f"{name}: direction must be 'student_teacher' or 'teacher_student', got {direction!r}")
  valid = row_mask(name, where, size)
  pairs = valid[:, None] & valid[None]

  def log_rows(affinity):
    return jax.nn.log_softmax(jnp.where(pairs, widen(affinity), EXCLUDED), axis=1)

  first, second = log_rows(student_affinity), log_rows(jax.lax.stop_gradient(widen(teacher_affinity)))
  if direction == "teacher_student":
    first, second = second, first
  return jnp.where(valid, jnp.sum(jnp.where(pairs, jnp.exp(first) * (first - second), 0), axis=1), 0)


def token_info_nce(
  student_tokens: jax.Array,
  teacher_tokens: jax.Array,
  *,
  temperature: float,
  where: jax.Array | None = None,
) -> jax.Array:
  """TRG's global term: every student token picks its own teacher token among all, `info_nce(student, sg(teacher))`.

  `-log(exp(cos(s_i, t_i) / temperature) / sum_j exp(cos(s_i, t_j) / temperature))`. **Coupled over the batch.** With
  the tokens of one image only, all negatives come from that image.

  Args:
    student_tokens: `[n, features]`, projected to the teacher's width where it differs.
    teacher_tokens: `[n, features]`, same positions. No gradient.
    temperature: > 0; falls during training in the paper (shape and range unverified; 0.5 to 0.1 is a start).
    where: `[n]`; excluded tokens are nobody's negatives and get the loss 0.

  Returns:
    `[n]` in nats.

  Raises:
    ValueError: if the tokens are not matrices of one shape with at least two rows, `temperature <= 0`, or `where` is
      not `[n]`.

  Cost: `n^2 * features` on matrix units.

  References:
    "Knowledge Distillation via Token-level Relationship Graph" (arXiv 2306.12442), from a summary of the paper: its
    equations and settings are unverified here.
  """
  check_rank("token_info_nce", "student_tokens", student_tokens, 2)
  check_same_shape("token_info_nce", student_tokens=student_tokens, teacher_tokens=teacher_tokens)
  check_batch("token_info_nce", np.shape(student_tokens)[0], 2)
  check_temperature("token_info_nce", temperature)
  teacher_tokens = jax.lax.stop_gradient(widen(teacher_tokens))
  return info_nce(student_tokens, teacher_tokens, temperature=temperature, where=where)


def contextual_similarity_loss(
  student_tokens: jax.Array, teacher_tokens: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """TRG's inner term: the mean squared difference of the two networks' attention among the tokens of an image.

  `mean_pq (CS(F_s) - CS(F_t))^2_pq` with `CS(F) = softmax(F F^T / sqrt(d))`, rows over the image's own tokens.
  Unchanged by rotating the student's tokens.

  Args:
    student_tokens: `[B, P, features_s]`, all tokens of each image.
    teacher_tokens: `[B, P, features_t]`. No gradient.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]`, mean over `P * P` entries.

  Raises:
    ValueError: if the tokens are not of rank 3, differ in `B` or `P`, or there is only one token.

  Cost: `B * P^2 * features`.

  References:
    "Knowledge Distillation via Token-level Relationship Graph" (arXiv 2306.12442), from a summary of the paper: its
    equations and settings are unverified here.
  """
  name = "contextual_similarity_loss"
  check_rank(name, "student_tokens", student_tokens, 3)
  check_rank(name, "teacher_tokens", teacher_tokens, 3)
  check_batches(name, student_tokens, teacher_tokens)
  mask = leading_mask(name, where, np.shape(student_tokens)[:1])
  student, teacher = keep(widen(student_tokens), mask), keep(jax.lax.stop_gradient(widen(teacher_tokens)), mask)
  if student.shape[1] != teacher.shape[1] or student.shape[1] < 2:
    raise ValueError(
      f"{name}: student {student.shape} and teacher {teacher.shape} must have the same number of tokens, at least two"
    )

  def similarities(x):
    return jax.nn.softmax(gram(x, x) / x.shape[-1] ** 0.5, axis=-1)

  return jnp.mean(jnp.square(similarities(student) - similarities(teacher)), axis=(1, 2))
