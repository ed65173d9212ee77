"""What an arm's training looks like without computing anything: shapes of its state, and what its parts refuse."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Outputs, PyTree, UserError
from jdistill.methods.knowledge import Epoch, Recipe, StudentState, student_method
from jdistill.stages.knowledge import teacher, train
from jdistill.stages.knowledge.context import Context
from jdistill.tasks.task import Task
from jdistill.teachers.frozen import committee


class Form(NamedTuple):
  """An arm's phase, traced.

  Attributes:
    state: shapes of everything that changes.
    parameters: of the student.
    extra: parameters of everything else that learns.
    teachers: parameters of all teachers.
    steps: optimiser steps of one student.
  """

  state: StudentState
  parameters: int
  extra: int
  teachers: int
  steps: int


def check(ctx: Context) -> None:
  """Traces all arms, and the phases before them, where there is still something to train.

  Raises:
    UserError: what does not go together in one of them.
  """
  if ctx.finished("students") is not None:
    return
  for label in ctx.config["order"]:
    _recipe(label, ctx.config["arms"][label]["method"])
  for want in teacher.wants(ctx):
    _check_teachers(ctx, want)
  for label in ctx.config["order"]:
    arm = ctx.config["arms"][label]
    if arm["start_train"]:
      trace(ctx, label, arm, arm["start_method"], arm["start_train"])
    trace(ctx, label, arm, arm["method"], arm["train"])


def trace(ctx: Context, label: str, arm: Mapping[str, Any], method: Mapping[str, Any], schedule: Mapping) -> Form:
  """Traces one phase of an arm.

  Raises:
    UserError: what networks, connectors and losses refuse: taps that are not there, shapes and classes that differ.
  """
  task = ctx.task(arm["task"])
  recipe = _recipe(label, method)
  networks, variables = _teachers(ctx, label, arm, task) if "teacher" in recipe.needs else ((), ())
  taught = committee(networks, variables).outputs if networks else None
  if taught is not None and arm["targets"]["source"] == "cached":
    taught = _stored(taught, arm["targets"]["top_k"])
    recipe = recipe._replace(augmented_inputs=_plain_for_teachers(recipe.augmented_inputs, method["name"]))
  members = task.members(0)
  job = train.Job(label, ctx.network(arm["student"], task), recipe, schedule, task.data, members[None], [0])
  steps = train.steps_per_epoch(job)
  build = student_method(
    job.network,
    recipe,
    optimizer=train.optimizer_of(schedule, steps),
    batch_size=schedule["batch_size"],
    teacher=taught,
    augment=ctx.augmentation(schedule["augment"]),
    ema_decay=schedule["ema_decay"],
    precision=schedule["precision"],
  )
  epoch = Epoch(
    jax.ShapeDtypeStruct((), jnp.int32),
    _shapes(task.data),
    jax.ShapeDtypeStruct(members.shape, jnp.int32),
    variables,
    held_out=_shapes(task.validation) if recipe.outer is not None else None,
  )
  state = _traced(label, recipe, build, epoch)
  sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(role.params)) for name, role in state.roles.items()}
  own = sizes.pop("student")
  return Form(state, own, sum(sizes.values()), _size(variables), steps * schedule["epochs"])


def _traced(label: str, recipe: Recipe, method, epoch: Epoch) -> StudentState:
  key = jax.eval_shape(lambda: jax.random.key(0))
  try:
    state = jax.eval_shape(method.init, key, epoch)
    if recipe.prepare is None:  # else the step wants constants that are computed from real outputs
      jax.eval_shape(method.step, key, state, epoch)
  except UserError as error:
    raise UserError(f"{label}: {error}") from error
  except ValueError as error:  # what pure losses raise while they are traced
    raise UserError(f"{label}: {error}") from error
  return state


def _check_teachers(ctx: Context, want: teacher.Want) -> None:
  """Refuses teachers that would need a teacher, and stored ones that do not fit or know nothing of this data."""
  if want.stored is not None:
    teacher.judged(ctx, want)
    return
  method = want.sections["teacher_method"]
  if "teacher" in _recipe(want.name, method).needs:
    raise UserError(f"{want.name}: teacher_method.name={method['name']!r}: learns from a teacher itself; choose 'ce'")


def _teachers(ctx: Context, label: str, arm: Mapping[str, Any], task: Task):
  networks, variables = (), ()
  for want in teacher.wants_of(ctx, label, arm):
    network = ctx.network(teacher.model_of(want), task)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    networks, variables = networks + (network,) * want.count, variables + (shapes,) * want.count
  return networks, variables


def _recipe(label: str, method: Mapping[str, Any]) -> Recipe:
  try:
    return teacher.recipe_of(method)
  except ValueError as error:  # options that do not go together
    raise UserError(f"{label}: {error}") from error


class _Cut(Outputs):
  """What stored targets without embeddings tell: who asks for more hears it, instead of computing with nothing."""

  @property
  def embedding(self) -> jax.Array:
    raise UserError("targets.top_k: the greatest logits come without embeddings; set targets.top_k=None")


def _stored(outputs, k: int | None):
  def call(arrays, x, ids):
    found = [out._replace(taps={}, norm_inputs={}) for out in outputs(arrays, x, ids)]
    classes = found[0].logits.shape[-1]
    if k is None:
      return tuple(found)
    if k >= classes:
      raise UserError(f"targets.top_k={k}: must lie in 1..{classes - 1} for {classes} classes")
    return tuple(_Cut(*out) for out in found)

  return call


def _plain_for_teachers(views, name: str):
  """Refuses views that show teachers anything but the examples themselves, of which the stored targets are."""

  def call(key, batch):
    x, x_teacher = views(key, batch)
    if x_teacher is not batch.x:
      raise UserError(
        f"targets.source='cached': {name} shows its teacher other inputs than the stored ones; use 'online'"
      )
    return x, x_teacher

  return call


def _shapes(data: Batch) -> PyTree:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), jax.dtypes.canonicalize_dtype(a.dtype)), data)


def _size(tree: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
