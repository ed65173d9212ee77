"""Which examples an epoch sees, and in which batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Batch, Key, PyTree
from jdistill.data.samplers import epoch_batches
from jdistill.methods.knowledge.recipe import Look, Order

_LOOK = 256  # examples that a network looks at together


def shuffled(key: Key, members: jax.Array, batch_size: int) -> Order:
  """All members in random order, without the incomplete last batch.

  Args:
    key: decides the order.
    members: `[n]` positions in the data, `n >= batch_size`.
    batch_size: examples per step.
  """
  positions, mask = epoch_batches(key, members.shape[0], batch_size, drop_last=True)
  return Order(members[positions], mask)


def selected(key: Key, members: jax.Array, keep: jax.Array, batch_size: int) -> Order:
  """The members that are kept, in random order; as many steps as all of them would need, the last ones empty.

  Shapes do not depend on how many are kept, so one program serves all epochs.

  Args:
    key: decides the order.
    members: `[n]` positions in the data.
    keep: `[n]` bool.
    batch_size: examples per step; the last step that is not empty may have fewer.

  Returns:
    An `Order` whose metric `selected` is the share that is kept.
  """
  n = members.shape[0]
  steps = -(-n // batch_size)
  shuffle = jax.random.permutation(key, n)
  first_kept = shuffle[jnp.argsort(jnp.logical_not(keep[shuffle]), stable=True)]
  padding = steps * batch_size - n
  indices = jnp.pad(members[first_kept], (0, padding), constant_values=0)
  mask = jnp.arange(steps * batch_size) < jnp.sum(keep)
  share = jnp.mean(keep.astype(jnp.float32))
  return Order(indices.reshape(steps, batch_size), mask.reshape(steps, batch_size), {"selected": share})


def look(
  data: Batch,
  student: Callable[[jax.Array], jax.Array],
  teacher: Callable[[jax.Array, jax.Array], jax.Array],
  constants: PyTree = (),
) -> Look:
  """A `Look` of networks `student(x)` and `teacher(x, ids)` that looks at a few hundred examples at a time."""

  def look_student(indices: jax.Array) -> jax.Array:
    return lax.map(lambda i: student(data.x[i][None])[0], indices, batch_size=_LOOK)

  def look_teacher(indices: jax.Array) -> jax.Array:
    return lax.map(lambda i: teacher(data.x[i][None], data.ids[i][None])[0], indices, batch_size=_LOOK)

  return Look(data, look_student, look_teacher, constants)
