"""Several runs of one method as one: seeds that train side by side and stay paired."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jdistill.base import Key, Method, PyTree
from jdistill.training.parallel import POOL


def side_by_side(
  method: Method,
  seeds: Sequence[int],
  *,
  divide: Callable[[PyTree], tuple[PyTree, PyTree]],
  join: Callable[[PyTree, PyTree], PyTree],
  at_once: bool,
  mesh: Mesh | None = None,
) -> Method:
  """One method for several seeds: states get a leading axis, and seed `s` the key `fold_in(key, s)`.

  What a seed computes does not depend on the others, so runs of different methods with the same seeds are paired.

  Args:
    method: for one seed.
    seeds: their numbers.
    divide: `batch -> (own, shared)`: what every seed has for itself, `[seeds, ...]`, and what all share.
    join: `(own of one seed, shared) -> batch`, what `method` takes.
    at_once: `vmap` over seeds; false does one after the other, which is faster for convolutions on a CPU.
    mesh: spreads the seeds over its axis `pool`; what does not divide is filled up and thrown away.

  Returns:
    A `Method` whose metrics are means over seeds and whose result has a leading axis of the seeds.
  """
  count = len(seeds)
  devices = 1 if mesh is None else mesh.shape[POOL]
  filled = [seeds[min(i, count - 1)] for i in range(-(-count // devices) * devices)]

  def fill(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[jnp.minimum(jnp.arange(len(filled)), count - 1)], tree)

  def each(function: Callable, own: PyTree, shared: PyTree) -> PyTree:
    def one_device(own, shared):
      if at_once:
        return jax.vmap(lambda mine: function(mine, shared))(own)
      return lax.map(lambda mine: function(mine, shared), own)

    if mesh is None:
      return one_device(own, shared)
    spread, same = PartitionSpec(POOL), PartitionSpec()
    return jax.shard_map(one_device, mesh=mesh, in_specs=(spread, same), out_specs=spread, check_vma=False)(own, shared)

  def keys(key: Key) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(filled, jnp.uint32))

  def init(key: Key, batch: PyTree) -> PyTree:
    own, shared = divide(batch)
    return each(lambda mine, shared: method.init(mine[0], join(mine[1], shared)), (keys(key), fill(own)), shared)

  def step(key: Key, state: PyTree, batch: PyTree):
    own, shared = divide(batch)
    state, metrics = each(
      lambda mine, shared: method.step(mine[0], mine[1], join(mine[2], shared)), (keys(key), state, fill(own)), shared
    )
    return state, {name: jnp.mean(values[:count]) for name, values in metrics.items()}

  def result(state: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[:count], jax.vmap(method.result)(state))

  return Method(init, step, result)
