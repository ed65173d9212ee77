"""Checks of arguments that several rooms of pure functions share. All raise `ValueError` in one line.

Numbers that are being traced have no value yet and pass.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def known(value) -> bool:
  """Whether `value` can be looked at: not while JAX traces it."""
  return not isinstance(value, jax.core.Tracer)


def check_number(name: str, argument: str, value, holds, condition: str) -> None:
  """Raises `ValueError` unless `value` is a scalar for which `holds(value)`, told as `condition`."""
  if np.shape(value) != ():
    raise ValueError(f"{name}: {argument} must be a number, got shape {np.shape(value)}")
  if known(value) and not holds(float(value)):
    raise ValueError(f"{name}: {argument} must be {condition}, got {value}")


def check_positive(name: str, **numbers) -> None:
  """Raises `ValueError` unless all `numbers` are scalars above 0."""
  for argument, value in numbers.items():
    check_number(name, argument, value, lambda x: x > 0, "> 0")


def check_at_least(name: str, least: float, **numbers) -> None:
  """Raises `ValueError` unless all `numbers` are scalars and at least `least`."""
  for argument, value in numbers.items():
    check_number(name, argument, value, lambda x: x >= least, f">= {least}")


def check_share(name: str, **numbers) -> None:
  """Raises `ValueError` unless all `numbers` are scalars in [0, 1]."""
  for argument, value in numbers.items():
    check_number(name, argument, value, lambda x: 0 <= x <= 1, "in [0, 1]")


def check_same_shape(name: str, **arrays: jax.Array) -> None:
  """Raises `ValueError` naming all arguments with their shapes unless these are equal."""
  if len({np.shape(x) for x in arrays.values()}) > 1:
    listed = ", ".join(f"{argument} {np.shape(x)}" for argument, x in arrays.items())
    raise ValueError(f"{name}: shapes must be equal, got {listed}")


def check_rank(name: str, array_name: str, array: jax.Array, rank: int) -> None:
  """Raises `ValueError` unless `array` has `rank` axes."""
  if np.ndim(array) != rank:
    raise ValueError(f"{name}: {array_name} must have {rank} axes, got shape {np.shape(array)}")


def check_batch(name: str, size: int, least: int) -> None:
  """Raises `ValueError` if a function of examples together gets fewer than `least` of them."""
  if size < least:
    raise ValueError(f"{name}: needs at least {least} examples at once, got {size}")


def check_batches(name: str, student: jax.Array, teacher: jax.Array) -> None:
  """Raises `ValueError` if the two sides hold different numbers of examples."""
  if not np.ndim(student) or not np.ndim(teacher) or np.shape(student)[0] != np.shape(teacher)[0]:
    raise ValueError(f"{name}: student {np.shape(student)} and teacher {np.shape(teacher)} must hold the same examples")


def check_labels(name: str, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`labels` as an array. Raises `ValueError` unless they are integers of `shape`."""
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != tuple(shape):
    raise ValueError(f"{name}: labels must be integers of shape {tuple(shape)}, got {labels.dtype} {labels.shape}")
  return labels


def outside_range(indices, size: int) -> list[int]:
  """The first few of known `indices` that are not in `[0, size)`."""
  found = np.unique(np.asarray(indices))
  return found[(found < 0) | (found >= size)][:5].tolist()


def check_label_map(name: str, labels: jax.Array, num_classes: int, ignore: int) -> jax.Array:
  """`labels` as an array. Raises `ValueError` unless they are integers, and those known in `[0, C)` or `ignore`."""
  given, labels = labels, jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"{name}: labels must be integers, got {labels.dtype}")
  if known(given) and (wrong := outside_range(np.where(np.asarray(given) == ignore, 0, given), num_classes)):
    raise ValueError(f"{name}: labels must be in [0, {num_classes}) or ignore={ignore}, got {wrong}")
  return labels


def row_mask(name: str, where: jax.Array | None, size: int) -> jax.Array:
  """`where` as booleans `[size]`, all true for `None`.

  Raises:
    ValueError: if `where` has another shape.
  """
  if where is None:
    return jnp.ones(size, bool)
  if np.shape(where) != (size,):
    raise ValueError(f"{name}: where must have shape {(size,)}, got {np.shape(where)}")
  return jnp.asarray(where).astype(bool)


def leading_mask(name: str, where: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
  """`where` as booleans; `None`, which leaves nothing out, stays.

  Raises:
    ValueError: if the shape of `where` is not a leading part of `shape`, of one axis at least where there is one.
  """
  if where is None:
    return None
  where = jnp.asarray(where).astype(bool)
  if where.shape != tuple(shape)[: where.ndim] or (shape and not where.ndim):
    raise ValueError(f"{name}: where {where.shape} must be a leading part of {tuple(shape)}")
  return where


def keep(x: jax.Array, where: jax.Array | None) -> jax.Array:
  """`x` with zeros where the mask of its leading axes is false; what stood there reaches no value and no gradient."""
  if where is None:
    return x
  return jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x, jnp.zeros((), x.dtype))


def flat_rows(x: jax.Array) -> jax.Array:
  """`[B, ...]` as `[B, n]`, also for `B = 0`, where `reshape(0, -1)` fails."""
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))
