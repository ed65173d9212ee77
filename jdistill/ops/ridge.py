"""Kernel ridge regression by Cholesky, differentiable in the kernels and the labels."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from jdistill.ops.checks import check_rank
from jdistill.ops.precision import widen

RULES = ("absolute", "trace_mean", "trace")


def krr_predict(
  k_ts: jax.Array,
  k_ss: jax.Array,
  y: jax.Array,
  ridge: float | jax.Array,
  *,
  rule: str = "absolute",
  detach: bool = False,
) -> jax.Array:
  """Predictions of kernel ridge regression, `K_ts (K_ss + lambda I)^-1 y`.

  Args:
    k_ts: `[b, m]`, kernel between targets and the set.
    k_ss: `[m, m]`, kernel of the set with itself, symmetric.
    y: `[m, k]`, labels of the set.
    ridge, rule, detach: the regularisation, as for `krr_solve`.

  Returns:
    `[b, k]`, float32 (float64 for float64). Not finite where the Cholesky factorisation fails; see `krr_solve`.

  Raises:
    ValueError: shapes that do not fit, an unknown rule, a ridge that is not positive.
  """
  check_rank("krr_predict", "k_ts", k_ts, 2)
  k_ts, solved = widen(k_ts), krr_solve(k_ss, y, ridge, rule=rule, detach=detach)
  if k_ts.shape[1] != solved.shape[0]:
    raise ValueError(f"krr_predict: k_ts {k_ts.shape} must have one column for each of {solved.shape[0]} labels")
  return jnp.matmul(k_ts, solved, precision=jax.lax.Precision.HIGHEST)


def krr_solve(
  k_ss: jax.Array, y: jax.Array, ridge: float | jax.Array, *, rule: str = "absolute", detach: bool = False
) -> jax.Array:
  """`(K_ss + lambda I)^-1 y`, the dual coefficients of kernel ridge regression.

  Args:
    k_ss: `[m, m]`, symmetric and positive semi-definite.
    y: `[m, k]`.
    ridge: a positive number.
    rule: what `lambda` is: `"absolute"`, `ridge` itself; `"trace_mean"`, `ridge tr(K_ss) / m`; `"trace"`,
      `ridge tr(K_ss)`.
    detach: whether `lambda` is a constant for the gradient; of no effect under `"absolute"`.

  Returns:
    `[m, k]`, float32 (float64 for float64). Not finite where rounding makes the regularised kernel indefinite: float32
    wants `lambda` above about `1e-7` times the largest eigenvalue where `m` exceeds the rank of the kernel.

  Raises:
    ValueError: shapes that do not fit, an unknown rule, a ridge that is not positive.
  """
  regular = regularised(k_ss, ridge, rule=rule, detach=detach)
  check_rank("krr_solve", "y", y, 2)
  if y.shape[0] != regular.shape[0]:
    raise ValueError(f"krr_solve: labels {y.shape} must have one row for each of {regular.shape[0]} rows of the kernel")
  return cho_solve(cho_factor(regular, lower=True), widen(y).astype(regular.dtype))


def regularised(
  k_ss: jax.Array, ridge: float | jax.Array, *, rule: str = "absolute", detach: bool = False
) -> jax.Array:
  """`K_ss + lambda I`; arguments, result and errors are those of `krr_solve`."""
  check_rank("krr_solve", "k_ss", k_ss, 2)
  k_ss = widen(k_ss)
  size = k_ss.shape[0]
  if k_ss.shape[1] != size or not size:
    raise ValueError(f"krr_solve: the set's kernel must be square, got {k_ss.shape}")
  if rule not in RULES:
    raise ValueError(f"krr_solve: rule={rule!r} is unknown; choose one of {', '.join(RULES)}")
  if isinstance(ridge, int | float) and not ridge > 0:
    raise ValueError(f"krr_solve: ridge={ridge} must be positive; without it equal images make the kernel singular")
  scale = jnp.asarray(ridge, k_ss.dtype)
  if rule != "absolute":
    trace = jnp.trace(k_ss)
    scale = scale * (jax.lax.stop_gradient(trace) if detach else trace) / (size if rule == "trace_mean" else 1)
  return k_ss + scale * jnp.eye(size, dtype=k_ss.dtype)
