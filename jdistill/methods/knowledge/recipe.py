"""What a knowledge distillation method is: named terms of a loss, and whatever else it changes about an update."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax

from jdistill.base import Batch, Connector, Key, LanguageModel, Metrics, Network, Outputs, PyTree, Variables
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
    init: `(key, number of examples, batch) -> state`; the batch tells shapes.
    update: `(StepOutputs) -> state` after a step. By default what the step began with, for memories that
      `Recipe.sampled_batch` alone changes.
  """

  init: Callable[[Key, int, Batch], PyTree]
  update: Callable[[StepOutputs], PyTree] = lambda step: step.memory


class Sampling(NamedTuple):
  """What a recipe sees that makes examples itself; no gradient passes through any of it.

  Attributes:
    batch: the examples of the data.
    student: the student with a cache; it can be sampled from, and scored by `student.apply`.
    params: of the student, before the update.
    teachers: `(model, parameters)` of each teacher that can be sampled from; `()` where targets are stored.
    memory: what the method remembers.
    held_out: examples that no student trains on, for recipes that need `"held_out"`; else `None`.
    epoch, epochs: see `StepOutputs`.
  """

  batch: Batch
  student: LanguageModel
  params: PyTree
  teachers: tuple[tuple[LanguageModel, PyTree], ...]
  memory: PyTree
  held_out: Batch | None
  epoch: jax.Array
  epochs: float | None


class OwnInputs(NamedTuple):
  """What an update sees that a recipe makes itself.

  Attributes:
    key: of everything that it draws.
    network: the student.
    params: of all roles, by name.
    batch: the examples, augmented.
    where: `[B]` bool, false for padding.
    teachers: `(network, Variables)` of each.
    memory: what the recipe remembers.
    step: scalar int32, the number of the update, from 0.
    epoch, epochs: see `StepOutputs`.
    chunk_size: the most rows to look at together, a divisor of theirs; `None` for all. It is advice: the same numbers
      up to rounding in less memory and, on a CPU, in less time.
    spread: to be put around what is drawn for rows, so that devices that share a batch share that too.
  """

  key: Key
  network: Network
  params: Mapping[str, PyTree]
  batch: Batch
  where: jax.Array
  teachers: tuple[tuple[Network, Variables], ...]
  memory: PyTree
  step: jax.Array
  epoch: jax.Array
  epochs: float | None
  chunk_size: int | None = None
  spread: Callable[[PyTree], PyTree] = lambda rows: rows


class OwnUpdate(NamedTuple):
  """What such an update gives.

  Attributes:
    metrics: scalars by name; one at least begins with `loss/`.
    grads: gradients of the roles that may move.
    moves: role -> scalar bool: where false, parameters and optimiser stay as they are. Those that are not named move.
    memory: what is remembered.
  """

  metrics: Metrics
  grads: Mapping[str, PyTree]
  moves: Mapping[str, jax.Array | bool] = {}
  memory: PyTree = ()


def _no_roles(key: Key, network: Network, teachers: tuple[tuple[Network, Variables], ...]) -> Mapping[str, PyTree]:
  del key, network, teachers
  return {}


class Own(NamedTuple):
  """An update that is no sum of terms: gradients of several roles, each on a clock of its own.

  Attributes:
    update: `(OwnInputs) -> OwnUpdate`.
    init: `(key, student, (network, Variables) of each teacher) -> parameters by role`, of the roles beside the student.
    start: `"teacher"` for a student that begins as a copy of the first teacher, where no phase was before; `"random"`.
    memory: `(parameters by role, (network, Variables) of each teacher) -> what is remembered at first`.
    stacked: role -> how many of it train side by side. Their parameters have a leading axis of this length, at first
      copies of one, and each has an optimiser's state of its own, so that a clipped norm is that of one.
    masks: role -> `(parameters) -> booleans` of the leaves that its optimiser sees; the others stay as they are. All of
      the roles that are not named train.
  """

  update: Callable[[OwnInputs], OwnUpdate]
  init: Callable[..., Mapping[str, PyTree]] = _no_roles
  start: str = "random"
  memory: Callable[..., PyTree] = lambda params, teachers: ()
  stacked: Mapping[str, int] = {}
  masks: Mapping[str, Callable[[PyTree], PyTree]] = {}


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
    sampled_batch: `(key, Sampling) -> (batch, memory)`: the examples of an update, and what is remembered of making
      them. They are written by the student, a teacher or both, replayed from the memory, or those of the data; there
      may be more rows than the data gave. This comes before anything else is done with them.
    written: `(key, teachers as in Sampling, batch) -> (batch, figures)`: what teachers write once before training in
      the place of the training examples, of the same shapes. What is written for an example depends on the key and its
      id, and not on its neighbours. Figures are `[B]`; reports show their means.
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
    own: an update of its own in the place of terms, connectors and what else is computed from the student's outputs.
    sampler: `(student, variables by role, inputs) -> samples`: the finished student in the place of `predict`, for
      networks that are asked several times for a sample.
    probed: `predict` gives features `[B, D]` and no logits, since nothing is learned of classes; a run then predicts by
      a linear probe on them (`jdistill.evaluation.ridge_probe`), which alone sees labels.
    needs: `"teacher"`, `"held_out"`, `"labels"`: what a run must provide; for messages.
    advice: `(updates in all) -> what a user should know before that many`, or `""`; shown by plans and logs.
    check: `(updates in all) -> None`, raises `UserError` where the recipe cannot work in so many.
    check_examples: `(labels [n], ids [n], student) -> None`, raises `UserError` where it cannot learn from the examples
      of a student; asked before training.
  """

  terms: Mapping[str, Term]
  connectors: Mapping[str, Connector] = {}
  augmented_inputs: Callable[[Key, Batch], tuple[jax.Array, jax.Array]] = same_view
  sampled_batch: Callable[[Key, Sampling], tuple[Batch, PyTree]] | None = None
  written: Callable[[Key, tuple[tuple[LanguageModel, PyTree], ...], Batch], tuple[Batch, Mapping]] | None = None
  passes: int = 1
  shared: Callable[[StepOutputs], PyTree] | None = None
  prepare: Callable[[tuple[Outputs, ...], jax.Array, tuple[Variables, ...]], PyTree] | None = None
  outer: Outer | None = None
  memory: Memory | None = None
  metrics: Callable[[StepOutputs], Mapping[str, jax.Array]] | None = None
  trainable: Mapping[str, Callable[[jax.Array], jax.Array]] = {}
  predict: Callable[[Outputs, Mapping[str, Variables], PyTree], jax.Array] = student_logits
  keeps: tuple[str, ...] = ()
  own: Own | None = None
  sampler: Callable[[Network, Mapping[str, Variables], PyTree], jax.Array] | None = None
  probed: bool = False
  needs: tuple[str, ...] = ("teacher",)
  advice: Callable[[int], str] = lambda updates: ""
  check: Callable[[int], None] = lambda updates: None
  check_examples: Callable[[np.ndarray, np.ndarray, Network], None] | None = None
