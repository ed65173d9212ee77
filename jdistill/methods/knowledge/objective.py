"""The loss of one update and its gradient: all rows of a batch together, or a few at a time."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Batch, Key, Outputs, PyTree, Variables
from jdistill.losses.compose import weighted_sum
from jdistill.methods.knowledge.forward import STUDENT, Forward, in_passes
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs
from jdistill.ops.precision import widen
from jdistill.ops.rows import largest_divisor, value_and_grad

# (loss, (metrics, running statistics by role, memory))
Loss = tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, PyTree], PyTree]]


class Seen(NamedTuple):
  """All that an update works on but the parameters.

  Attributes:
    batch: the examples, before any transformation, with their weights.
    x: the student's input.
    teachers: outputs of each teacher on theirs.
    rows: `[B]` int32 positions in the whole data, or `None`.
    stats: running statistics by role, before the update.
    memory, constants, epoch: see `StepOutputs`.
    key_net, key_term: of dropout and connectors, and of terms that draw random numbers.
    epochs: see `StepOutputs`.
  """

  batch: Batch
  x: PyTree
  teachers: tuple[Outputs, ...]
  rows: jax.Array | None
  stats: Mapping[str, PyTree]
  memory: PyTree
  constants: PyTree
  epoch: jax.Array
  key_net: Key
  key_term: Key
  epochs: float | None = None


def step_outputs(
  recipe: Recipe, forward: Forward, seen: Seen, params: Mapping[str, PyTree]
) -> tuple[StepOutputs, dict[str, PyTree]]:
  """Runs student and connectors; `(what terms see, running statistics afterwards)`."""
  student = in_passes(forward, recipe.passes, params[STUDENT], seen.stats[STUDENT], seen.x, seen.key_net)
  values, stats = {}, {STUDENT: student.stats}
  for number, (name, part) in enumerate(recipe.connectors.items()):
    variables = Variables(params[name], seen.stats[name])
    own = jax.random.fold_in(seen.key_net, number + 1)
    values[name], stats[name] = part.apply(variables, student, seen.teachers, train=True, key=own)
  where = seen.batch.weight > 0

  def ask(x: PyTree) -> Outputs:
    return forward(params[STUDENT], seen.stats[STUDENT], x, seen.key_net, True)

  found = StepOutputs(
    seen.batch, student, seen.teachers, values, params, seen.memory, seen.constants, where, seen.epoch, seen.key_term,
    seen.rows, ask, seen.epochs,
  )  # fmt: skip
  return found if recipe.shared is None else found._replace(shared=recipe.shared(found)), stats


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
  """`sum_i w_i v_i / sum_i w_i`, 0 without any weight; values without weight may hold anything."""
  values, weight = widen(values), widen(weight)
  total = jnp.sum(weight)
  return jnp.sum(jnp.where(weight > 0, values * weight, 0)) / jnp.where(total > 0, total, 1)


def whole_loss(recipe: Recipe, forward: Forward, seen: Seen, params: Mapping[str, PyTree]) -> Loss:
  """`sum_k w_k(epoch) L_k` of all rows together."""
  outputs, stats = step_outputs(recipe, forward, seen, params)
  values = {name: term.value(outputs) for name, term in recipe.terms.items()}
  means = {n: weighted_mean(v, seen.batch.weight) if jnp.ndim(v) == 1 else v for n, v in values.items()}
  total, logs = weighted_sum(means, _weights(recipe), step=seen.epoch)
  memory = lax.stop_gradient(recipe.memory.update(outputs)) if recipe.memory else ()
  shown = {f"loss/{name}": value for name, value in logs.items()}
  if recipe.metrics is not None:
    found = lax.stop_gradient(recipe.metrics(outputs))
    shown |= {f"method/{name}": jnp.asarray(value, jnp.float32) for name, value in found.items()}
  return total, (shown, stats, memory)


def whole_gradient(recipe: Recipe, forward: Forward, seen: Seen) -> Callable[[PyTree, PyTree], tuple[Loss, PyTree]]:
  """`(params of learners, fixed params) -> (Loss, gradient in the learners)`."""

  def both(learners: Mapping[str, PyTree], fixed: Mapping[str, PyTree]) -> tuple[Loss, PyTree]:
    return jax.value_and_grad(lambda own: whole_loss(recipe, forward, seen, {**own, **fixed}), has_aux=True)(learners)

  return both


def check_chunks(recipe: Recipe, chunk_size: int) -> None:
  """Raises a `ValueError` where a batch cannot be looked at in parts."""
  needed = {
    "several passes": recipe.passes > 1, "a memory": recipe.memory, "an outer role": recipe.outer,
    "metrics of a batch": recipe.metrics,
  }  # fmt: skip
  for what, found in needed.items():
    if found:
      raise ValueError(f"chunk_size={chunk_size}: the method has {what} and needs all rows of a batch; set it to None")
  if chunk_size < 1:
    raise ValueError(f"chunk_size={chunk_size}: must be at least 1")


def chunked_gradient(
  recipe: Recipe, forward: Forward, seen: Seen, chunk_size: int
) -> Callable[[PyTree, PyTree], tuple[Loss, PyTree]]:
  """`whole_gradient` with at most `chunk_size` rows at a time.

  Raises:
    ValueError: a network or connector with running statistics, or a term that is no number per example.
  """
  if jax.tree.leaves(seen.stats):
    raise ValueError(f"chunk_size={chunk_size}: batch norm needs all rows of a batch; set it to None")
  weight = widen(seen.batch.weight)
  total = jnp.sum(weight)
  size = weight.shape[0]
  batch = seen.batch._replace(weight=weight / jnp.where(total > 0, total, 1))
  teachers = tuple(out._replace(norm_inputs={}, stats={}) for out in seen.teachers)
  rows = (batch, seen.x, teachers, seen.rows, jnp.arange(size))

  def both(learners: Mapping[str, PyTree], fixed: Mapping[str, PyTree]) -> tuple[Loss, PyTree]:
    def part(own: Mapping[str, PyTree], rows: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
      batch, x, teachers, positions, number = rows
      keys = {name: jax.random.fold_in(getattr(seen, name), number[0]) for name in ("key_net", "key_term")}
      here = seen._replace(batch=batch, x=x, teachers=teachers, rows=positions, **keys)
      outputs, _ = step_outputs(recipe, forward, here, {**own, **fixed})
      sums = {}
      for name, term in recipe.terms.items():
        value = term.value(outputs)
        if jnp.shape(value) != number.shape:
          raise ValueError(f"chunk_size={chunk_size}: the term {name} couples the rows of a batch; set it to None")
        sums[name] = jnp.sum(jnp.where(batch.weight > 0, widen(value) * batch.weight, 0))
      return weighted_sum(sums, _weights(recipe), step=seen.epoch)

    (value, sums), grads = value_and_grad(part, learners, rows, largest_divisor(size, chunk_size), has_aux=True)
    return (value, ({f"loss/{name}": one for name, one in sums.items()}, dict(seen.stats), ())), grads

  return both


def _weights(recipe: Recipe) -> dict:
  return {name: term.weight for name, term in recipe.terms.items()}
