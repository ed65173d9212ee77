"""Teacher hacking: a student that comes closer to its teacher while it moves away from the truth."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from jdistill.schema import Above, Count, Range, Share

_FEWEST = 5  # points of a fit; two of them are used up by the line


class PowerLaw(NamedTuple):
  """`value ~ exp(a) step^-b`, fitted by least squares of the logarithms.

  Attributes:
    a, b: of the line `a - b log step`.
    residual: `[E]` of all points, also of those that were not fitted: `log value - (a - b log step)`. Above 0 is worse
      than the line.
    deviation: the standard deviation of the residuals of the fitted points, with two degrees of freedom less.
  """

  a: float
  b: float
  residual: np.ndarray
  deviation: float


class Verdict(NamedTuple):
  """What curves tell.

  Attributes:
    hacking: whether the student hacks its teacher.
    step: where that begins; `None` where it does not.
  """

  hacking: bool
  step: int | None


def fit_power_law(steps: Sequence[float], values: Sequence[float], window: float | int) -> PowerLaw:
  """Fits a straight line to the early part of a curve in logarithms of both.

  Args:
    steps: `[E]`, rising and above 0.
    values: `[E]`, above 0.
    window: how many of the first points are fitted, at least 5; or below 1, the share of the whole range of `log step`
      that they cover.

  Raises:
    ValueError: fewer than 5 points in the window, or numbers whose logarithm does not exist.
  """
  steps, values = (np.asarray(one, np.float64) for one in (steps, values))
  if steps.ndim != 1 or steps.shape != values.shape:
    raise ValueError(f"fit_power_law: steps {steps.shape} and values {values.shape}; give [E] both")
  if steps.size and (not np.isfinite(steps).all() or steps.min() <= 0 or (np.diff(steps) <= 0).any()):
    raise ValueError("fit_power_law: steps must rise and be above 0; leave step 0 out")
  if not np.isfinite(values).all() or (values <= 0).any():
    place = int(np.argmin(np.where(np.isfinite(values), values, -np.inf)))
    raise ValueError(
      f"fit_power_law: {values[place]} at step {steps[place]:g} has no logarithm; values must be above 0"
    )
  x, y = np.log(steps), np.log(values)
  count = int(window) if window >= 1 else int(np.sum(x <= x[0] + window * (x[-1] - x[0]))) if x.size else 0
  if min(count, len(x)) < _FEWEST:
    raise ValueError(
      f"fit_power_law: {min(count, len(x))} of {len(x)} points in the window; a line needs {_FEWEST}: score more "
      "often, or widen the window"
    )
  slope, intercept = np.polyfit(x[:count], y[:count], 1)
  residual = y - (intercept + slope * x)
  return PowerLaw(
    float(intercept), float(-slope), residual, float(np.sqrt(np.sum(residual[:count] ** 2) / (count - 2)))
  )


def detect_bend(
  steps: Sequence[float],
  proxy: Sequence[float],
  *,
  window: float | int = 0.5,
  patience: Annotated[int, Range(1)] = 3,
  rel_tol: Annotated[float, Above(0)] = 0.1,
) -> Verdict:
  """Hacking without an oracle: the divergence to the teacher leaves its line upwards, and stays above it.

  Args:
    steps, proxy, window: see `fit_power_law`.
    patience: so many points in a row must lie above, up to the last one.
    rel_tol: by more than this share of the value on the line, and by more than three standard deviations of the fit.

  Raises:
    ValueError: see `fit_power_law`.
  """
  law = fit_power_law(steps, proxy, window)
  above = law.residual > max(np.log1p(rel_tol), 3 * law.deviation)
  last = int(np.argmin(above[::-1])) if not above.all() else len(above)
  if last < patience:
    return Verdict(False, None)
  return Verdict(True, int(np.asarray(steps)[len(above) - last]))


def detect_teacher_hacking(
  steps: Sequence[float],
  golden: Sequence[float],
  proxy: Sequence[float],
  *,
  patience: Count = 3,
  rel_tol: Share = 0.01,
) -> Verdict:
  """Hacking as an oracle shows it: the golden metric rises over an interval in which the proxy falls.

  Args:
    steps: `[E]`, rising.
    golden: `[E]`, the divergence of the oracle from the student.
    proxy: `[E]`, the divergence of the teacher from the student.
    patience: points that such an interval has at least, after its first.
    rel_tol: by which share the golden metric must rise, and the proxy fall, over the interval.

  Returns:
    `Verdict`; `step` is the lowest golden point of the first such interval.

  Raises:
    ValueError: curves of different lengths, or numbers that are not finite.
  """
  steps, golden, proxy = (np.asarray(one, np.float64) for one in (steps, golden, proxy))
  if steps.ndim != 1 or not steps.shape == golden.shape == proxy.shape:
    raise ValueError(
      f"detect_teacher_hacking: steps {steps.shape}, golden {golden.shape}, proxy {proxy.shape}; give [E] each"
    )
  if not np.isfinite(golden).all() or not np.isfinite(proxy).all():
    raise ValueError("detect_teacher_hacking: curves must be finite")
  for start in range(len(steps) - patience):
    later = np.arange(start + patience, len(steps))
    rises = golden[later] > golden[start] * (1 + rel_tol)
    falls = proxy[later] < proxy[start] * (1 - rel_tol)
    low = [golden[start : end + 1].min() >= golden[start] for end in later]
    if (rises & falls & low).any():
      return Verdict(True, int(steps[start]))
  return Verdict(False, None)
