"""Many devices: one mesh with the axes `pool` and `data`, and three ways to say the same thing to JAX.

`data` spreads the rows of an inner batch: every device does the whole outer step, but in the inner loop only its own
rows, and the sums over devices are made inside `jdistill.bilevel.unroll`. State, key and batch are the same on all
devices, so nothing of a method changes. `pool` spreads independent networks, such as experts and evaluation seeds.
"""

import contextlib
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdistill.base import PyTree, UserError

ROUTES = ("shard_map", "jit", "pmap")
POOL, DATA = "pool", "data"
_MOST_CORES = 32
_PATIENCE = {
  "xla_cpu_collective_call_warn_stuck_timeout_seconds": 3600,
  "xla_cpu_collective_call_terminate_timeout_seconds": 86400,
}
_FEWEST = 5  # images of an inner step per device


def make_mesh(pool: int = 1, data: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh of `pool x data` devices.

  Args:
    pool: independent networks at once.
    data: devices that share the rows of a batch.
    devices: `jax.devices()` if not given; of all hosts.

  Raises:
    UserError: a size below 1, or more devices than there are.
  """
  devices = list(jax.devices() if devices is None else devices)
  for name, size in ((POOL, pool), (DATA, data)):
    if size < 1:
      raise UserError(f"parallel.{name}={size}: give at least 1")
  if pool * data > len(devices):
    raise UserError(
      f"parallel.pool={pool} x parallel.data={data}: {pool * data} devices asked for and {len(devices)} "
      f"{devices[0].platform} there; lower one of them"
    )
  return Mesh(np.array(devices[: pool * data]).reshape(pool, data), (POOL, DATA))


def use_cores() -> None:
  """Makes every core of the CPU a device of its own, before anything uses a device; a choice of the user stays.

  Two devices with half of the work each are faster than one whose operations are divided among two threads: most of
  the operations of an inner step are too small for that.
  """
  _wait_for_each_other()
  if jax.config.jax_num_cpu_devices > 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  with contextlib.suppress(RuntimeError):  # the devices are in use already
    jax.config.update("jax_num_cpu_devices", min(cores, _MOST_CORES))


def _wait_for_each_other() -> None:
  """Lets CPU devices wait for each other for a day, where XLA ends the process after 40 seconds.

  On a busy machine one device can be that much later than another, in a program that runs for minutes.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  own = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in flags]
  os.environ["XLA_FLAGS"] = " ".join([flags, *own]).strip()


def suggest_data(rows: int, devices: int, processes: int = 1) -> int:
  """How many devices should share `rows` images: as many as divide them and leave each at least five.

  Args:
    rows: images of an inner step.
    devices: how many there are, of all processes.
    processes: the number is a multiple of this, or 1.
  """
  fitting = (size for size in range(min(devices, rows // _FEWEST), 0, -1) if rows % size == 0 and size % processes == 0)
  return next(fitting, 1)


def check_rows(rows: int, mesh: Mesh) -> None:
  """Refuses a batch that the mesh cannot divide.

  Raises:
    UserError: naming the sizes.
  """
  if rows % mesh.shape[DATA]:
    raise UserError(
      f"parallel.data={mesh.shape[DATA]}: does not divide the {rows} images of an inner step; use a "
      "divisor, or another method.batch_size"
    )


def _rows_spec(leaf: jax.Array) -> PartitionSpec:
  return PartitionSpec(None, DATA) if leaf.ndim > 1 else PartitionSpec()


def _own_rows(leaf: jax.Array) -> jax.Array:
  """This device's part of `[steps, rows, ...]`; `[steps]` belongs to all."""
  if leaf.ndim < 2:
    return leaf
  size = leaf.shape[1] // lax.axis_size(DATA)
  return lax.dynamic_slice_in_dim(leaf, lax.axis_index(DATA) * size, size, axis=1)


def spread_unroll(unroll: Callable, mesh: Mesh, route: str = "shard_map") -> Callable:
  """`jdistill.bilevel.unroll` with the rows of every step spread over `data`, to be called inside `spread_step`."""

  def call(loss, params, shared, batches, lr, *, indices, **options):
    check_rows(indices.shape[1], mesh)
    if route == "jit":

      def constrain(leaf):
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, _rows_spec(leaf)))

      indices, batches = jax.tree.map(constrain, (indices, batches))
      return unroll(loss, params, shared, batches, lr, indices=indices, **options)
    indices, batches = jax.tree.map(_own_rows, (indices, batches))
    return unroll(loss, params, shared, batches, lr, indices=indices, axis_name=DATA, **options)

  return call


def constrain_rows(mesh: Mesh, tree: PyTree) -> PyTree:
  """Spreads the leading axis of every leaf over `data`, inside a step that `spread_step` compiles by route `"jit"`."""
  rows = NamedSharding(mesh, PartitionSpec(DATA))
  return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, rows), tree)


