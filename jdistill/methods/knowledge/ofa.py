"""OFA-KD: every stage of the student gets an exit, and all exits learn from the teacher's final logits."""

from collections.abc import Sequence
from typing import Annotated, Literal

import jax

from jdistill import losses
from jdistill.base import UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term
from jdistill.models.connectors import stage_exit
from jdistill.schema import Count, NonNegative, Positive, Share, Traced, validated


@validated("method")
def ofa(
  *,
  exponent: tuple[Positive, ...] = (1.0,),
  temperature: Annotated[Positive, Traced] = 1.0,
  scale_t2: bool = False,
  ce_weight: NonNegative = 1.0,
  kd_weight: NonNegative = 1.0,
  exit_weight: Annotated[NonNegative, Traced] = 1.0,
  stages: str = "1,2,3,4",
  targets: Literal["teacher", "labels"] = "teacher",
  label_smoothing: Share = 0.0,
  width: Count | None = None,
  heads: Count = 4,
  grid: Count = 7,
) -> Recipe:
  """`CE + L(z_s; c_last) + sum_k L(h_k; c_k)` with `L` of `losses.ofa_loss` and exits `h_k` (arXiv 2310.19444).

  Exits are trained with the student and thrown away. Only the teacher's final logits are needed, so teacher and student
  may be of any kind, and stored targets will do.

  Args:
    exponent: `c` of the targets: one value, or one for each stage and then one for the final logits. 1 is the cross
      entropy with the teacher; 1.0 to 1.5 in the paper.
    temperature: 1 in the paper.
    scale_t2: multiply what is compared with the teacher by `T^2`; not in the paper, whose `T` is 1.
    ce_weight, kd_weight, exit_weight: of the labels, of the teacher on the final logits, and of every exit.
    stages: which stages get exits: quarters of the network, or names of taps, separated by commas.
    targets: `"teacher"`, the method; with `"labels"` exits learn the labels instead (deep supervision, a control).
    label_smoothing: of the cross entropy with the labels; 0.1 for the paper's convolutional students.
    width, heads, grid: see `jdistill.models.connectors.stage_exit`.

  Raises:
    UserError: neither one exponent nor one per stage and one more, one that is not positive, or no stages.
  """
  words = stages.replace(",", " ").split()
  if not words or len(set(words)) != len(words):
    raise UserError(f"method.stages={stages!r}: name every stage once, such as '1,2,3,4'")
  exponents = _exponents(exponent, len(words))

  def against_teacher(logits: jax.Array, step: StepOutputs, exponent: float) -> jax.Array:
    options = {"exponent": exponent, "temperature": temperature, "scale_t2": scale_t2}
    return losses.ofa_loss(logits, step.teacher.logits, step.y, **options)

  def at_exit(step: StepOutputs, name: str, exponent: float) -> jax.Array:
    if targets == "labels":
      return losses.cross_entropy(step.connectors[name], step.y)
    return against_teacher(step.connectors[name], step, exponent)

  connectors = {f"exit{word}": stage_exit(word, width=width, heads=heads, grid=grid) for word in words}
  of_exit = dict(zip(connectors, exponents, strict=False))  # the last one is that of the final logits
  terms = {"exits": Term(lambda step: sum(at_exit(step, *one) for one in of_exit.items()), exit_weight)}
  if ce_weight:
    terms["ce"] = cross_entropy_term(ce_weight, label_smoothing=label_smoothing)
  if kd_weight:
    terms["kd"] = Term(lambda step: against_teacher(step.student.logits, step, exponents[-1]), kd_weight)
  return Recipe(terms, connectors=connectors)


def _exponents(exponent: Sequence[float | str], stages: int) -> list[float]:
  """One exponent for each stage and one for the final logits."""
  values = [float(value) for value in exponent]
  values = values * (stages + 1) if len(values) == 1 else values
  if len(values) != stages + 1:
    raise UserError(
      f"method.exponent={tuple(values)}: give one value, or {stages + 1}: one for each of {stages} stages and then one "
      "for the final logits"
    )
  return values
