"""A pool of networks of all ages, each trained on the synthetic set and replaced by a fresh one when it is old."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jdistill.base import Key, Network, PyTree, Variables


class PoolState(NamedTuple):
  """The networks, stacked on a leading axis.

  Attributes:
    variables: parameters and running statistics.
    opt_state: of their optimiser.
    age: `[size]` int32, updates that each has had since it was fresh.
  """

  variables: Variables
  opt_state: PyTree
  age: jax.Array


class Pool(NamedTuple):
  """A pool as functions.

  Attributes:
    init: `(key) -> PoolState` of fresh networks. Their ages start spread over `[0, reset_after)`, though none is
      trained yet, so that they are not replaced all at once.
    draw: `(key, state) -> (number, Variables)`, one of them at random.
    step: `(key, state, number, images [m, ...], targets [m, classes], steps) -> PoolState`: so many updates of one
      network, and a fresh one in its place if it has had `reset_after` of them then.
  """

  init: Callable[[Key], PoolState]
  draw: Callable[[Key, PoolState], tuple[jax.Array, Variables]]
  step: Callable[..., PoolState]


def half_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """`mean_i 1/2 |f_i - y_i|^2`, a sum over columns and a mean over rows."""
  return 0.5 * jnp.mean(jnp.sum(jnp.square(logits - targets), axis=1))


def mean_squared_error(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """The mean over rows and columns of the squared differences."""
  return jnp.mean(jnp.square(logits - targets))


def model_pool(
  network: Network,
  optimizer: optax.GradientTransformation,
  *,
  size: int,
  reset_after: int,
  batch_size: int | None = None,
  loss: Callable[[jax.Array, jax.Array], jax.Array] = half_squared_error,
  late: bool = False,
) -> Pool:
  """Builds a pool; networks descend a regression loss, by default `mean_i 1/2 |f(x_i) - y_i|^2`, in training mode.

  Args:
    network: what is drawn.
    optimizer: of every network.
    size: how many there are.
    reset_after: updates after which one is replaced.
    batch_size: images of an update, drawn without repetition if there are more; `None` for all.
    loss: `(logits [b, k], targets [b, k]) -> scalar`.
    late: a network is replaced at the visit after its last update, in place of one, and has the age 0 then; otherwise
      right after its last update.

  References:
    Zhou, Nezhadarya and Ba (FRePo, arXiv 2206.00719), alg. 1. The released code is `late`.
  """

  def fresh(key: Key) -> PoolState:
    variables = network.init(key)
    return PoolState(variables, optimizer.init(variables.params), jnp.zeros((), jnp.int32))

  def init(key: Key) -> PoolState:
    offsets = jnp.arange(size, dtype=jnp.int32) * (reset_after // size)
    return jax.vmap(fresh)(jax.random.split(key, size))._replace(age=offsets)

  def draw(key: Key, state: PoolState) -> tuple[jax.Array, Variables]:
    number = jax.random.randint(key, (), 0, size)
    return number, _member(state, number).variables

  def update(key: Key, one: PoolState, images: jax.Array, targets: jax.Array) -> PoolState:
    if batch_size is not None and batch_size < images.shape[0]:
      picked = jax.random.choice(key, images.shape[0], (batch_size,), replace=False)
      images, targets = images[picked], targets[picked]

    def error(params: PyTree) -> tuple[jax.Array, PyTree]:
      out = network.apply(params, images, train=True, stats=one.variables.stats)
      return loss(out.logits, targets), out.stats

    grads, stats = jax.grad(error, has_aux=True)(one.variables.params)
    updates, opt_state = optimizer.update(grads, one.opt_state, one.variables.params)
    params = optax.apply_updates(one.variables.params, updates)
    return PoolState(Variables(params, stats), opt_state, one.age + 1)

  def step(
    key: Key, state: PoolState, number: jax.Array, images: jax.Array, targets: jax.Array, steps: int | jax.Array = 1
  ) -> PoolState:
    images, targets = lax.stop_gradient((images, targets))
    key_fresh, key_batch = jax.random.split(key)
    before = _member(state, number)

    def trained() -> PoolState:
      return lax.fori_loop(
        0, steps, lambda i, one: update(jax.random.fold_in(key_batch, i), one, images, targets), before
      )

    one = before if late else trained()
    one = lax.cond(one.age >= reset_after, lambda: fresh(key_fresh), trained if late else lambda: one)
    return jax.tree.map(lambda all_of, new: all_of.at[number].set(new), state, one)

  return Pool(init, draw, step)


def _member(state: PoolState, number: jax.Array) -> PoolState:
  return jax.tree.map(lambda leaf: leaf[number], state)
