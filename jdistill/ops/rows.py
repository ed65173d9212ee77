"""Batches taken in chunks: what is a sum over examples need not hold all of them at once.

A pass over a few examples at a time keeps its activations in the processor's cache, and needs their memory only once.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxprs_in_params

from jdistill.base import Apply, PyTree

# The largest map of a chunk should stay in the caches of one core, and fewer rows than a handful make kernel
# gradients thin. Measured: 10 to 20 images of a ConvNet of width 32, 5 to 10 of width 128, at 32x32 pixels.
_MAP_BYTES, _FEWEST = 5 * 2**19, 5
_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
  """Within it what is traced is for devices of this platform, which need not be there."""
  token = _platform.set(platform)
  try:
    yield
  finally:
    _platform.reset(token)


def for_cpu(platform: str | None = None) -> bool:
  """Whether programs are for CPUs: by `platform`, else by `planned_for`, else by JAX's default backend."""
  return (platform or _platform.get() or jax.default_backend()) == "cpu"


def row_count(batch: PyTree) -> int | None:
  """Length of the row axis: the first axis of all leaves that have one; `None` where none has.

  Raises:
    ValueError: leaves of different lengths.
  """
  lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
  if len(lengths) > 1:
    raise ValueError(f"rows: the first axes of a batch must agree, got lengths {sorted(lengths)}")
  return lengths.pop() if lengths else None


def largest_divisor(rows: int, most: int) -> int:
  """The largest divisor of `rows` that is at most `most` (and at least 1)."""
  return next(size for size in range(max(1, min(rows, most)), 0, -1) if rows % size == 0)


def fold_rows(
  body: Callable[[PyTree, PyTree], PyTree], carry: PyTree, batch: PyTree, chunk_size: int | None = None
) -> PyTree:
  """`carry = body(carry, chunk)` over consecutive chunks of `chunk_size` rows of a batch, as a scan.

  Args:
    body: `(carry, chunk) -> carry`.
    carry: the start.
    batch: pytree of arrays; those with at least one axis have rows on the first, scalars belong to every chunk.
    chunk_size: rows per chunk; `None` or the whole length means one call of `body` with the batch itself.

  Returns:
    The last carry.

  Raises:
    ValueError: leaves of different lengths, or a `chunk_size` that does not divide them.
  """
  return _scan_rows(lambda carry, chunk: (body(carry, chunk), None), carry, batch, chunk_size)[0]


def map_rows(fn: Callable[[PyTree], PyTree], batch: PyTree, chunk_size: int | None = None) -> PyTree:
  """`fn(batch)` of a function of each row by itself, a chunk at a time.

  Args:
    fn: `chunk -> tree` of arrays with the chunk's rows on their first axes.
    batch, chunk_size: as in `fold_rows`.

  Raises:
    ValueError: as `fold_rows`.
  """
  return _scan_rows(lambda _, chunk: ((), fn(chunk)), (), batch, chunk_size)[1]


def sum_rows(
  fn: Callable[[PyTree], tuple[PyTree, PyTree]], batch: PyTree, chunk_size: int | None = None
) -> tuple[PyTree, PyTree]:
  """Of a function `chunk -> (rows, sums)` the rows of all chunks and the sums over them.

  Args:
    fn: its first result as in `map_rows`, its second additive over rows.
    batch, chunk_size: as in `fold_rows`.

  Raises:
    ValueError: as `fold_rows`.
  """

  def body(total, chunk):
    rows, sums = fn(chunk)
    return jax.tree.map(jnp.add, total, sums), rows

  # the shapes of a sum do not depend on how many rows there are
  none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fn, batch)[1])
  total, rows = _scan_rows(body, none, batch, chunk_size)
  return rows, total


