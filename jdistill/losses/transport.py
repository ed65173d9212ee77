"""Losses that carry the student's predictions to the teacher's at the least cost (entropic optimal transport)."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_logits, check_rank, check_temperature
from jdistill.losses.logit import log_probs
from jdistill.losses.pairwise import EXCLUDED, keep_rows, pairwise_l1, row_mask
from jdistill.ops.precision import widen

_MOST_CLASSES = 512  # the sample-wise plan is classes^2 for every example


def _check_solver(name, eps, num_iters):
  if not isinstance(eps, jax.core.Tracer) and not float(eps) > 0:
    raise ValueError(f"{name}: eps must be > 0, got {eps}")
  if num_iters < 1:
    raise ValueError(f"{name}: num_iters must be at least 1, got {num_iters}")


def sinkhorn_plan(
  cost: jax.Array,
  *,
  eps: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  where_rows: jax.Array | None = None,
  where_columns: jax.Array | None = None,
) -> jax.Array:
  """A transport plan `P = diag(u) exp(-cost / eps) diag(v)` by alternately scaling rows and columns.

  Approaches the plan of least `<P, cost> - eps * entropy(P)` in which every row holds the mass 1. Rows first, columns
  last: column sums are exact, row sums nearly so. All in logarithms, so that a small `eps` does not underflow.

  Args:
    cost: `[n, m]`. Differentiable, through all iterations.
    eps: strength of the entropy in units of the cost, > 0. Small ones need more iterations.
    num_iters: pairs of scalings, at least 1.
    implicit: no gradient reaches the plan. `<P, cost>` then has the gradient `P`, which for a converged plan is that of
      the regularised cost (not of `<P, cost>`), and saves the backward pass through the iterations.
    where_rows: `[n]`; excluded rows hold no mass.
    where_columns: `[m]`; excluded columns hold no mass.

  Returns:
    `[n, m]`, non-negative, total mass `n`; each column holds `n / m` (counting what is not excluded), so 1 if square.

  Raises:
    ValueError: if `cost` is not a matrix, `eps <= 0`, `num_iters < 1`, or a mask has another shape.

  Cost: `2 * num_iters` log-sum-exps over the matrix; the backward pass repeats each, keeping `n + m` numbers of it.

  References:
    Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport" (arXiv 1306.0895), alg. 1.
  """
  name = "sinkhorn_plan"
  check_rank(name, "cost", cost, 2)
  _check_solver(name, eps, num_iters)
  rows, columns = row_mask(name, where_rows, cost.shape[0]), row_mask(name, where_columns, cost.shape[1])
  pairs = rows[:, None] & columns[None]
  cost = widen(jax.lax.stop_gradient(cost) if implicit else cost)
  log_kernel = jnp.where(pairs, -cost / eps, EXCLUDED)
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
  eps: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  where_rows: jax.Array | None = None,
  where_columns: jax.Array | None = None,
) -> jax.Array:
  """What the plan of `sinkhorn_plan` costs: `sum_ij P_ij cost_ij`. It grows with the number of rows.

  Args:
    cost: `[n, m]`. Differentiable.
    eps, num_iters, implicit, where_rows, where_columns: see `sinkhorn_plan`.

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
    cost, eps=eps, num_iters=num_iters, implicit=implicit, where_rows=where_rows, where_columns=where_columns
  )
  return jnp.sum(plan * jnp.where(plan > 0, widen(cost), 0))


def _sides(name, student_logits, teacher_logits, temperature, eps, num_iters):
  check_temperature(name, temperature)
  check_rank(name, "student_logits", student_logits, 2)
  check_logits(name, student_logits, teacher_logits)
  _check_solver(name, eps, num_iters)
  for side, x in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
    if isinstance(x, jax.core.Tracer) or not x.size:
      continue
    values = np.asarray(x, np.float32)
    if (values >= 0).all() and (np.abs(values.sum(axis=-1) - 1) < 1e-3).all():
      raise ValueError(f"{name}: {side} look like probabilities (rows sum to 1); pass logits, or their logarithm")
  return student_logits, jax.lax.stop_gradient(teacher_logits)


