"""What a network of noisy inputs predicts, and how one kind of prediction becomes another."""

import jax

from jdistill.diffusion.schedules import FLOW, VARIANCE_PRESERVING, Schedule, per_example
from jdistill.ops.precision import widen

PREDICTIONS = ("x0", "eps", "v", "flow", "score")
_NEEDS = {"v": VARIANCE_PRESERVING, "flow": FLOW}
_FORMULAS = {VARIANCE_PRESERVING: "alpha^2 + sigma^2 = 1", FLOW: "alpha + sigma = 1"}


def check_prediction(schedule: Schedule, kind: str) -> None:
  """Refuses a kind of prediction that is unknown, or not defined for a schedule.

  Raises:
    ValueError: the kind is unknown; `"v"` of a schedule that does not preserve the variance; `"flow"` of one that does
      not interpolate data and noise.
  """
  if kind not in PREDICTIONS:
    raise ValueError(f"prediction={kind!r}: unknown; choose one of {', '.join(PREDICTIONS)}")
  if _NEEDS.get(kind, schedule.kind) != schedule.kind:
    fits = [other for other in PREDICTIONS if _NEEDS.get(other, schedule.kind) == schedule.kind]
    raise ValueError(
      f"prediction={kind!r}: is defined for {_FORMULAS[_NEEDS[kind]]}, and schedule {schedule.name!r} has another; "
      f"choose one of {', '.join(fits)}"
    )


def convert_prediction(
  schedule: Schedule, prediction: jax.Array, x_t: jax.Array, t: jax.Array, source: str, target: str
) -> jax.Array:
  """One kind of prediction as another, at the same noisy inputs.

  With `x_t = alpha x_0 + sigma eps`:

      eps    (x_t - alpha x_0) / sigma           x_0 = (x_t - sigma eps) / alpha
      v      alpha eps - sigma x_0               x_0 = alpha x_t - sigma v
      flow   eps - x_0                           x_0 = x_t - sigma flow
      score  (alpha x_0 - x_t) / sigma^2         x_0 = (x_t + sigma^2 score) / alpha

  `v` is defined where `alpha^2 + sigma^2 = 1` (arXiv 2202.00512), `flow` where `alpha + sigma = 1`
  (arXiv 2209.03003). From `eps` to `x0` errors grow like `1 / alpha`, and the other way like `1 / sigma`: stay within
  the schedule's `t_min` and `t_max`.

  Args:
    schedule: the forward process.
    prediction: `[B, ...]` of kind `source`.
    x_t: `[B, ...]` the noisy inputs.
    t: `[B]` or a scalar.
    source, target: `"x0"`, `"eps"`, `"v"`, `"flow"` or `"score"`.

  Returns:
    `[B, ...]` of kind `target`, in float32 (float64 of such inputs).

  Raises:
    ValueError: see `check_prediction`.
  """
  check_prediction(schedule, source)
  check_prediction(schedule, target)
  prediction, x_t = widen(prediction), widen(x_t)
  if source == target:
    return prediction
  alpha, sigma = (per_example(of(t), x_t) for of in (schedule.alpha, schedule.sigma))
  if source == "x0":
    x0 = prediction
  elif source == "eps":
    x0 = (x_t - sigma * prediction) / alpha
  elif source == "v":
    x0 = alpha * x_t - sigma * prediction
  elif source == "flow":
    x0 = x_t - sigma * prediction
  else:
    x0 = (x_t + sigma**2 * prediction) / alpha
  if target == "x0":
    return x0
  if target == "score":
    return (alpha * x0 - x_t) / sigma**2
  # from the source itself where it is the noise: by way of x0, rounding would be amplified where alpha is small
  eps = prediction if source == "eps" else -sigma * prediction if source == "score" else (x_t - alpha * x0) / sigma
  return {"eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[target]
