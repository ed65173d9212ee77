"""Several runs of one method as one: seeds that train side by side and stay paired."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jdistill.base import Key, PyTree
from jdistill.training.parallel import POOL


def places(count: int, mesh: Mesh | None) -> list[int]:
  """Which seed stands at each place of the axis of seeds: what does not divide over the devices is filled up."""
  devices = 1 if mesh is None else mesh.shape[POOL]
  return [min(i, count - 1) for i in range(-(-count // devices) * devices)]


def side_by_side(
  init: Callable, steps: Callable, result: Callable, count: int, *, at_once: bool, mesh: Mesh | None = None
) -> tuple[Callable, Callable, Callable]:
  """The functions of one run for several seeds: keys and states get a leading axis.

  What a seed computes does not depend on the others, so runs of different methods with the same seeds are paired.
  Every seed runs all steps of a call before the next one begins, where they do not run at once.

  Args:
    init: `(key, shared, row) -> state`.
    steps: `(key, state, shared, rows, first, count) -> (state, metrics)`, as `jdistill.training.programs.run_steps`
      makes it.
    result: `(state) -> artefact`.
    count: how many seeds there are. Their keys are arguments, so that one program serves any seeds.
    at_once: `vmap` over seeds; false does one after the other, which is faster for convolutions on a CPU.
    mesh: spreads the seeds over its axis `pool`; what does not divide is filled up and thrown away.

  Returns:
    The three functions for all seeds: `key` is `[seeds]`, `row` is `[seeds, ...]` and `rows` are `[steps, seeds, ...]`;
    metrics are means over seeds, and results have a leading axis of the seeds.
  """
  filled = places(count, mesh)

  def fill(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[jnp.asarray(filled)], tree) if len(filled) > count else tree

  def each(function: Callable, own: PyTree, shared: PyTree) -> PyTree:
    """`function(own of one seed, shared)` for all seeds."""

    def one_device(own, shared):
      if at_once:
        return jax.vmap(lambda mine: function(mine, shared))(own)
      return lax.map(lambda mine: function(mine, shared), own)

    if mesh is None:
      return one_device(own, shared)
    spread, same = PartitionSpec(POOL), PartitionSpec()
    return jax.shard_map(one_device, mesh=mesh, in_specs=(spread, same), out_specs=spread, check_vma=False)(own, shared)

  def init_all(keys: Key, shared: PyTree, row: PyTree) -> PyTree:
    return each(lambda mine, shared: init(mine[0], shared, mine[1]), fill((keys, row)), shared)

  def steps_all(keys: Key, state: PyTree, shared: PyTree, rows: PyTree, first: jax.Array, steps_now: jax.Array):
    own = (fill(keys), state, fill(jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), rows)))
    common = (shared, first, steps_now)
    state, metrics = each(lambda mine, common: steps(*mine[:2], common[0], mine[2], *common[1:]), own, common)
    return state, {name: jnp.mean(values[:count], axis=0) for name, values in metrics.items()}

  def result_all(state: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[:count], jax.vmap(result)(state))

  return init_all, steps_all, result_all