def sinkd_batch_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 2.0,
  eps: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
  per_example: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """SinKD: transport the batch of the student's distributions to the teacher's, `sum_ij P_ij |s_i - t_j|_1 / B`.

  With `s, t = softmax(z / T)` and `P` the plan of `sinkhorn_plan` for these distances between all examples. Bounded,
  and its gradient in the probabilities does not vanish where student and teacher hardly overlap; in the logits it does
  where the student is sure. It does not ask which example is whose, so it cannot stand alone. **Coupled over the
  batch**: under data
  parallelism compute it on the gathered batch or say that it is per device. For sequences pass the valid tokens of
  `[B * L, vocabulary]`. Without the cross entropy and the KL term that the method adds.

  Args:
    student_logits: `[B, classes]`, not probabilities.
    teacher_logits: `[B, classes]`. No gradient.
    temperature: `T > 0`; 2.
    eps: see `sinkhorn_plan`; distances are in [0, 2].
    num_iters: see `sinkhorn_plan`.
    implicit: see `sinkhorn_plan`. The paper's gradients pass through the plan.
    per_example: divide by `B`, so that weights do not depend on it. `False` is the sum of the released code, whose
      weight 0.001 at `B = 16` is 0.016 here.
    where: `[B]`; excluded examples take no part and do not count.

  Returns:
    A scalar in [0, 2] (times `B` if not `per_example`).

  Raises:
    ValueError: if the logits are not matrices of one shape, are seen to be probabilities (only outside `jax.jit`),
      `temperature <= 0`, `eps <= 0`, `num_iters < 1`, or `where` is not `[B]`.

  Warns:
    If `B = 1`: the plan is then the constant 1.

  Cost: `B^2 * classes` for the distances and `2 * num_iters * B^2` for the plan.

  References:
    Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110). For sequences the
    released code normalises over positions instead of the vocabulary; this does not.
  """
  name = "sinkd_batch_loss"
  student, teacher = _sides(name, student_logits, teacher_logits, temperature, eps, num_iters)
  if student.shape[0] == 1:
    warnings.warn(f"{name}: a batch of one has only one plan; this is the L1 distance of two rows", stacklevel=2)
  valid = row_mask(name, where, student.shape[0])
  student, teacher = (jnp.exp(log_probs(keep_rows(x, valid), temperature)) for x in (student, teacher))
  cost = pairwise_l1(student, teacher)
  total = sinkhorn_distance(
    cost, eps=eps, num_iters=num_iters, implicit=implicit, where_rows=valid, where_columns=valid
  )
  return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype) if per_example else total


def sinkd_sample_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 2.0,
  eps: float = 0.1,
  num_iters: int = 20,
  implicit: bool = False,
) -> jax.Array:
  """SinKD's sample-wise ablation: per example, transport class entries: `sum_cd P_cd |s_c - t_d|`.

  Which class a probability belongs to enters only through its value: permuting the student's classes changes nothing.
  Defined after the paper's description; the released code has no such form (unverified).

  Args:
    student_logits: `[B, classes]`, not probabilities.
    teacher_logits: `[B, classes]`. No gradient.
    temperature: `T > 0`; 2.
    eps, num_iters, implicit: see `sinkhorn_plan`; costs are in [0, 1].

  Returns:
    `[B]`, one value per example; not divided by the number of classes.

  Raises:
    ValueError: if the logits are not matrices of one shape, are seen to be probabilities (only outside `jax.jit`),
      there are more than 512 classes, `temperature <= 0`, `eps <= 0`, or `num_iters < 1`.

  Cost: `2 * num_iters * B * classes^2`, and `B * classes^2` memory.

  References:
    Cui et al., "Sinkhorn Distance Minimization for Knowledge Distillation" (arXiv 2402.17110), the ablation.
  """
  name = "sinkd_sample_loss"
  student, teacher = _sides(name, student_logits, teacher_logits, temperature, eps, num_iters)
  classes = student.shape[1]
  if classes > _MOST_CLASSES:
    raise ValueError(f"{name}: {classes}^2 plan entries per example need too much memory; use sinkd_batch_loss")

  def of_example(s, t):
    return sinkhorn_distance(jnp.abs(s[:, None] - t[None]), eps=eps, num_iters=num_iters, implicit=implicit)

  return jax.vmap(of_example)(*(jnp.exp(log_probs(x, temperature)) for x in (student, teacher)))
