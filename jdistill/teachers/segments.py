"""Which piece of which expert a distillation step matches: the difficulty schedule of DATM as arithmetic."""

import numpy as np

from jdistill.base import UserError


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


def check_bounds(
  *,
  min_start_epoch: int,
  current_start_epoch: int | None,
  max_start_epoch: int,
  schedule_steps: int,
  expert_epochs: int,
  epochs: int,
) -> None:
  """Raises a `UserError` for a schedule that would be empty at some step or run past the end of the experts."""
  if expert_epochs < 1:
    raise UserError(f"method.expert_epochs={expert_epochs}: a segment needs at least one epoch")
  if min_start_epoch < 0:
    raise UserError(f"method.min_start_epoch={min_start_epoch}: must be at least 0")
  first = max_start_epoch if current_start_epoch is None else current_start_epoch
  if min_start_epoch >= first:
    key = "max_start_epoch" if current_start_epoch is None else "current_start_epoch"
    raise UserError(
      f"method.min_start_epoch={min_start_epoch}: must be below method.{key}={first}, whose value is excluded"
    )
  if first > max_start_epoch:
    raise UserError(f"method.current_start_epoch={first}: must not exceed method.max_start_epoch={max_start_epoch}")
  if current_start_epoch is not None and schedule_steps < 1:
    raise UserError(f"method.schedule_steps={schedule_steps}: must be at least 1")
  if max_start_epoch - 1 + expert_epochs > epochs:
    raise UserError(
      f"method.max_start_epoch={max_start_epoch}: segments of {expert_epochs} epochs from epoch {max_start_epoch - 1} "
      f"run past the experts' {epochs} epochs; lower it to at most {epochs - expert_epochs + 1} or raise experts.epochs"
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