def divided(tree: PyTree, mesh: Mesh) -> PyTree:
  """A sharding for every array: its longest axis that the devices divide is cut over them, others are whole everywhere.

  Parameters, the state of their optimiser and those of teachers so take a share of the memory of each device; the
  compiler gathers what a layer needs.

  Args:
    tree: of arrays or shapes.
    mesh: from `make_mesh`.
  """
  size = mesh.shape[DATA]

  def one(leaf) -> NamedSharding:
    axes = [axis for axis, length in enumerate(leaf.shape) if length >= size and length % size == 0]
    spec = [None] * len(leaf.shape)
    if axes:
      spec[max(axes, key=lambda axis: leaf.shape[axis])] = DATA
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map(one, tree)


def spread_step(
  step: Callable, mesh: Mesh, route: str = "shard_map", *, donate_argnums: Sequence[int] = ()
) -> Callable:
  """Compiles a step whose arguments and results are the same on all devices of a mesh.

  Args:
    step: any function of pytrees of arrays; collectives inside it may name the axes of the mesh.
    mesh: from `make_mesh`.
    route: `"shard_map"` runs the step on every device by itself; `"jit"` leaves it to the compiler how to divide
      what is constrained inside; `"pmap"` is the first in its older form.
    donate_argnums: arguments that the result may take the memory of.

  Returns:
    The step, taking and giving replicated arrays.

  Raises:
    ValueError: an unknown route.
  """
  same = NamedSharding(mesh, PartitionSpec())
  if route == "jit":
    return jax.jit(step, in_shardings=same, out_shardings=same, donate_argnums=donate_argnums)
  if route == "shard_map":
    # the step's gradients are whole on every device already; checking would make JAX sum them once more
    spread = jax.shard_map(step, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(spread, in_shardings=same, out_shardings=same, donate_argnums=donate_argnums)
  if route == "pmap":
    return _pmap(step, mesh)
  raise ValueError(f"spread_step: unknown route {route!r}; choose one of {', '.join(ROUTES)}")


def _pmap(step: Callable, mesh: Mesh) -> Callable:
  """`jax.pmap` over the devices of the `data` axis."""
  devices = list(mesh.devices.reshape(-1))
  mapped = jax.pmap(
    lambda _, arguments: step(*arguments), axis_name=DATA, in_axes=(0, None), out_axes=None, devices=devices
  )
  places = np.arange(len(devices))
  return lambda *arguments: mapped(places, arguments)


def process_devices(size: int) -> list[jax.Device]:
  """`size` devices, as many of every process; those of one process stand together."""
  devices, processes = jax.devices(), jax.process_count()
  own: dict[int, list[jax.Device]] = {}
  for device in devices:
    own.setdefault(device.process_index, []).append(device)
  return [device for index in sorted(own) for device in own[index][: size // processes]]


def check_sizes(pool: int, data: int) -> None:
  """Refuses sizes that the devices and processes of this run cannot serve.

  Raises:
    UserError: more devices than there are, or a number that the processes cannot share.
  """
  devices, processes = jax.devices(), jax.process_count()
  for name, size in ((POOL, pool), (DATA, data)):
    if size > len(devices):
      raise UserError(
        f"parallel.{name}={size}: there {'are' if len(devices) > 1 else 'is'} {len(devices)} {devices[0].platform} "
        f"device{'s' if len(devices) > 1 else ''}; lower it"
      )
    if size > 1 and size % processes:
      raise UserError(
        f"parallel.{name}={size}: {processes} processes cannot share it evenly; use a multiple of {processes}, or 1"
      )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts the same arrays on all devices of a mesh, of all processes; each process gives its own copy."""
  return place(tree, NamedSharding(mesh, PartitionSpec()))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Arrays that every process holds whole, as arrays of a sharding."""

  def put(leaf):
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
      return leaf
    if sharding.is_fully_addressable:
      return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    # not `device_put`, which would compare the copies of all processes at every call
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

  return jax.tree.map(put, tree)


def local(tree: PyTree) -> PyTree:
  """This process's copy of replicated arrays, for programs of one device."""
  return jax.tree.map(lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), tree)
