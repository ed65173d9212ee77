"""What a knowledge distillation method is: named terms of a loss, and whatever else it changes about an update."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import optax

from jdistill.base import Batch, Connector, Key, LanguageModel, Outputs, PyTree, Variables
from jdistill.losses.compose import Weight


class StepOutputs(NamedTuple):
  """What the terms of a loss see of one step.

  Attributes:
    batch: the examples, before any transformation; their weights are always given.
    student: outputs of the student in training mode, on its own step.
    teachers: outputs of each teacher on theirs; no gradient reaches them.
    connectors: what each connector made of these, by name.
    params: all trainable parameters by role, for terms that need more than a connector's value.
    memory: what the method remembers between steps.
    constants: what was computed once before training (`Recipe.prepare`).
    where: `[B]` bool, false for padding.
    epoch: scalar float32, epochs done, with the fraction of the running one.
    key: for terms that draw random numbers.
    rows: `[B]` int32 positions of the batch in the data, for a memory with a row per example.
    ask: `(x) -> Outputs`: the student on other inputs, in training mode, with the parameters of this step;
      differentiable in both.
    epochs: how many the training has in all; `None` where nobody said so.
    shared: what `Recipe.shared` made of all this; `None` without.
  """

  batch: Batch
  student: Outputs
  teachers: tuple[Outputs, ...]
  connectors: Mapping[str, PyTree]
  params: Mapping[str, PyTree]
  memory: PyTree
  constants: PyTree
  where: jax.Array
  epoch: jax.Array
  key: Key
  rows: jax.Array
  ask: Callable[[PyTree], Outputs] | None = None
  epochs: float | None = None
  shared: PyTree = None

  @property
  def y(self) -> jax.Array:
    """The labels of the batch."""
    return self.batch.y

  @property
  def teacher(self) -> Outputs:
    """The first teacher."""
    return self.teachers[0]


class Term(NamedTuple):
  """One summand of the loss.

  Attributes:
    value: `(StepOutputs) -> [B]`, one number per example, or a scalar for losses that couple the batch.
    weight: a number, or a schedule `(epoch) -> scalar`.
  """

  value: Callable[[StepOutputs], jax.Array]
  weight: Weight = 1.0


class Outer(NamedTuple):
  """A role that learns from held-out examples through the student's next step, instead of from the training loss.

  Attributes:
    role: whose parameters; its terms must reach the training loss through `StepOutputs.params[role]`.
    init: `(key, student, teachers) -> parameters`.
    loss: `(Outputs, y) -> [B]` on held-out examples.
    batch_size: held-out examples per step.
    lr: of the virtual step; `(epoch) -> scalar` or a number.
    through: false trains nothing (a frozen random controller, as a control).
    optimizer: of the role; `None` for the student's.
  """

  role: str
  init: Callable[[Key, Outputs, tuple[Outputs, ...]], PyTree]
  loss: Callable[[Outputs, jax.Array], jax.Array]
  batch_size: int
  lr: Weight
  through: bool = True
  optimizer: optax.GradientTransformation | None = None


class Memory(NamedTuple):
  """Explicit state of a loss between steps, such as a bank of embeddings.

  Attributes:
    init: `(key, number of examples) -> state`.
    update: `(StepOutputs) -> state` after a step.
  """

  init: Callable[[Key, int], PyTree]
  update: Callable[[StepOutputs], PyTree]


def same_view(key: Key, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Student and teacher see the pixels as they are."""
  del key
  return batch.x, batch.x


def student_logits(outputs: Outputs, variables: Mapping[str, Variables], constants: PyTree) -> jax.Array:
  """The deployed student is the student alone."""
  del variables, constants
  return outputs.logits


def student_features(outputs: Outputs, variables: Mapping[str, Variables], constants: PyTree) -> jax.Array:
  """The embedding, for students that learn no head; see `Recipe.probed`."""
  del variables, constants
  return outputs.embedding


class Recipe(NamedTuple):
  """A method as a value: everything in which it differs from plain training. Only `terms` is asked for.

  Attributes:
    terms: summands of the loss by name.
    connectors: connectors by name; each is a role with parameters of its own.
    augmented_inputs: `(key, augmented batch) -> (student's input, teachers' input)`; inputs may have more rows than
      the batch, which the terms then know.
    sampled_batch: `(key, student, its parameters, batch) -> batch` of the same shapes: examples that the student makes
      itself in the place of the given ones, before anything else is done with them. No gradient passes through it.
    passes: how many equal parts of its input the student sees one after the other, so that batch norm takes the moments
      of each by itself; its outputs are put together again.
    shared: `(StepOutputs) -> pytree` that several terms need, computed once in a step; terms compute it themselves
      where `StepOutputs.shared` is `None`.
    prepare: `(outputs of every teacher on the training examples, y [n], Variables of every teacher) -> pytree`,
      computed once before training, in evaluation mode and without augmentation.
    outer: a role that learns from held-out examples.
    memory: state of a loss.
    metrics: `(StepOutputs) -> scalars by name` that are worth a curve; they are reported as `method/NAME`.
    trainable: role -> `(epoch) -> bool`; roles that are not named train all the time. (The stages of a plan.)
    predict: `(Outputs, variables by role, constants) -> logits` of the finished student.
    keeps: the parts that `predict` needs.
    probed: `predict` gives features `[B, D]` and no logits, since nothing is learned of classes; a run then predicts by
      a linear probe on them (`jdistill.evaluation.ridge_probe`), which alone sees labels.
    needs: `"teacher"`, `"held_out"`, `"labels"`: what a run must provide; for messages.
    advice: `(updates in all) -> what a user should know before that many`, or `""`; shown by plans and logs.
  """

  terms: Mapping[str, Term]
  connectors: Mapping[str, Connector] = {}
  augmented_inputs: Callable[[Key, Batch], tuple[jax.Array, jax.Array]] = same_view
  sampled_batch: Callable[[Key, LanguageModel, PyTree, Batch], Batch] | None = None
  passes: int = 1
  shared: Callable[[StepOutputs], PyTree] | None = None
  prepare: Callable[[tuple[Outputs, ...], jax.Array, tuple[Variables, ...]], PyTree] | None = None
  outer: Outer | None = None
  memory: Memory | None = None
  metrics: Callable[[StepOutputs], Mapping[str, jax.Array]] | None = None
  trainable: Mapping[str, Callable[[jax.Array], jax.Array]] = {}
  predict: Callable[[Outputs, Mapping[str, Variables], PyTree], jax.Array] = student_logits
  keeps: tuple[str, ...] = ()
  probed: bool = False
  needs: tuple[str, ...] = ("teacher",)
  advice: Callable[[int], str] = lambda updates: ""
