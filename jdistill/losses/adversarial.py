"""Losses in which a small network tells the outputs of a student from those of its teachers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import PyTree
from jdistill.losses._checks import check_logits, masked_mean
from jdistill.ops.checks import check_rank, keep, row_mask
from jdistill.ops.logits import is_excluded
from jdistill.ops.precision import widen

Discriminator = Callable[[PyTree, jax.Array], jax.Array]  # (params, logits [N, classes]) -> scores [N, 2]

MODES = ("adversarial", "joint", "detached", "off")
GENERATOR_MODES = ("flipped", "negated")
IS_STUDENT, IS_TEACHER = (1.0, 0.0), (0.0, 1.0)


def discriminator_loss(
  apply: Discriminator,
  params: PyTree,
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  mode: str = "adversarial",
  where: jax.Array | None = None,
) -> jax.Array:
  """MEAL V2's discriminator loss: mean binary cross entropy of `D([z_s; z_t])` against `[1, 0]` and `[0, 1]`.

  With scores `d = D(z) [2]` and target `y`, an entry costs `softplus(d) - y d`. The value is the same in all modes but
  `"off"`; what differs is the gradient in `student_logits`. That in `params` is always the plain one, so that one
  backward pass serves student and discriminator together.

  Args:
    apply: `(params, logits [2B, classes]) -> [2B, 2]` scores before the sigmoid. The student's rows come first.
    params: pytree of the discriminator.
    student_logits: `[B, classes]`. Classes that a side masks out with minus infinity go in as 0, on both sides.
    teacher_logits: `[B, classes]`, for several teachers the mean of their logits (`ensemble_soft_targets`). No
      gradient.
    mode: what the student gets from it.

      - `"adversarial"`: the reversed gradient, so that minimising trains it to be taken for the teacher (the paper).
      - `"joint"`: the plain gradient, as in the released code: the student *helps* the discriminator.
      - `"detached"`: none; for `generator_loss` in its place.
      - `"off"`: the loss is 0 and `apply` is not called.
    where: `[B]`, false for padding.

  Returns:
    A scalar in nats, the mean over the `2B x 2` entries (0 if all is masked out).

  Raises:
    ValueError: for an unknown mode, logits that are not two equal `[B, classes]`, or scores that are not `[2B, 2]`.

  Cost: one pass of the discriminator over `2B` rows.

  References:
    Shen and Savvides, "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks"
    (arXiv 2009.08453), sec. 3 (number unverified); "joint" is what its repository does.
  """
  name = "discriminator_loss"
  if mode not in MODES:
    raise ValueError(f"{name}: mode must be one of {', '.join(MODES)}, got {mode!r}")
  check_rank(name, "student_logits", student_logits, 2)
  check_logits(name, student_logits, teacher_logits)
  student, teacher = widen(student_logits), jax.lax.stop_gradient(widen(teacher_logits))
  absent = is_excluded(student) | is_excluded(teacher)
  student, teacher = (jnp.where(absent, 0, side) for side in (student, teacher))
  if mode == "off":
    return jnp.zeros((), student.dtype)
  if mode == "detached":
    student = jax.lax.stop_gradient(student)
  elif mode == "adversarial":
    student = 2 * jax.lax.stop_gradient(student) - student  # the same value, and minus the gradient
  kept = row_mask(name, where, student.shape[0])
  of_student, of_teacher = _scores(name, apply, params, (student, teacher), kept)
  costs = jnp.stack([_binary_cross_entropy(of_student, IS_STUDENT), _binary_cross_entropy(of_teacher, IS_TEACHER)], 1)
  return masked_mean(costs, kept)


def generator_loss(
  apply: Discriminator,
  params: PyTree,
  student_logits: jax.Array,
  *,
  mode: str = "flipped",
  where: jax.Array | None = None,
) -> jax.Array:
  """The student's side of `discriminator_loss(..., mode="detached")`: how far it is from passing for the teacher.

  `"flipped"` is the binary cross entropy of `D(z_s)` against the teacher's target `[0, 1]`, with a strong gradient
  where the discriminator is sure; `"negated"` is minus the cross entropy against the student's target `[1, 0]`, with a
  weak one there. No gradient in `params`.

  Args:
    apply: `(params, logits [B, classes]) -> [B, 2]` scores before the sigmoid.
    params: pytree of the discriminator, held constant.
    student_logits: `[B, classes]`. Classes that a side masks out with minus infinity go in as 0.
    mode: `"flipped"` or `"negated"`.
    where: `[B]`, false for padding.

  Returns:
    A scalar in nats, the mean over the `B x 2` entries (0 if all is masked out).

  Raises:
    ValueError: for an unknown mode, logits that are not `[B, classes]`, or scores that are not `[B, 2]`.

  Cost: one pass of the discriminator.

  References:
    Shen and Savvides, "MEAL V2" (arXiv 2009.08453), which speaks of adversarial learning; neither form is in its code.
  """
  name = "generator_loss"
  if mode not in GENERATOR_MODES:
    raise ValueError(f"{name}: mode must be one of {', '.join(GENERATOR_MODES)}, got {mode!r}")
  check_rank(name, "student_logits", student_logits, 2)
  student = widen(student_logits)
  student = jnp.where(is_excluded(student), 0, student)
  kept = row_mask(name, where, student.shape[0])
  (scores,) = _scores(name, apply, jax.lax.stop_gradient(params), (student,), kept)
  if mode == "negated":
    return -masked_mean(_binary_cross_entropy(scores, IS_STUDENT), kept)
  return masked_mean(_binary_cross_entropy(scores, IS_TEACHER), kept)


def _scores(name, apply, params, sides, kept):
  """The scores of all sides from one call, `[B, 2]` each; padding goes in as zeros."""
  rows = jnp.concatenate([keep(side, kept) for side in sides])
  scores = widen(apply(params, rows))
  if scores.shape != (rows.shape[0], 2):
    raise ValueError(f"{name}: apply must return scores of shape {(rows.shape[0], 2)}, got {scores.shape}")
  return jnp.split(scores, len(sides))


def _binary_cross_entropy(scores, target):
  return jax.nn.softplus(scores) - jnp.asarray(target, scores.dtype)[None] * scores
