"""Which piece of which expert a distillation step matches: the difficulty schedule of DATM as arithmetic."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jdistill.base import Segment, UserError
from jdistill.schema import Count, Size, validated


def segment_bounds(
  step: int, *, min_start_epoch: int, current_start_epoch: int | None, max_start_epoch: int, schedule_steps: int
) -> tuple[int, int]:
  """The half-open range of start epochs at an outer step.

  `upper = min(max, current + int((max - current) * step / schedule_steps))`; with `current_start_epoch=None` (no
  sequential generation) `upper = max`.

  Args:
    step: outer step, from 0.
    min_start_epoch: lowest start epoch.
    current_start_epoch: upper bound at step 0, or `None` for a fixed range.
    max_start_epoch: upper bound from `schedule_steps` on. Exclusive, as in the released code.
    schedule_steps: how many steps the bound takes to rise.

  Returns:
    `(lower, upper)`; start epochs are `lower <= t < upper`.

  References:
    Guo et al. (arXiv 2310.05773), sec. 3.3, "sequential generation".
  """
  if current_start_epoch is None:
    return min_start_epoch, max_start_epoch
  risen = current_start_epoch + int((max_start_epoch - current_start_epoch) * step / schedule_steps)
  return min_start_epoch, min(max_start_epoch, risen)


class SegmentPlan(NamedTuple):
  """Which segments of experts a run matches; see `segments`.

  Attributes:
    expert_epochs, min_start_epoch, current_start_epoch, max_start_epoch, schedule_steps: see `segments`.
  """

  expert_epochs: int
  min_start_epoch: int
  current_start_epoch: int | None
  max_start_epoch: int
  schedule_steps: int

  def check(self, method: Mapping[str, Any], teacher_train: Mapping[str, Any]) -> None:
    """Refuses a schedule that would be empty at some step, or run past the epochs of the teachers' training.

    Raises:
      UserError: either.
    """
    del method
    epochs = teacher_train["epochs"]
    lowest, last, span = self.min_start_epoch, self.max_start_epoch, self.expert_epochs
    first = last if self.current_start_epoch is None else self.current_start_epoch
    if lowest >= first:
      key = "max_start_epoch" if self.current_start_epoch is None else "current_start_epoch"
      raise UserError(f"method.min_start_epoch={lowest}: must be below method.{key}={first}, whose value is excluded")
    if first > last:
      raise UserError(f"method.current_start_epoch={first}: must not exceed method.max_start_epoch={last}")
    if last - 1 + span > epochs:
      raise UserError(
        f"method.max_start_epoch={last}: segments of {span} epochs from epoch {last - 1} run past the teachers' "
        f"{epochs} epochs; lower it to at most {epochs - span + 1} or raise teacher_train.epochs"
      )

  def stream(self, found) -> Callable[[int], Segment]:
    """`(step) -> Segment` on the host: which expert and which start epoch follow from seed and step.

    Args:
      found: `jdistill.synthetic.Materials`.
    """

    def draw(step: int) -> Segment:
      lower, upper = segment_bounds(
        step,
        min_start_epoch=self.min_start_epoch,
        current_start_epoch=self.current_start_epoch,
        max_start_epoch=self.max_start_epoch,
        schedule_steps=self.schedule_steps,
      )
      epoch = start_epoch(found.seed, step, lower, upper)
      return Segment(*found.segment(expert_order(found.seed, step, found.teachers), epoch, self.expert_epochs))

    return draw

  def example(self, found) -> Segment:
    """Shapes of a segment."""
    vector = jax.ShapeDtypeStruct((found.parameters,), np.float32)
    return Segment(vector, vector)


@validated("method")
def segments(
  *,
  expert_epochs: Count = 2,
  min_start_epoch: Size = 0,
  current_start_epoch: Size | None = None,
  max_start_epoch: Count = 20,
  schedule_steps: Count = 1000,
) -> SegmentPlan:
  """Which segments of experts a run matches: DATM's difficulty as arithmetic.

  Args:
    expert_epochs: how many epochs of an expert a segment spans.
    min_start_epoch: the lowest start.
    current_start_epoch: the upper bound of starts at step 0, from where it rises; `None` for a fixed range.
    max_start_epoch: the upper bound in the end; exclusive, as in the released code.
    schedule_steps: how many steps the bound takes to rise.
  """
  return SegmentPlan(expert_epochs, min_start_epoch, current_start_epoch, max_start_epoch, schedule_steps)


def expert_order(seed: int, step: int, experts: int) -> int:
  """The expert of an outer step: all experts once in random order, then again in another order.

  A function of the step alone, so that a resumed run goes on with the same ones.
  """
  round_, position = divmod(step, experts)
  return int(np.random.default_rng((seed, 0, round_)).permutation(experts)[position])


def start_epoch(seed: int, step: int, lower: int, upper: int) -> int:
  """A start epoch drawn uniformly from `lower <= t < upper`, a function of seed and step."""
  return int(np.random.default_rng((seed, 1, step)).integers(lower, upper))
