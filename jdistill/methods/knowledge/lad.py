"""Distillation of segmentation: CWD, and LAD, whose teacher sees a noised label map beside the image."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import losses, ops
from jdistill.base import Batch, Key
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term
from jdistill.schema import NonNegative, Positive, Traced, validated

_SIGMA = {"teacher": 0.03, "student": 0.02}
_CODES = {"teacher": "random", "student": "fixed"}


@validated("method")
def cwd(
  *,
  temperature: Annotated[Positive, Traced] = 4.0,
  cwd_weight: Annotated[NonNegative, Traced] = 3.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
) -> Recipe:
  """`CE + cwd_weight CWD(teacher, student)` on the logits of every pixel (arXiv 2011.13256), without any labels in.

  CWD is `T^2 KL` between softmaxes over the places of a channel; mean over images and channels, sum over places.

  Args:
    temperature: of both softmaxes over places.
    cwd_weight: 3 in the paper, for logits.
    ce_weight: of the labels.
  """
  return Recipe({"ce": cross_entropy_term(ce_weight), "cwd": _cwd_term(cwd_weight, temperature)})


@validated("method")
def lad(
  *,
  role: Literal["student", "teacher"] = "student",
  codes: Literal["random", "fixed"] | None = None,
  sigma: Positive | None = None,
  scale: Annotated[NonNegative, Traced] = 1.5,
  temperature: Annotated[Positive, Traced] = 4.0,
  cwd_weight: Annotated[NonNegative, Traced] = 3.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  consistency: Annotated[NonNegative, Traced] = 5.0,
) -> Recipe:
  """LAD: a teacher that sees a noised label map in an extra input channel, and its ordinary student (arXiv 2407.13254).

  The task `segmentation` leaves the last input channel zero. As a teacher the network gets two independent codings
  of the same batch there (`ops.encode_noised_labels`) and descends, with `sg` for a stopped gradient,

      ce_weight (CE(o1) + CE(o2)) + consistency (CWD(sg o2, o1) + CWD(sg o1, o2)).

  Both go through the network as one batch of twice the size, so batch norm sees them together; the authors' code runs
  it twice. As a student it sees zeros and descends `ce_weight CE + cwd_weight CWD(teacher, student)`, where the
  teacher sees a coding. Only the student is an honest segmentation network. The auxiliary head of the paper's networks
  has no counterpart here, and its cross entropies (0.4 and 0.02) are left out. The authors start students from ones
  trained on labels; `config.start_method` does that.

  Args:
    role: `"teacher"` or `"student"`.
    codes: `"random"` draws a number per image and class on every call; `"fixed"` has the same ones always. By default
      random for the teacher and fixed for the student, as in the authors' code; whether the paper's table has that is
      not known. A teacher that trains with fixed codes can copy the answer.
    sigma: deviation of the noise per pixel, before scaling; by default 0.03 for the teacher and 0.02 for the student.
    scale: of the channel, in units of the normalised images. The paper has 100 for pixels in +-128; those have a
      deviation of about 64, so that 1.5 is the same for images of unit deviation.
    temperature: of CWD.
    cwd_weight: the student's.
    ce_weight: of the labels.
    consistency: the teacher's weight of agreement between its two codings; 0 leaves it out.
  """
  codes, sigma = codes or _CODES[role], _SIGMA[role] if sigma is None else sigma

  def shown(key: Key, batch: Batch) -> jax.Array:
    return with_labels(key, batch, codes=codes, sigma=sigma, scale=scale)

  def both(key: Key, batch: Batch) -> tuple[jax.Array, jax.Array]:
    x = jnp.concatenate([shown(own, batch) for own in jax.random.split(key)])
    return x, x

  def cross_entropy(step: StepOutputs) -> jax.Array:
    first, second = jnp.split(step.student.logits, 2)
    return sum(losses.segmentation_cross_entropy(o, step.y, where=step.where) for o in (first, second))

  def agreement(step: StepOutputs) -> jax.Array:
    first, second = jnp.split(step.student.logits, 2)
    return _cwd(first, second, temperature) + _cwd(second, first, temperature)

  if role == "teacher":
    terms = {"ce": Term(cross_entropy, ce_weight), "consistency": Term(agreement, consistency)}
    return Recipe(terms, augmented_inputs=both, needs=("labels",))
  terms = {"ce": cross_entropy_term(ce_weight), "cwd": _cwd_term(cwd_weight, temperature)}
  return Recipe(terms, augmented_inputs=lambda key, batch: (batch.x, shown(key, batch)), needs=("teacher", "labels"))


def with_labels(key: Key, batch: Batch, *, codes: str, sigma: float, scale: float) -> jax.Array:
  """The inputs of a batch with a coding of its label maps in the last channel, `[B, H, W, channels + 1]`.

  Raises:
    ValueError: the batch is not one of the task `segmentation`.
  """
  if batch.y.ndim != 3 or "present" not in batch.extra:
    raise ValueError("lad: examples have no label maps; set task.name='segmentation'")
  num_classes = batch.extra["present"].shape[-1]
  table = ops.fixed_codes(num_classes) if codes == "fixed" else None
  channel = ops.encode_noised_labels(key, batch.y, num_classes, sigma=sigma, scale=scale, codes=table)
  return jnp.concatenate([batch.x[..., :-1], channel.astype(batch.x.dtype)], axis=-1)


def _cwd_term(weight: float, temperature: float) -> Term:
  return Term(lambda step: _cwd(step.student.logits, step.teacher.logits, temperature), weight)


def _cwd(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
  """`[B]`, the mean over channels."""
  return jnp.mean(losses.channel_wise_kl(student, teacher, temperature=temperature), axis=-1)
