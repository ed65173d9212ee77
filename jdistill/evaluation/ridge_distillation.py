"""Why a teacher helps on pruned data, where everything is linear: ridge regression with a closed form."""

import numpy as np

from jdistill.base import UserError


def ridge_self_distill(x: np.ndarray, y: np.ndarray, kept: np.ndarray, *, alpha: float, ridge: float) -> np.ndarray:
  """A student's ridge regression on a part of the data, with a teacher's on all of it as a share of its targets.

      theta_T = (X'X + ridge I)^-1 X'y
      theta_S = (X_f'X_f + ridge I)^-1 X_f'((1 - alpha) y_f + alpha X_f theta_T)

  It is linear in `y`: with the identity as `y` it gives the matrix `A` of `theta_S = A y`, and so the expected error
  for `y = X theta + noise` of variance `s^2`, `|(A X - I) theta|^2 + s^2 |A|^2`.

  Args:
    x: `[n, d]`.
    y: `[n]` or `[n, outputs]`.
    kept: positions of the student's part.
    alpha: share of the teacher, in `[0, 1]`.
    ridge: of both, above 0.

  Returns:
    `theta_S`, `[d]` or `[d, outputs]`, float64.

  Raises:
    UserError: `alpha` or `ridge` outside its range, or nothing kept.

  References:
    Ben-Baruch et al., "Distilling the Knowledge in Data Pruning" (arXiv 2403.07854), the analysis of self-distillation.
  """
  if not 0 <= alpha <= 1:
    raise UserError(f"alpha={alpha}: must lie in [0, 1]")
  if not ridge > 0:
    raise UserError(f"ridge={ridge}: must be above 0")
  if not len(kept):
    raise UserError("kept: empty; keep at least one example")
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  own = x[kept]
  targets = (1 - alpha) * y[kept] + alpha * own @ _fitted(x, y, ridge)
  return _fitted(own, targets, ridge)


def _fitted(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
  return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