def _scan_rows(body: Callable, carry: PyTree, batch: PyTree, chunk_size: int | None) -> tuple[PyTree, PyTree]:
  """`lax.scan` of `(carry, chunk) -> (carry, rows)`, which gives the rows of all chunks in their order."""
  rows = row_count(batch)
  if chunk_size is None or rows is None or chunk_size == rows:
    return body(carry, batch)
  if chunk_size < 1 or rows % chunk_size:
    raise ValueError(f"chunk_size: {chunk_size} does not divide {rows} rows; give a divisor")
  leaves, structure = jax.tree.flatten(batch)
  split = [leaf.reshape(-1, chunk_size, *leaf.shape[1:]) for leaf in leaves if jnp.ndim(leaf)]

  def step(carry, chunks):
    chunks = iter(chunks)
    return body(carry, structure.unflatten([next(chunks) if jnp.ndim(leaf) else leaf for leaf in leaves]))

  carry, out = lax.scan(step, carry, split)
  return carry, jax.tree.map(lambda leaf: leaf.reshape(rows, *leaf.shape[2:]), out)


def value_and_grad(
  loss: Callable[[PyTree, PyTree], PyTree],
  params: PyTree,
  batch: PyTree,
  chunk_size: int | None = None,
  *,
  has_aux: bool = False,
) -> tuple[PyTree, PyTree]:
  """`jax.value_and_grad` of a loss that is a sum over the rows of a batch, a chunk at a time.

  Args:
    loss: `(params, chunk) -> scalar`, additive over rows: a mean brings its weights along in the batch.
    params: pytree of floating arrays.
    batch: as in `fold_rows`.
    chunk_size: as in `fold_rows`.
    has_aux: `loss` gives `(scalar, tree of sums over rows)`.

  Returns:
    `(loss, gradient in params)`, or `((loss, sums), gradient)`.

  Raises:
    ValueError: as `fold_rows`.
  """
  both = jax.value_and_grad(loss, has_aux=has_aux)
  return sum_rows(lambda chunk: ((), both(params, chunk)), batch, chunk_size)[1]


def suggest_chunk_size(
  apply: Apply,
  params: PyTree,
  image_shape: tuple[int, ...],
  rows: int,
  *,
  stats: PyTree | None = None,
  platform: str | None = None,
) -> int | None:
  """A `chunk_size` that keeps a chunk's maps in the processor's cache.

  Args:
    apply: a network.
    params: its parameters, or their shapes.
    image_shape: `(height, width, channels)`.
    rows: images per step and device.
    stats: running statistics, or their shapes.
    platform: of the devices; see `for_cpu`.

  Returns:
    A divisor of `rows`, or `None` where all of them at once are as good (on accelerators, and for small maps) or are
    needed together (batch norm).
  """
  if not for_cpu(platform) or jax.tree.leaves(stats):
    return None
  return chunk_of(rows, largest_map(apply, params, image_shape, stats=stats))


def largest_map(apply: Apply, params: PyTree, image_shape: tuple[int, ...], *, stats: PyTree | None = None) -> int:
  """Bytes of the largest of an image, the taps and the embedding of a network; arguments as `suggest_chunk_size`."""
  dtype = jnp.result_type(*jax.tree.leaves(params))
  image = jax.ShapeDtypeStruct((1, *image_shape), dtype)
  out = jax.eval_shape(lambda p, x: apply(p, x, train=True, stats=stats or None), params, image)
  return max(dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves((image, out.taps, out.embedding)))


def chunk_of(rows: int, largest: int) -> int | None:
  """A divisor of `rows`, so many that maps of `largest` bytes a row stay in the cache; `None` for all of them."""
  chunk = largest_divisor(rows, max(_FEWEST, _MAP_BYTES // max(largest, 1)))
  return chunk if chunk < rows else None


def largest_convolution(fn: Callable, *args: PyTree) -> int:
  """Bytes of the largest result of a convolution in a function; 0 without any."""

  def within(jaxpr) -> int:
    found = [0]
    for equation in jaxpr.eqns:
      if equation.primitive.name in ("jdistill_conv", "conv_general_dilated"):
        found += [out.aval.size * out.aval.dtype.itemsize for out in equation.outvars]
      found += [within(inner) for inner in jaxprs_in_params(equation.params)]
    return max(found)

  return within(jax.make_jaxpr(fn)(*args).jaxpr)
