"""TGeo-KD: a weight of the teacher per example, learned on held-out examples; and the rules that it competes with."""

import warnings
from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import losses
from jdistill.base import Key, Outputs, UserError, Variables
from jdistill.methods.knowledge import trilateral
from jdistill.methods.knowledge.recipe import Outer, Recipe, StepOutputs, Term
from jdistill.methods.optimizers import make_optimizer
from jdistill.schema import Count, NonNegative, Positive, Share, Traced, validated

CONTROLLER = "controller"
_COLUMNS = {"probabilities": 4, "student_edges": 3, "edges": 5, "angles": 2}


@validated("method")
def tgeo_kd(
  *,
  rule: Literal["learned", "fixed", "linear", "correct", "confidence", "oracle"] = "learned",
  outer: Literal["hypergradient", "none"] = "hypergradient",
  state: str = "probabilities+edges",
  temperature: Annotated[Positive, Traced] = 1.5,
  alpha: Annotated[Share, Traced] = 0.5,
  alpha_last: Annotated[Share, Traced] = 0.0,
  decay_epochs: Annotated[Positive, Traced] = 300.0,
  hidden: Count = 32,
  virtual_lr: Annotated[NonNegative, Traced] = 0.1,
  held_out_size: Count = 200,
  controller_lr: Positive | None = None,
  controller_weight_decay: NonNegative = 0.0,
) -> Recipe:
  """`mean_i [alpha_i T^2 KL_i(teacher || student) + (1 - alpha_i) CE_i]` (arXiv 2312.15112).

  With `rule="learned"`, a controller `alpha_i = sigmoid(MLP(state_i))` reads where student, teacher, label and the
  teacher's mean prediction for the label's class stand to each other. It descends the cross entropy on held-out
  examples that the student has after one virtual step of SGD on this loss: the true hypergradient, through
  `jdistill.bilevel.one_step_hypergradient`. Then the student takes its real step with the new weights.

  The released script computes `alpha` without gradients, so that its controller keeps its random start: that is
  `outer="none"`. It also feeds probabilities to a cross entropy of logits, which is not done here.

  Args:
    rule: where `alpha_i` comes from.

      - `"learned"`: the controller.
      - `"fixed"`: `alpha`.
      - `"linear"`: from `alpha` to `alpha_last` over `decay_epochs`.
      - `"correct"`: `alpha` where the teacher's likeliest class is the label, and 0 elsewhere.
      - `"confidence"`: `alpha` times the teacher's largest probability.
      - `"oracle"`: 1 where the label is known to be wrong, 0 where only the teacher is, `alpha` elsewhere. It reads
        `batch.extra["clean_labels"]`, and shows what a perfect choice would bring.
    outer: `"hypergradient"`, or `"none"` for a controller that stays at its random start.
    state: what the controller sees, see `jdistill.methods.knowledge.trilateral`.
    temperature: of the teacher's term.
    alpha, alpha_last, decay_epochs: of the rules; `alpha` and `alpha_last` in `[0, 1]`.
    hidden: width of the controller's first layer; the second has half of it.
    virtual_lr: of the virtual step, plain SGD. With an adaptive optimiser, one whose steps are about as long.
    held_out_size: held-out examples per step.
    controller_lr, controller_weight_decay: of an Adam for the controller, with the decay added to the gradient; 0.1 and
      0.05 in the released script. Without a rate the controller has an optimiser like the student's.

  Returns:
    The `Recipe`. Its metrics are `alpha_mean`, `alpha_min` and `alpha_max` of a batch, and where the examples have
    `extra["clean_labels"]`, `separation`: the chance that an example with a wrong label has a larger `alpha` than one
    whose teacher is wrong (the area under the ROC curve; 0.5 where a batch lacks either kind).

  Raises:
    UserError: an unknown state, or a decay without a rate.

  References:
    Hu et al., "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation"
    (arXiv 2312.15112). Three passes forward and back per step instead of one.
  """
  parts = state.split("+")
  if not set(parts) <= set(_COLUMNS) or len(set(parts)) < len(parts):
    raise UserError(f"method.state={state!r}: join different ones of {', '.join(_COLUMNS)} with '+'")
  if controller_lr is None and controller_weight_decay != 0:
    raise UserError(
      f"method.controller_weight_decay={controller_weight_decay}: the controller has the student's optimiser; set"
      " method.controller_lr, too"
    )
  learned = rule == "learned"
  ratio = _controller(state) if learned else _rule(rule, alpha, alpha_last, decay_epochs)

  def fused(step: StepOutputs) -> jax.Array:
    return losses.fused_kd_loss(step.student.logits, step.teacher.logits, step.y, ratio(step), temperature=temperature)

  def init(key: Key, student: Outputs, teachers: tuple[Outputs, ...]):
    del teachers
    columns = sum(_COLUMNS[part] for part in parts)
    return trilateral.init_fusion_ratio(key, columns * student.logits.shape[-1], (hidden, max(hidden // 2, 1)))

  controller = Outer(
    CONTROLLER,
    init,
    lambda out, y: losses.cross_entropy(out.logits, y),
    batch_size=held_out_size,
    lr=virtual_lr,
    through=outer == "hypergradient",
    optimizer=None
    if controller_lr is None
    else make_optimizer("adam", controller_lr, weight_decay=controller_weight_decay),
  )
  return Recipe(
    {"fused": Term(fused)},
    prepare=mean_predictions if learned else None,
    outer=controller if learned else None,
    metrics=lambda step: alpha_metrics(step, ratio(step)),
    needs=("teacher", "labels", "held_out") if learned else ("teacher", "labels"),
  )


def mean_predictions(teachers: tuple[Outputs, ...], y: jax.Array, variables: tuple[Variables, ...]) -> jax.Array:
  """What the first teacher says on average about each class, `[C, C]` probabilities.

  A class without any example has the uniform distribution, with a warning that names it.
  """
  del variables
  probabilities = jax.nn.softmax(teachers[0].logits)
  means, counts = trilateral.class_mean_predictions(probabilities, y, probabilities.shape[-1])
  absent = np.flatnonzero(np.asarray(counts) == 0)
  if absent.size:
    names = ", ".join(str(c) for c in absent)
    warnings.warn(f"tgeo_kd: no training example of class {names}: its mean teacher prediction is taken as uniform")
  return means


def alpha_metrics(step: StepOutputs, alpha: jax.Array) -> dict[str, jax.Array]:
  """Mean, least and greatest weight of a batch, and the separation where the right labels are known."""
  alpha = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), step.where.shape)
  count = jnp.maximum(jnp.sum(step.where), 1).astype(jnp.float32)
  out = {
    "alpha_mean": jnp.sum(jnp.where(step.where, alpha, 0)) / count,
    "alpha_min": jnp.min(jnp.where(step.where, alpha, 1)),
    "alpha_max": jnp.max(jnp.where(step.where, alpha, 0)),
  }
  if "clean_labels" in step.batch.extra:
    noisy, wrong = errors(step)
    out["separation"] = separation(alpha, noisy & step.where, wrong & step.where)
  return out


def errors(step: StepOutputs) -> tuple[jax.Array, jax.Array]:
  """`[B]` bool each: where only the label is wrong, and where only the teacher is."""
  clean = step.batch.extra["clean_labels"]
  label, teacher = step.y == clean, jnp.argmax(step.teacher.logits, axis=-1) == clean
  return teacher & ~label, label & ~teacher


def separation(score: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
  """The area under the ROC curve: how often a score of `high` is above one of `low`, ties half; 0.5 without pairs.

  Args:
    score: `[B]`.
    high, low: `[B]` bool.
  """
  above = jnp.heaviside(score[:, None] - score[None], 0.5)
  pairs = (high[:, None] & low[None]).astype(jnp.float32)
  count = jnp.sum(pairs)
  return jnp.where(count > 0, jnp.sum(above * pairs) / jnp.maximum(count, 1), 0.5)


def _controller(option: str) -> Callable[[StepOutputs], jax.Array]:
  def ratio(step: StepOutputs) -> jax.Array:
    student, teacher = (jax.nn.softmax(out.logits) for out in (step.student, step.teacher))
    onehot = jax.nn.one_hot(step.y, teacher.shape[-1], dtype=teacher.dtype)
    # without a label there is no class mean; a negative one would count from the end
    mean = jnp.take(step.constants, jnp.where(step.y < 0, onehot.shape[1], step.y), axis=0, mode="fill", fill_value=0)
    state = trilateral.trilateral_state(student, teacher, onehot, mean, option=option)
    return trilateral.fusion_ratio(step.params[CONTROLLER], state)

  return ratio


def _rule(rule: str, alpha: float, last: float, epochs: float) -> Callable[[StepOutputs], jax.Array]:
  def ratio(step: StepOutputs) -> jax.Array:
    if rule == "linear":
      done = jnp.clip(step.epoch / epochs, 0, 1)
      return jnp.broadcast_to(alpha + (last - alpha) * done, step.y.shape)
    if rule == "correct":
      return jnp.where(jnp.argmax(step.teacher.logits, axis=-1) == step.y, alpha, 0.0)
    if rule == "confidence":
      return alpha * jnp.max(jax.nn.softmax(step.teacher.logits), axis=-1)
    if rule == "oracle":
      if "clean_labels" not in step.batch.extra:
        raise UserError("method.rule='oracle': needs extra['clean_labels'] of every example; task.name='noisy_labels'")
      noisy, wrong = errors(step)
      return jnp.where(noisy, 1.0, jnp.where(wrong, 0.0, alpha))
    return jnp.full(step.y.shape, alpha)

  return ratio
