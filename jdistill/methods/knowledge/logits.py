"""Recipes that compare logits: cross entropy, KD, DKD, DIST, PLD, SinKD."""

import functools
from typing import Annotated, Literal

import jax

from jdistill import losses
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term, kd_term, warmup
from jdistill.schema import NonNegative, Positive, Share, Traced, validated


@validated("method")
def ce(*, label_smoothing: Share = 0.0) -> Recipe:
  """Plain training on labels; the control of every comparison, and how teachers are trained.

  Args:
    label_smoothing: share of the target that is spread over all classes.
  """
  return Recipe({"ce": cross_entropy_term(label_smoothing=label_smoothing)}, needs=("labels",))


@validated("method")
def kd(
  *,
  temperature: Annotated[Positive, Traced] = 4.0,
  ce_weight: Annotated[NonNegative, Traced] = 0.1,
  kd_weight: Annotated[NonNegative, Traced] = 0.9,
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 KL(teacher || student)` (arXiv 1503.02531).

  Args:
    temperature: of both softmaxes.
    ce_weight, kd_weight: 0.1 and 0.9 are the convention on CIFAR.
  """
  return Recipe({"ce": cross_entropy_term(ce_weight), "kd": kd_term(kd_weight, temperature)})


@validated("method")
def kd_pruning(
  *,
  temperature: Annotated[Positive, Traced] = 4.0,
  alpha: Annotated[Share, Traced] = 0.5,
) -> Recipe:
  """`(1 - alpha) CE + alpha T^2 KL(teacher || student)`, on the examples that a selection left (arXiv 2403.07854).

  The best `alpha` grows as fewer examples are kept, and with the share of wrong labels among them: 1 uses no labels.
  The subset is the data policy's (`data_policy.name="selected"` or `"static_subset"`); teachers have all examples.

  Args:
    temperature: of both softmaxes; the paper's is not verified.
    alpha: share of the teacher, in `[0, 1]`; 0.9 to 1 for a tenth of the data, about 0.5 for nearly all.
  """
  return Recipe({"ce": cross_entropy_term(1 - alpha), "kd": kd_term(alpha, temperature)})


@functools.lru_cache(maxsize=32)
def stored_labels(
  temperature: float, passes: int = 1, *, loss: Literal["kl", "mse"] = "kl", ce_weight: float = 0.0
) -> Recipe:
  """What students lose on the targets of augmented batches, and optionally on the classes.

      KL(t || s) at temperature T     without the factor T^2: SRe2L's and FKD's students
      mean_c (z_c - t_c)^2            of logits: HeLlO's students, and its projector (arXiv 2408.08201)

  each plus `ce_weight` times the cross entropy of `mixed_labels`.

  Args:
    temperature: of both softmaxes, for `"kl"`.
    passes: into how many equal parts the student's batch norm divides a batch, as CV-DD's teachers do.
    loss: `"kl"` or `"mse"`.
    ce_weight: of the classes, for which targets must have `pasted` and `share` among their taps
      (`jdistill.teachers.labelled`); 0 leaves them out.

  Returns:
    A `Recipe`; the same object for equal arguments.
  """
  terms = {"kd": kd_term(1 / temperature**2, temperature)} if loss == "kl" else {"mse": Term(_logit_mse)}
  return Recipe(terms | ({"ce": Term(_of_both_images, ce_weight)} if ce_weight else {}), passes=passes)


def _logit_mse(step: StepOutputs):
  """`mean_c (z_c - t_c)^2`."""
  return losses.hint_loss(step.student.logits, step.teacher.logits)


def _of_mixing(step: StepOutputs, name: str) -> jax.Array:
  """What targets know of an image's partner."""
  if name not in step.teacher.taps:
    raise ValueError(
      f"targets: do not say what was mixed into an image ({name!r} is missing), which mixed labels and two distances "
      "cannot do without; record them again with relabel.store='one_hot' or 'dbr'"
    )
  return step.teacher.taps[name]


def _of_both_images(step: StepOutputs):
  share, pasted = (_of_mixing(step, name) for name in ("share", "pasted"))
  own, other = (losses.cross_entropy(step.student.logits, y) for y in (step.y, pasted))
  return share * own + (1 - share) * other


@functools.lru_cache(maxsize=16)
def mixed_labels(passes: int = 1) -> Recipe:
  """`share CE(z, y) + (1 - share) CE(z, y_pasted)`: hard labels, mixed as the images are, and no teacher.

  Args:
    passes: see `stored_labels`.

  Returns:
    A `Recipe` for targets with `pasted` and `share` among their taps (`jdistill.teachers.hard`); the same object for
    equal arguments.
  """
  return Recipe({"ce": Term(_of_both_images)}, passes=passes)


@functools.lru_cache(maxsize=16)
def two_distances(temperature: float, weight: float, norm: str = "absolute", passes: int = 1) -> Recipe:
  """NRR-DD's students: cross entropy with the classes of both images, and DBR with the teacher's distances.

      share CE(z, y) + (1 - share) CE(z, y_pasted) + weight dbr_loss(z, d)

  Args:
    temperature: of the distances' softmaxes.
    weight: of `jdistill.losses.dbr_loss` (arXiv 2503.18267).
    norm: `"absolute"` or `"squared"`.
    passes: see `stored_labels`.

  Returns:
    A `Recipe` for targets whose logits are the distances `[B, 2]`, with `pasted` and `share` among their taps
    (`jdistill.teachers.labelled`); the same object for equal arguments. Its terms raise `ValueError` for targets
    without these.
  """

  def distances(step: StepOutputs):
    found, pasted = step.teacher.logits, _of_mixing(step, "pasted")
    return losses.dbr_loss(step.student.logits, found, step.y, pasted, temperature=temperature, norm=norm)

  return Recipe({"ce": Term(_of_both_images), "dbr": Term(distances, weight)}, passes=passes)


@validated("method")
def dkd(
  *,
  temperature: Annotated[Positive, Traced] = 4.0,
  alpha: Annotated[NonNegative, Traced] = 1.0,
  beta: Annotated[NonNegative, Traced] = 8.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  warmup_epochs: NonNegative = 20.0,
) -> Recipe:
  """`CE + min(1, epoch / warmup) (alpha TCKD + beta NCKD)` (arXiv 2203.08679).

  Args:
    temperature: of both softmaxes.
    alpha, beta: weights of the target and the non-target part; beta is 8, 6 or 2 by pair in the paper.
    ce_weight: of the labels.
    warmup_epochs: until the distillation terms have their full weight.
  """

  def loss(step: StepOutputs):
    return losses.dkd_loss(
      step.student.logits, step.teacher.logits, step.y, temperature=temperature, alpha=alpha, beta=beta
    )

  return Recipe({"ce": cross_entropy_term(ce_weight), "dkd": Term(loss, warmup(1.0, warmup_epochs))})


@validated("method")
def dist(
  *,
  temperature: Annotated[Positive, Traced] = 4.0,
  beta: Annotated[NonNegative, Traced] = 2.0,
  gamma: Annotated[NonNegative, Traced] = 2.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
) -> Recipe:
  """`CE + T^2 (beta inter + gamma intra)`, Pearson correlations over classes and over the batch (arXiv 2205.10536).

  Args:
    temperature: of both softmaxes; 4 on CIFAR, 1 on ImageNet.
    beta, gamma: weights of the two correlations.
    ce_weight: of the labels.
  """

  def loss(step: StepOutputs):
    logits = step.student.logits, step.teacher.logits
    return losses.dist_loss(*logits, temperature=temperature, beta=beta, gamma=gamma, where=step.where)

  return Recipe({"ce": cross_entropy_term(ce_weight), "dist": Term(loss)})


@validated("method")
def pld(*, temperature: Annotated[Positive, Traced] = 1.0) -> Recipe:
  """PLD: one list-wise loss and no other weight (arXiv 2506.12542).

  Args:
    temperature: of the teacher's weights alone; 1 on ImageNet, 4 on CIFAR-100.
  """

  def loss(step: StepOutputs):
    return losses.pld_loss(step.student.logits, step.teacher.logits, step.y, temperature=temperature)

  return Recipe({"pld": Term(loss)})
