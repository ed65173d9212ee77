"""One reference training over flat parameters, and what is kept of it for other orders of the same batches."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Key, Method, PyTree
from jdistill.orders.projection import project, recover

Gradient = Callable[[jax.Array, PyTree], jax.Array]  # (theta [P], batch) -> [P]
Update = Callable[
  ..., tuple[jax.Array, PyTree]
]  # (gradient, state, theta, position) -> (what is added to theta, state)
_LOSS = "loss/ce"


class Reference(NamedTuple):
  """What one training in the order of the batches leaves behind, `T` batches and `P` parameters.

  Attributes:
    theta: `[T + 1, P]`, the parameters before every update and after the last.
    states: of the optimiser before every update; leaves `[T, ...]`.
    gradients: `g(theta_t, B_l)` for all pairs, `[T, T, P]`; `[T, k, P]` where mixed; `None` where they are computed
      when they are asked for.
    mixing: `[T, k]` of `projection`, or `None`.
  """

  theta: jax.Array
  states: PyTree
  gradients: jax.Array | None = None
  mixing: jax.Array | None = None

  @property
  def steps(self) -> int:
    """How many batches there are."""
    return self.theta.shape[0] - 1

  def gradient(self, position: jax.Array, batch: jax.Array) -> jax.Array:
    """The stored gradient of a batch at the parameters of a position, `[P]`; an estimate where they are mixed."""
    own = self.gradients[position]
    return own[batch] if self.mixing is None else recover(own, self.mixing, batch)


class Recording(NamedTuple):
  """The state of a reference training.

  Attributes:
    theta: `[T + 1, P]`; rows after the present position hold the present parameters.
    states: of the optimiser before every update; rows that are still to come are zero.
    state: of the optimiser now.
    position: updates done, int32.
  """

  theta: jax.Array
  states: PyTree
  state: PyTree
  position: jax.Array


def recording(
  init: Callable[[Key], tuple[jax.Array, PyTree]],
  loss: Callable[[jax.Array, PyTree], jax.Array],
  update: Update,
  steps: int,
) -> Method:
  """A training that records itself: one step is one update on the batch that it is given.

  Args:
    init: `key -> (theta_0 [P], state of the optimiser)`.
    loss: `(theta, batch) -> scalar`, without dropout or anything else that is random.
    update: `(gradient, state, theta, position) -> (what is added to theta, state)`; the learning rate depends on the
      position and never on the batch.
    steps: `T`. Further steps leave the state as it is.

  Returns:
    A `Method` with the metric `"loss/ce"`; its result is a `Reference`.
  """

  def begin(key: Key, example: PyTree) -> Recording:
    del example
    theta, state = init(key)
    states = jax.tree.map(lambda leaf: jnp.zeros((steps, *jnp.shape(leaf)), jnp.asarray(leaf).dtype), state)
    return Recording(
      jnp.tile(theta, (steps + 1, 1)), states, jax.tree.map(jnp.asarray, state), jnp.zeros((), jnp.int32)
    )

  def step(key: Key, recorded: Recording, batch: PyTree):
    del key
    at = jnp.minimum(recorded.position, steps - 1)
    theta = recorded.theta[recorded.position]
    value, gradient = jax.value_and_grad(loss)(theta, batch)
    change, state = update(gradient, recorded.state, theta, at)
    left = recorded.position < steps
    later = jnp.arange(steps + 1, dtype=jnp.int32) > recorded.position
    done = Recording(
      jnp.where(later[:, None], (theta + change)[None], recorded.theta),
      jax.tree.map(lambda rows, own: rows.at[at].set(own), recorded.states, recorded.state),
      state,
      recorded.position + 1,
    )
    return jax.tree.map(lambda new, old: jnp.where(left, new, old), done, recorded), {_LOSS: value}

  return Method(begin, step, lambda recorded: Reference(recorded.theta, recorded.states), steps=steps)


def store_gradients(
  reference: Reference, gradient: Gradient, batches: PyTree, mixing: jax.Array | None = None
) -> Reference:
  """The reference with `g(theta_t, B_l)` for all `T^2` pairs: no other order needs a gradient of its own any more.

  Args:
    reference: of `recording`.
    gradient: `(theta, batch) -> [P]`.
    batches: leaves `[T, ...]`.
    mixing: `[T, k]` of `projection`, to keep `k` mixtures of each position's gradients instead of `T`.
  """

  def at(theta: jax.Array) -> jax.Array:
    found = jax.lax.map(lambda batch: gradient(theta, batch), batches)
    return found if mixing is None else project(found, mixing)

  return reference._replace(gradients=jax.lax.map(at, reference.theta[:-1]), mixing=mixing)


def reference_nbytes(steps: int, size: int, state: PyTree, *, stored: bool, mixtures: int | None = None) -> int:
  """Bytes of a `Reference` in float32: `4 P (T + 1)`, the states, and `4 P T^2` (or `4 P T k`) for gradients.

  Args:
    steps, size: `T` and `P`.
    state: of the optimiser, arrays or shapes.
    stored: whether gradients are kept.
    mixtures: `k`.
  """
  own = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  vectors = steps * (mixtures or steps) if stored else 0
  return 4 * size * (steps + 1 + vectors) + steps * own + (4 * steps * mixtures if stored and mixtures else 0)


def train_order(
  gradient: Gradient, update: Update, state: PyTree, theta: jax.Array, batches: PyTree, order: jax.Array
) -> jax.Array:
  """Real training on the batches in some order, which estimates are compared with.

  Args:
    gradient, update: as of `recording`.
    state: of the optimiser at the start.
    theta: `[P]`.
    batches: leaves `[T, ...]`.
    order: `[T]`, the batch of every position.

  Returns:
    `[P]`, the parameters after the last update.
  """

  def step(carry, where):
    (theta, state), (position, batch) = carry, where
    own = jax.tree.map(lambda leaf: leaf[batch], batches)
    change, state = update(gradient(theta, own), state, theta, position)
    return (theta + change, state), None

  positions = jnp.arange(order.shape[0], dtype=jnp.int32)
  return jax.lax.scan(step, (theta, state), (positions, order))[0][0]


def check_order(order: Sequence[int] | np.ndarray, steps: int) -> np.ndarray:
  """An order as int32 `[T]`.

  Raises:
    ValueError: it is not a permutation of `range(steps)`; the first batch that is missing is named.
  """
  found = np.asarray(order)
  if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
    raise ValueError(f"order: {found.dtype} of shape {found.shape}; give the {steps} numbers of batches")
  missing = sorted(set(range(steps)) - set(found.tolist()))
  if len(found) != steps or missing:
    lacking = f", batch {missing[0]} is missing" if missing else ""
    raise ValueError(f"order: not a permutation of range({steps}): it has {len(found)} batches{lacking}")
  return found.astype(np.int32)


def check_replay(
  reference: Reference, gradient: Gradient, update: Update, theta: jax.Array, batches: PyTree, *, rtol: float = 1e-3
) -> None:
  """Refuses a reference of another start, of other batches, or of another optimiser or schedule.

  The first and the last update are made again. Orders are estimated as differences from the reference, so one that
  these updates did not make would give figures that look right and are wrong.

  Args:
    reference: what is looked at.
    gradient, update, theta, batches: with which orders are to be estimated.
    rtol: greatest difference of an update, relative to its norm.

  Raises:
    ValueError: the first thing that differs.
  """
  if reference.theta.ndim != 2 or reference.theta.shape[1:] != np.shape(theta):
    raise ValueError(f"reference: parameters {reference.theta.shape} and theta {np.shape(theta)} do not match")
  sizes = {len(leaf) for leaf in jax.tree.leaves(batches)}
  if sizes != {reference.steps}:
    raise ValueError(
      f"reference: recorded with {reference.steps} batches, and there are {sorted(sizes)}; record it anew"
    )
  if not np.array_equal(np.asarray(reference.theta[0]), np.asarray(theta)):
    raise ValueError("reference: recorded from another start; record it anew from this theta")
  for at in (0, reference.steps - 1):
    own, state = (_at(tree, at) for tree in (batches, reference.states))
    want, _ = update(gradient(reference.theta[at], own), state, reference.theta[at], jnp.int32(at))
    got = reference.theta[at + 1] - reference.theta[at]
    if not np.linalg.norm(np.asarray(got - want)) <= rtol * np.linalg.norm(np.asarray(want)):
      raise ValueError(
        f"reference: update {at} is another one; its batches, loss, optimiser or schedule differ: record it anew"
      )


def _at(tree: Any, position: int) -> Any:
  return jax.tree.map(lambda leaf: leaf[position], tree)
