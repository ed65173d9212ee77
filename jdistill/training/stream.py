"""What a loop feeds its steps: arrays that all steps share, and rows that each step has for itself."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import PyTree

_ENDLESS = 2**31 - 1


def row_alone(shared: PyTree, row: PyTree) -> PyTree:
  """The `join` of streams whose rows are batches."""
  del shared
  return row


class Stream(NamedTuple):
  """The batches of a run, a function of the step; only streams that draw as the run goes remember anything.

  Attributes:
    shared: arrays that all steps (and seeds) see. They are arguments of the compiled program, placed on devices once.
    rows: `(first, count) -> pytree` of host arrays `[count, ...]`, one row per step; `[count, seeds, ...]` for seeds
      that train side by side.
    join: `(shared, row) -> batch`, traced inside the program. Programs are cached by it, so use one and the same
      function for all runs that should share a program.
    first: `() -> row` that `Method.init` sees; `None` for the row of step 0.
    boundary: `(first) -> int`, the greatest number of steps from `first` on that one call may run.
    done: `(first) -> bool`, whether the run ends before step `first`; for streams that alone know how many steps
      there are.
    prepare: `(first, state, shared)`, called before every call of the program, with the state as it is then and the
      placed shared arrays: a stream that depends on the state draws here.
    save: `(state, shared) -> pytree` of arrays of fixed shapes that goes into checkpoints beside the state.
    restore: `(pytree)`, sets what `save` gave.
    metrics: `() -> floats by name` that describe the current rows; they join the metrics of the method.
    drawn: `() -> ` what was drawn, for streams that can be asked to run it again; `None` for others.
  """

  rows: Callable[[int, int], PyTree]
  shared: PyTree = ()
  join: Callable[[PyTree, PyTree], PyTree] = row_alone
  first: Callable[[], PyTree] | None = None
  boundary: Callable[[int], int] = lambda first: _ENDLESS
  done: Callable[[int], bool] = lambda first: False
  prepare: Callable[[int, PyTree, PyTree], None] = lambda first, state, shared: None
  save: Callable[[PyTree, PyTree], PyTree] = lambda state, shared: ()
  restore: Callable[[PyTree], None] = lambda saved: None
  metrics: Callable[[], Mapping[str, float]] = lambda: {}
  drawn: Callable[[], PyTree] = lambda: None

  def example(self) -> PyTree:
    """The row that `Method.init` sees."""
    return self.first() if self.first is not None else jax.tree.map(lambda leaf: leaf[0], self.rows(0, 1))


def as_stream(source: Stream | Callable[[int], PyTree]) -> Stream:
  """A `Stream`; a plain function `step -> batch` becomes one whose rows are its batches, stacked."""
  if isinstance(source, Stream):
    return source

  def rows(first: int, count: int) -> PyTree:
    return jax.tree.map(_stack, *(source(first + i) for i in range(count)))

  return Stream(rows, first=lambda: source(0))


def fill_rows(rows: PyTree, count: int) -> PyTree:
  """Rows `[n, ...]`, `n <= count`, with the last one repeated up to `[count, ...]`."""

  def fill(leaf):
    missing = count - leaf.shape[0]
    return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

  return jax.tree.map(fill, rows)


def suggest_steps_per_call(steps_per_epoch: int, epochs: int, *, most: int = 64) -> int:
  """How many steps one call of the program should run: about `most`, such that few calls run fewer.

  Long epochs are cut into equal parts; of short ones a call runs several.

  Args:
    steps_per_epoch: at most this many steps follow each other without a boundary.
    epochs: of the run.
    most: bounds the time between two moments at which a run can stop.
  """
  if steps_per_epoch >= most:
    return -(-steps_per_epoch // -(-steps_per_epoch // most))
  whole = max(steps_per_epoch * epochs, 1)
  return -(-whole // -(-whole // most))


def _stack(*leaves):
  if len(leaves) == 1:
    return np.asarray(leaves[0])[None] if np.isscalar(leaves[0]) else leaves[0][None]
  return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)
