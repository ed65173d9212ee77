"""Losses that carry the student's predictions to the teacher's at the least cost (entropic optimal transport)."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature, scaled, student_teacher
from jdistill.ops.checks import check_positive, check_rank, keep, row_mask
from jdistill.ops.logits import EXCLUDED, log_probs
from jdistill.ops.pairwise import pairwise_l1
from jdistill.ops.precision import widen

_MOST_CLASSES = 512  # the sample-wise plan is classes^2 for every example


def _check_solver(name, entropy_weight, num_iters):
  check_positive(name, entropy_weight=entropy_weight)
  if num_iters < 1:
    raise ValueError(f"{name}: num_iters must be at least 1, got {num_iters}")


def sinkhorn_plan(
  cost: jax.Array,
  *,
  entropy_weight: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  where_rows: jax.Array | None = None,
  where_columns: jax.Array | None = None,
) -> jax.Array:
  """A transport plan `P = diag(u) exp(-cost / w) diag(v)` by alternately scaling rows and columns.

  Approaches the plan of least `<P, cost> - w entropy(P)` in which every row holds the mass 1. Rows first, columns
  last: column sums are exact, row sums nearly so. All in logarithms, so that a small `w` does not underflow.

  Args:
    cost: `[n, m]`. Differentiable, through all iterations.
    entropy_weight: `w`, strength of the entropy in units of the cost, > 0. Small ones need more iterations.
    num_iters: pairs of scalings, at least 1.
    implicit: no gradient reaches the plan. `<P, cost>` then has the gradient `P`, which for a converged plan is that of
      the regularised cost (not of `<P, cost>`), and saves the backward pass through the iterations.
    where_rows: `[n]`; excluded rows hold no mass.
    where_columns: `[m]`; excluded columns hold no mass.

  Returns:
    `[n, m]`, non-negative, total mass `n`; each column holds `n / m` (counting what is not excluded), so 1 if square.

  Raises:
    ValueError: if `cost` is not a matrix, `entropy_weight <= 0`, `num_iters < 1`, or a mask has another shape.

  Cost: `2 * num_iters` log-sum-exps over the matrix; the backward pass repeats each, keeping `n + m` numbers of it.

  References:
    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport" (arXiv 1306.0895), alg. 1.
  """
  name = "sinkhorn_plan"
  check_rank(name, "cost", cost, 2)
  cost = widen(cost)
  _check_solver(name, entropy_weight, num_iters)
  rows, columns = row_mask(name, where_rows, cost.shape[0]), row_mask(name, where_columns, cost.shape[1])
  pairs = rows[:, None] & columns[None]
  cost = jax.lax.stop_gradient(cost) if implicit else cost
  log_kernel = jnp.where(pairs, -cost / entropy_weight, EXCLUDED)
  count_rows, count_columns = (jnp.maximum(jnp.sum(kept), 1).astype(cost.dtype) for kept in (rows, columns))
  log_mass = jnp.log(count_rows / count_columns)  # of a column

  def scale(potentials, _):
    v = potentials[1]
    u = jnp.where(rows, -jax.nn.logsumexp(log_kernel + v[None], axis=1), 0)
    v = jnp.where(columns, log_mass - jax.nn.logsumexp(log_kernel + u[:, None], axis=0), 0)
    return (u, v), None

  start = (jnp.zeros(cost.shape[0], cost.dtype), jnp.zeros(cost.shape[1], cost.dtype))
  (u, v), _ = jax.lax.scan(jax.checkpoint(scale, prevent_cse=False), start, length=num_iters)
  return jnp.where(pairs, jnp.exp(log_kernel + u[:, None] + v[None]), 0)


def sinkhorn_distance(
  cost: jax.Array,
  *,
  entropy_weight: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  where_rows: jax.Array | None = None,
  where_columns: jax.Array | None = None,
) -> jax.Array:
  """What the plan of `sinkhorn_plan` costs: `sum_ij P_ij cost_ij`. It grows with the number of rows.

  Args:
    cost: `[n, m]`. Differentiable.
    entropy_weight, num_iters, implicit, where_rows, where_columns: see `sinkhorn_plan`.

  Returns:
    A scalar in units of the cost. Not 0 for equal sides: the entropy blurs the plan.

  Raises:
    ValueError: as `sinkhorn_plan`.

  Cost: that of `sinkhorn_plan`.

  References:
    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport" (arXiv 1306.0895), eq. 2 (number
    unverified).
  """
  check_rank("sinkhorn_distance", "cost", cost, 2)
  plan = sinkhorn_plan(
    cost,
    entropy_weight=entropy_weight,
    num_iters=num_iters,
    implicit=implicit,
    where_rows=where_rows,
    where_columns=where_columns,
  )
  return jnp.sum(plan * jnp.where(plan > 0, widen(cost), 0))


def _sides(name, student_logits, teacher_logits, temperature, entropy_weight, num_iters, where):
  """Probabilities of both sides, and the mask of `[B]`."""
  check_temperature(name, temperature)
  check_rank(name, "student_logits", student_logits, 2)
  _check_solver(name, entropy_weight, num_iters)
  valid = row_mask(name, where, np.shape(student_logits)[0])
  student, teacher, _ = student_teacher(name, student_logits, teacher_logits, valid)
  return jnp.exp(log_probs(student, temperature)), jnp.exp(log_probs(teacher, temperature)), valid


def sinkd_batch_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 2.0,
  entropy_weight: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  per_example: bool = True,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """SinKD: transport the batch of the student's distributions to the teacher's, `T^2 sum_ij P_ij |s_i - t_j|_1 / B`.

  With `s, t = softmax(z / T)` and `P` the plan of `sinkhorn_plan` for these distances between all examples. Bounded,
  and its gradient in the probabilities does not vanish where student and teacher hardly overlap; in the logits it does
  where the student is sure. It does not ask which example is whose, so it cannot stand alone. **Coupled over the
  batch**: under data parallelism compute it on the gathered batch or say that it is per device. For sequences pass the
  valid tokens of `[B * L, vocabulary]`. Without the cross entropy and the KL term that the method adds.

  Args:
    student_logits: `[B, classes]`, not probabilities.
    teacher_logits: `[B, classes]`. No gradient.
    temperature: `T > 0`; 2.
    entropy_weight: see `sinkhorn_plan`; distances are in [0, 2].
    num_iters: see `sinkhorn_plan`.
    implicit: see `sinkhorn_plan`. The paper's gradients pass through the plan.
    per_example: divide by `B`, so that weights do not depend on it. `False` is the sum of the released code, whose
      weight 0.001 at `B = 16` is 0.016 here.
    scale_t2: multiply by `T^2`. The released code does not, so neither does the recipe `sinkd`.
    where: `[B]`; excluded examples take no part and do not count.

  Returns:
    A scalar in [0, 2 T^2] (times `B` if not `per_example`); 0 without any example.

  Raises:
    ValueError: if the logits are not matrices of one shape, `temperature <= 0`, `entropy_weight <= 0`,
      `num_iters < 1`, or `where` is not `[B]`.

  Warns:
    If `B = 1`: the plan is then the constant 1.

  Cost: `B^2 * classes` for the distances and `2 * num_iters * B^2` for the plan.

  References:
    Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110). For sequences the
    released code normalises over positions instead of the vocabulary; this does not.
  """
  name = "sinkd_batch_loss"
  student, teacher, valid = _sides(name, student_logits, teacher_logits, temperature, entropy_weight, num_iters, where)
  if student.shape[0] == 1:
    warnings.warn(f"{name}: a batch of one has only one plan; this is the L1 distance of two rows", stacklevel=2)
  cost = pairwise_l1(student, teacher)
  total = sinkhorn_distance(
    cost, entropy_weight=entropy_weight, num_iters=num_iters, implicit=implicit, where_rows=valid, where_columns=valid
  )
  if per_example:
    total = total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)
  return scaled(total, temperature, scale_t2)


def sinkd_sample_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 2.0,
  entropy_weight: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """SinKD's sample-wise ablation: per example, transport class entries: `T^2 sum_cd P_cd |s_c - t_d|`.

  Which class a probability belongs to enters only through its value: permuting the student's classes changes nothing.
  Defined after the paper's description; the released code has no such form (unverified).

  Args:
    student_logits: `[B, classes]`, not probabilities.
    teacher_logits: `[B, classes]`. No gradient.
    temperature: `T > 0`; 2.
    entropy_weight, num_iters, implicit: see `sinkhorn_plan`; costs are in [0, 1].
    scale_t2: multiply by `T^2`.
    where: `[B]`; the loss is 0 where it is false.

  Returns:
    `[B]` (times `T^2`), one value per example; not divided by the number of classes.

  Raises:
    ValueError: if the logits are not matrices of one shape, there are more than 512 classes, `temperature <= 0`,
      `entropy_weight <= 0`, `num_iters < 1`, or `where` is not `[B]`.

  Cost: `2 * num_iters * B * classes^2`, and `B * classes^2` memory.

  References:
    Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110), the ablation.
  """
  name = "sinkd_sample_loss"
  student, teacher, valid = _sides(name, student_logits, teacher_logits, temperature, entropy_weight, num_iters, where)
  classes = student.shape[1]
  if classes > _MOST_CLASSES:
    raise ValueError(f"{name}: {classes}^2 plan entries per example need too much memory; use sinkd_batch_loss")

  def of_example(s, t):
    cost = jnp.abs(s[:, None] - t[None])
    return sinkhorn_distance(cost, entropy_weight=entropy_weight, num_iters=num_iters, implicit=implicit)

  loss = keep(jax.vmap(of_example)(student, teacher), valid)
  return scaled(loss, temperature, scale_t2)
