"""Which piece of which expert a distillation step matches: the difficulty schedule of DATM as arithmetic, and how AST
balances and perturbs pieces."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import numpy as np

from jdistill.base import Segment, UserError
from jdistill.schema import Above, Count, NonNegative, Size, validated
from jdistill.synthetic import Feed, Materials

Intermediate = Literal["none", "equal", "adaptive"]


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
  intermediate: Intermediate = "none",
  balance: bool = False,
  balance_base: Annotated[float, Above(1)] = 5.0,
  balance_offset: Annotated[float, Above(1)] = 8.0,
  perturbation: NonNegative = 0.0,
) -> Feed:
  """The stream of `trajectory_method`: in every step a segment of an expert, by seed and step alone.

  Args:
    expert_epochs: how many epochs of an expert a segment spans.
    min_start_epoch: the lowest start.
    current_start_epoch: the upper bound of starts at step 0, from where it rises; `None` for a fixed range.
    max_start_epoch: the upper bound in the end; exclusive, as in the released code.
    schedule_steps: how many steps the bound takes to rise.
    intermediate: unless `"none"`, segments bring the expert's parameters after every epoch in between.
    balance: segments bring `balance_factor` of their start epoch as the factor of the inner loss.
    balance_base, balance_offset: of `balance_factor`.
    perturbation: alpha of `perturb_conv_weights`, which moves the start of every segment; 0 leaves it.

  Returns:
    The `Feed`; its `check` refuses a range that is empty at some step, or runs past the epochs of the teachers, and
    fewer inner steps than epochs in between to compare them with.
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
      epoch, expert = start_epoch(found.seed, step, *bounds(step)), expert_order(found.seed, step, found.teachers)
      start, target = found.segment(expert, epoch, expert_epochs)
      if perturbation:
        rng = np.random.default_rng((found.seed, 3, step))
        start = perturb_conv_weights(rng, start, found.shapes, perturbation)
      between, scale = (), ()
      if intermediate != "none":
        between = np.zeros((expert_epochs - 1, len(start)), np.float32)
        for after in range(1, expert_epochs):
          between[after - 1] = found.segment(expert, epoch, after)[1]
      if balance:
        scale = np.float32(balance_factor(epoch, max_start_epoch, base=balance_base, offset=balance_offset))
      return Segment(start, target, between, scale)

    return draw

  def example(found: Materials) -> Segment:
    vector = jax.ShapeDtypeStruct((found.parameters,), np.float32)
    between = jax.ShapeDtypeStruct((expert_epochs - 1, found.parameters), np.float32)
    scale = jax.ShapeDtypeStruct((), np.float32)
    return Segment(vector, vector, between if intermediate != "none" else (), scale if balance else ())

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any]) -> None:
    _check(min_start_epoch, current_start_epoch, max_start_epoch, expert_epochs, teacher_train["epochs"])
    steps = method.get("inner_steps", expert_epochs)
    if intermediate != "none" and steps < expert_epochs:
      raise UserError(
        f"method.inner_steps={steps}: fewer than method.expert_epochs={expert_epochs}, so there is no step to compare "
        "with every epoch in between; raise it, or set method.intermediate='none'"
      )

  return Feed(stream, example, check)


def balance_factor(epoch: int, max_start_epoch: int, *, base: float = 5.0, offset: float = 8.0) -> float:
  """A factor of the inner loss by start epoch, which grows with it ("balanced inner-loop loss").

      h = max_start_epoch // 2
      log_base(epoch - h + offset)        for epoch >= h
      1 / log_base(h - epoch + offset)    below

  At `h` it jumps from `1 / log_base(1 + offset)` to `log_base(offset)`, as in the released code.

  Args:
    epoch: the start epoch of a segment.
    max_start_epoch: the upper bound of start epochs in the end.
    base, offset: above 1.

  References:
    Shen et al. (AST, arXiv 2310.10541).
  """
  half = max_start_epoch // 2
  size = math.log(abs(epoch - half) + offset, base)
  return size if epoch >= half else 1 / size


def perturb_conv_weights(
  rng: np.random.Generator, theta: np.ndarray, shapes: tuple[tuple[int, ...], ...], alpha: float
) -> np.ndarray:
  """`W + alpha d W` for every kernel of a convolution, with `d` normal and of Frobenius norm 1 ("weight perturbation").

  Args:
    rng: draws `d`.
    theta: flat parameters `[P]`.
    shapes: of the parameters in `theta`, in their order; those with four axes are kernels, all others stay.
    alpha: how far.

  References:
    Shen et al. (AST, arXiv 2310.10541).
  """
  theta, begin = np.array(theta), 0
  for shape in shapes:
    end = begin + math.prod(shape)
    if len(shape) == 4:
      d = rng.standard_normal(end - begin)
      theta[begin:end] *= (1 + alpha * d / np.linalg.norm(d)).astype(theta.dtype)
    begin = end
  return theta


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
