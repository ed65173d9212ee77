"""A run that learns nothing says so within its first minute."""

import time
from collections.abc import Callable, Mapping, Sequence

from jdistill.base import UserError
from jdistill.runs.run import Run
from jdistill.training import distributed

_LEAST, _ROWS, _SECONDS = 3, 10, 20.0  # metrics that are looked at: the least, and enough, or those of so long


def watch(run: Run, stuck: Callable[[Sequence[Mapping[str, float]]], str]) -> Callable[[Mapping[str, float]], None]:
  """Looks once at the first metrics, and stops a run that learns nothing.

  Args:
    run: with `stop_if_stuck`; otherwise it goes on, and says so.
    stuck: of the method.

  Returns:
    What is called with the metrics.

  Raises:
    UserError: why it learns nothing.
  """
  rows, seen, begin = [], [], time.monotonic()

  def look(metrics: Mapping[str, float]) -> None:
    rows.append(metrics)
    # several processes must decide alike, whatever their clocks say
    late = distributed.count() == 1 and time.monotonic() - begin >= _SECONDS
    if seen or len(rows) < _LEAST or not (late or len(rows) >= _ROWS):
      return
    seen.append(True)
    why = stuck(rows)
    if why and run.config["stop_if_stuck"]:
      raise UserError(f"distill: nothing is learned. {why} (--config.stop_if_stuck=False goes on all the same)")
    if why:
      run.log(f"distill: nothing is learned. {why}")

  return look
