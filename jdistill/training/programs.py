"""The compiled programs of a loop: the start of a run, and a call of several steps.

One call runs up to `steps_per_call` updates; how many is an argument, so that any number of them is the same program
and gives the same bits, wherever a run was interrupted.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdistill.base import Key, Method, Metrics, PyTree
from jdistill.training import parallel
from jdistill.training.side_by_side import places, side_by_side


class Plan(NamedTuple):
  """How a loop compiles a method; equal plans of one method and stream share their programs.

  Attributes:
    steps_per_call: the most updates that one call runs.
    mesh, route: devices that a step runs on together; see `jdistill.training.parallel.spread_step`.
    seeds: how many runs go side by side; `None` for one run, without an axis of seeds.
    at_once: `vmap` over seeds; false runs one after the other, which is faster for convolutions on a CPU.
    pool_mesh: spreads the seeds over its axis `pool`.
    guard: see `guarded`; false lets numbers become what they may.
  """

  steps_per_call: int = 1
  mesh: Mesh | None = None
  route: str = "shard_map"
  seeds: int | None = None
  at_once: bool = True
  pool_mesh: Mesh | None = None
  guard: bool = True


class Programs(NamedTuple):
  """What `build` makes.

  Attributes:
    init: `(key, shared, row) -> (state, alive)`, compiled; `key` is `[seeds]` where there are seeds.
    call: `(key, state, alive, shared, rows, first, count) -> (state, metrics, alive)`, compiled: `count` updates from
      step `first` on. `rows` and every metric have `steps_per_call` rows, of which `count` are used. Once `alive` is
      false the state does not change any more.
    result: `Method.result`, with a leading axis of seeds where there are seeds.
    place: puts arguments where the programs take them.
    whole: `state -> state` that this process can read, without what fills up devices; checkpoints hold this.
    spread: `(whole state, state of the programs) -> state` of the programs, the opposite.
  """

  init: Callable[..., tuple[PyTree, jax.Array]]
  call: Callable[..., tuple[PyTree, Metrics, jax.Array]]
  result: Callable[[PyTree], PyTree]
  place: Callable[[PyTree], PyTree]
  whole: Callable[[PyTree], PyTree]
  spread: Callable[[PyTree, PyTree], PyTree]


def run_steps(method: Method, join: Callable[[PyTree, PyTree], PyTree], most: int) -> Callable:
  """`count` steps of a method as a function, with `fold_in(key, n)` as the key of step `n`.

  Args:
    method: what is run.
    join: see `jdistill.training.stream.Stream`.
    most: how many rows there are. A single one has no loop around it.

  Returns:
    `(key, state, shared, rows, first, count) -> (state, metrics [most])`.
  """

  def one(key: Key, state: PyTree, shared: PyTree, row: PyTree, number: jax.Array):
    return method.step(jax.random.fold_in(key, number), state, join(shared, row))

  def steps(key, state, shared, rows, first, count):
    if most == 1:
      state, metrics = one(key, state, shared, jax.tree.map(lambda a: a[0], rows), first)
      return state, {name: value[None] for name, value in metrics.items()}
    step = jax.jit(one, inline=True)  # traced once for its shapes and for the loop
    row = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), rows)
    shown = jax.eval_shape(step, key, state, shared, row, first)[1]
    empty = {name: jnp.zeros((most, *value.shape), value.dtype) for name, value in shown.items()}

    def body(i, carry):
      state, metrics = carry
      row = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), rows)
      state, new = step(key, state, shared, row, first + i)
      return state, {name: metrics[name].at[i].set(value) for name, value in new.items()}

    # a `while` with a bound that is an argument: a `scan` of fixed length would need a second program for the rest
    return lax.fori_loop(jnp.zeros_like(count), count, body, (state, empty))

  return steps


def guarded(steps: Callable, guard: bool = True) -> Callable:
  """Keeps the state from before a call whose metrics or new state are not all finite, and from then on.

  Args:
    steps: `(key, state, ...) -> (state, metrics)`.
    guard: false checks nothing, and `alive` stays as it is.

  Returns:
    `(key, state, alive, ...) -> (state, metrics, alive)`. The state is the last good one even when metrics are looked
    at only some calls later.
  """

  def call(key: Key, state: PyTree, alive: jax.Array, *rest: Any):
    new, metrics = steps(key, state, *rest)
    if not guard:
      return new, metrics, alive
    # the state too: an overflowing update of finite gradients shows in the metrics one step too late
    leaves = [*metrics.values(), *(leaf for leaf in jax.tree.leaves(new) if jnp.issubdtype(leaf.dtype, jnp.inexact))]
    alive = jnp.logical_and(alive, jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])))
    return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state), metrics, alive

  return call


@functools.lru_cache(maxsize=24)
def build(method: Method, join: Callable[[PyTree, PyTree], PyTree], plan: Plan) -> Programs:
  """The programs of a method; the last few are kept, so that the same one run again does not compile again."""
  steps = run_steps(method, join, plan.steps_per_call)
  init = lambda key, shared, row: method.init(key, join(shared, row))  # noqa: E731
  result = method.result
  if plan.seeds is not None:
    init, steps, result = side_by_side(init, steps, result, plan.seeds, at_once=plan.at_once, mesh=plan.pool_mesh)
  # `alive` from the same program, so that it lies where the state does and the step is compiled once
  start = jax.jit(lambda key, shared, row: (init(key, shared, row), jnp.ones((), bool)))
  call, mesh = guarded(steps, plan.guard), plan.mesh
  if plan.seeds is not None and plan.pool_mesh is not None:
    return _pooled(start, call, result, plan)
  if mesh is None:
    same = lambda tree: tree  # noqa: E731
    return Programs(start, jax.jit(call, donate_argnums=(1,)), result, same, same, _like)
  spread = parallel.spread_step(call, mesh, plan.route, donate_argnums=(1,))
  return Programs(start, spread, result, lambda tree: parallel.replicate(tree, mesh), parallel.local, _like)


def _like(whole: PyTree, state: PyTree) -> PyTree:
  """Arrays on the devices of others, where these are several."""

  def put(new, old):
    new = jnp.asarray(new)
    return parallel.place(new, old.sharding) if len(old.sharding.device_set) > 1 else new

  return jax.tree.map(put, whole, state)


def _pooled(start: Callable, call: Callable, result: Callable, plan: Plan) -> Programs:
  """Programs of seeds that are spread over the devices of a mesh; what they share is on all of them."""
  mesh, count = plan.pool_mesh, plan.seeds
  same = NamedSharding(mesh, PartitionSpec())
  own = NamedSharding(mesh, PartitionSpec(parallel.POOL))
  gather = jax.jit(lambda tree: tree, out_shardings=same)

  def whole(state: PyTree) -> PyTree:
    state = parallel.local(gather(state)) if mesh.is_multi_process else state
    return state if count % mesh.shape[parallel.POOL] == 0 else jax.tree.map(lambda leaf: leaf[:count], state)

  def spread(whole: PyTree, state: PyTree) -> PyTree:
    filled = np.asarray(places(count, mesh))
    return _like(jax.tree.map(lambda leaf: np.asarray(leaf)[filled], whole), state)

  def placed(leaf):
    there = isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == mesh
    return leaf if there else parallel.place(leaf, same)

  return Programs(
    jax.jit(start, out_shardings=(own, same)),
    jax.jit(call, donate_argnums=(1,), out_shardings=(own, same, same)),
    result,
    lambda tree: jax.tree.map(placed, tree),
    whole,
    spread,
  )


def program_bytes(call: Callable, arguments: Sequence) -> int | None:
  """Bytes of a program that has just run with these arguments; asking for it again does not compile it again."""
  if not hasattr(call, "lower"):
    return None
  found = call.lower(*arguments).compile().memory_analysis()
  return None if found is None else int(found.argument_size_in_bytes + found.temp_size_in_bytes)
