"""Which piece of which expert a distillation step matches: the difficulty schedule of DATM as arithmetic."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jdistill.base import Segment, UserError
from jdistill.schema import Count, Size, validated
from jdistill.synthetic import Feed, Materials


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


@validated("method")
def segments(
  *,
  expert_epochs: Count = 2,
  min_start_epoch: Size = 0,
  current_start_epoch: Size | None = None,
  max_start_epoch: Count = 20,
  schedule_steps: Count = 1000,
) -> Feed:
  """The stream of `trajectory_method`: in every step a segment of an expert, by seed and step alone.

  Args:
    expert_epochs: how many epochs of an expert a segment spans.
    min_start_epoch: the lowest start.
    current_start_epoch: the upper bound of starts at step 0, from where it rises; `None` for a fixed range.
    max_start_epoch: the upper bound in the end; exclusive, as in the released code.
    schedule_steps: how many steps the bound takes to rise.

  Returns:
    The `Feed`; its `check` refuses a range that is empty at some step, or runs past the epochs of the teachers.
  """
  bounds = functools.partial(
    segment_bounds,
    min_start_epoch=min_start_epoch,
    current_start_epoch=current_start_epoch,
    max_start_epoch=max_start_epoch,
    schedule_steps=schedule_steps,
  )

  def stream(found: Materials) -> Callable[[int], Segment]:
    def draw(step: int) -> Segment:
      epoch = start_epoch(found.seed, step, *bounds(step))
      return Segment(*found.segment(expert_order(found.seed, step, found.teachers), epoch, expert_epochs))

    return draw

  def example(found: Materials) -> Segment:
    vector = jax.ShapeDtypeStruct((found.parameters,), np.float32)
    return Segment(vector, vector)

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any]) -> None:
    _check(min_start_epoch, current_start_epoch, max_start_epoch, expert_epochs, teacher_train["epochs"])

  return Feed(stream, example, check)


def _check(lowest: int, current: int | None, last: int, span: int, epochs: int) -> None:
  first = last if current is None else current
  if lowest >= first:
    key = "max_start_epoch" if current is None else "current_start_epoch"
    raise UserError(f"method.min_start_epoch={lowest}: must be below method.{key}={first}, whose value is excluded")
  if first > last:
    raise UserError(f"method.current_start_epoch={first}: must not exceed method.max_start_epoch={last}")
  if span > epochs:
    raise UserError(f"method.expert_epochs={span}: longer than teacher_train.epochs={epochs}; lower it or train longer")
  if last - 1 + span > epochs:
    raise UserError(
      f"method.max_start_epoch={last}: segments of {span} epochs from epoch {last - 1} run past the teachers' "
      f"{epochs} epochs; lower it to at most {epochs - span + 1} or raise teacher_train.epochs"
    )


def expert_order(seed: int, step: int, experts: int) -> int:
  """The expert of an outer step: all experts once in random order, then again in another order.

  A function of the step alone, so that a resumed run goes on with the same ones.
  """
  round_, position = divmod(step, experts)
  return int(np.random.default_rng((seed, 0, round_)).permutation(experts)[position])


def start_epoch(seed: int, step: int, lower: int, upper: int) -> int:
  """A start epoch drawn uniformly from `lower <= t < upper`, a function of seed and step."""
  return int(np.random.default_rng((seed, 1, step)).integers(lower, upper))
