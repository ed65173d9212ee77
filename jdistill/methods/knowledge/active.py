"""Recipes of rounds that ask for answers: a teacher's soft labels (RAD), or labels beside a teacher of all (ActiveKD).

An example without a label has `y = -1`.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Connector, Outputs
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.models.connectors import mlp_head
from jdistill.schema import Above, NonNegative, Positive, Range, Share, Traced, validated
from jdistill.selection import dual_head_probs

_HEAD = "kd_head"


@validated("method")
def rad(*, temperature: Annotated[Positive, Traced] = 1.0) -> Recipe:
  """Cross entropy with the label where there is one, and with the teacher's probabilities where it answered.

      mean_B  CE(z, y)  if y >= 0  else  -sum_c p_T(c) log p(c),    p_T = softmax(z_T / temperature)

  Which examples are asked about is `selector.name="rad"`, a choice of its own.

  Args:
    temperature: of the teacher's softmax alone; at 1 its answer is taken as it is.

  References:
    Baykal et al., "Robust Active Distillation" (arXiv 2210.01213).
  """

  def labelled(step: StepOutputs) -> jax.Array:
    return losses.cross_entropy(step.student.logits, step.y)  # 0 without a label

  def answered(step: StepOutputs) -> jax.Array:
    soft = losses.soft_cross_entropy(step.student.logits, step.teacher.logits / temperature)
    return jnp.where(step.y >= 0, 0, soft)

  return Recipe({"ce": Term(labelled), "soft": Term(answered)})


@validated("method")
def activekd(
  *,
  temperature: Annotated[Positive, Traced] = 2.0,
  ce_weight: Annotated[NonNegative, Traced] = 0.5,
  kd_weight: Annotated[NonNegative, Traced] = 0.5,
  alpha: Share = 0.5,
  beta: Annotated[float, Above(0), Range(high=100)] = 1.0,
) -> Recipe:
  """Two linear heads on one backbone: one for labels, one for the teacher, mixed in the prediction (arXiv 2506.00910).

      ce_weight mean_L CE(z_ce, y) + kd_weight (mean_L KD + mean_U KD),   KD = T^2 KL(p_T || softmax(z_kd / T))

  with `L` the examples of a batch that have a label and `U` those without. The finished student predicts
  `alpha softmax(z_ce) + (1 - alpha) softmax(z_kd / beta)`, whose logarithm it gives as logits. `z_ce` is the head of
  the network itself.

  Args:
    temperature: `T`, of both softmaxes.
    ce_weight, kd_weight: 0.5 each in the paper.
    alpha, beta: fixed, as active learning has no validation set to choose them on.

  References:
    Kang et al., "PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language Models" (arXiv
    2506.00910). The released code draws the labelled half with replacement; see `jdistill.data.policies.answered`.
  """

  head = second_head()

  def loss(step: StepOutputs) -> jax.Array:
    values = activekd_loss(
      step.student.logits, step.connectors[_HEAD], step.teacher.logits, step.y, temperature=temperature,
      ce_weight=ce_weight, kd_weight=kd_weight,
    )  # fmt: skip
    known = step.y >= 0
    return sum(losses.masked_mean(values, step.where & own) for own in (known, ~known))

  def predict(outputs: Outputs, variables, constants) -> jax.Array:
    del constants
    z_kd, _ = head.apply(variables[_HEAD], outputs, (), train=False, key=jax.random.key(0))
    return jnp.log(jnp.maximum(dual_head_probs(outputs.logits, z_kd, alpha=alpha, beta=beta), 1e-30))

  return Recipe(
    {"activekd": Term(loss)},
    connectors={_HEAD: head},
    predict=predict,
    keeps=(_HEAD,),
  )


def second_head() -> Connector:
  """A linear head on the student's embedding that is as wide as the student's own."""

  def like(student: Outputs) -> Connector:
    return mlp_head((student.logits.shape[-1],))

  return Connector(
    lambda key, student, teachers: like(student).init(key, student, teachers),
    lambda variables, student, teachers, **how: like(student).apply(variables, student, teachers, **how),
  )


def activekd_loss(
  z_ce: jax.Array,
  z_kd: jax.Array,
  z_teacher: jax.Array,
  y: jax.Array,
  *,
  temperature: float = 2.0,
  ce_weight: float = 0.5,
  kd_weight: float = 0.5,
) -> jax.Array:
  """`ce_weight CE(z_ce, y) + kd_weight T^2 KL(teacher || softmax(z_kd / T))` of each example.

  The loss of ActiveKD is its mean over the labelled examples plus its mean over the others.

  Args:
    z_ce, z_kd: `[B, C]` logits of both heads.
    z_teacher: `[B, C]`. No gradient.
    y: `[B]` integers; -1 for no label, which leaves the first term out.
    temperature: `T > 0`.
    ce_weight, kd_weight: of both terms.

  Returns:
    `[B]` in nats (times `T^2`).

  Raises:
    ValueError: teacher and student of different classes, or `temperature <= 0`.
  """
  divergence = losses.kl_divergence(z_kd, z_teacher, temperature=temperature)
  return ce_weight * losses.cross_entropy(z_ce, y) + kd_weight * divergence
