"""Samples of a student that join the few images it learns from, where a frozen network finds them near enough."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Key
from jdistill.ops.checks import check_rank, check_share, row_mask
from jdistill.ops.pairwise import gram, unit
from jdistill.ops.precision import widen


class Echoes(NamedTuple):
  """A pool of accepted samples, of which a full one forgets the oldest.

  Attributes:
    images: `[capacity, ...]`.
    offered, accepted: scalar int32, how many there ever were; the first `min(accepted, capacity)` images are in use.
  """

  images: jax.Array
  offered: jax.Array
  accepted: jax.Array

  @property
  def held(self) -> jax.Array:
    """Scalar int32, how many images are in use."""
    return jnp.minimum(self.accepted, self.images.shape[0])


def no_echoes(capacity: int, shape: tuple[int, ...]) -> Echoes:
  """An empty pool for so many images of a shape."""
  return Echoes(jnp.zeros((capacity, *shape)), jnp.int32(0), jnp.int32(0))


def accept_similar(
  features: jax.Array,
  references: jax.Array,
  names: jax.Array,
  *,
  threshold: float | None = None,
  where: jax.Array | None = None,
) -> jax.Array:
  """Which samples are as similar to the references as these are to each other.

  The similarity of a sample is the mean cosine of its features with those of all references.

  Args:
    features: `[n, D]` of samples, by a frozen network.
    references: `[m, D]`, the same of references.
    names: `[m]` int32, which reference it is: an image may be there several times.
    threshold: the least similarity; `None` for the lowest one of a reference to those of other names, and then nothing
      is accepted where there is one name only.
    where: `[m]`, false for rows that are no references.

  Returns:
    `[n]` bool; all false without references. A sample that is not finite is not accepted.

  Raises:
    ValueError: features that are not two matrices of one width.
  """
  name = "accept_similar"
  check_rank(name, "features", features, 2)
  check_rank(name, "references", references, 2)
  if features.shape[1] != references.shape[1]:
    raise ValueError(f"{name}: features {features.shape} and references {references.shape} must have one width")
  kept = row_mask(name, where, references.shape[0])
  wanted = jnp.where(kept[:, None], unit(widen(references)), 0)
  found = jnp.sum(gram(unit(widen(features)), wanted), axis=1) / _count(kept, wanted)
  finite = jnp.all(jnp.isfinite(widen(features)), axis=1)  # `unit` of what is not finite is zero
  if threshold is not None:
    return finite & (found >= threshold) & jnp.any(kept)
  others = kept[:, None] & kept[None] & (names[:, None] != names[None])
  among = jnp.sum(jnp.where(others, gram(wanted, wanted), 0), axis=1) / _count(others, wanted)
  known = jnp.any(others, axis=1)
  return finite & (found >= jnp.min(jnp.where(known, among, jnp.inf))) & jnp.any(known)


def _count(mask: jax.Array, like: jax.Array) -> jax.Array:
  """How many there are along the last axis, 1 for none."""
  return jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(like.dtype)


def echo_pool(
  generate: Callable[[Key, jax.Array], jax.Array],
  key: Key,
  cond: jax.Array,
  accept: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Samples of a student, those that were accepted first.

  Args:
    generate: `(key, cond [n]) -> [n, ...]`, one call of the student.
    key: of the noise.
    cond: `[n]`, the prompts.
    accept: `(samples) -> [n]` bool.

  Returns:
    `(samples [n, ...], scalar int32)`: the first so many are accepted; no gradient.
  """
  images = lax.stop_gradient(generate(key, cond))
  finite = jnp.all(jnp.isfinite(images), axis=tuple(range(1, images.ndim)))
  accepted = accept(images) & finite
  return images[jnp.argsort(~accepted, stable=True)], jnp.sum(accepted, dtype=jnp.int32)


def pool_echoes(pool: Echoes, images: jax.Array, accepted: jax.Array) -> Echoes:
  """A pool with what `echo_pool` gave; `images` are at most as many as the pool can hold.

  Raises:
    ValueError: there are more.
  """
  capacity, offered = pool.images.shape[0], images.shape[0]
  if offered > capacity:
    raise ValueError(f"pool_echoes: {offered} images at once for a pool of {capacity}; offer fewer")
  numbers = jnp.arange(offered, dtype=jnp.int32)
  places = jnp.where(numbers < accepted, (pool.accepted + numbers) % capacity, capacity)  # the last is dropped
  kept = pool.images.at[places].set(images.astype(pool.images.dtype), mode="drop")
  return Echoes(kept, pool.offered + offered, pool.accepted + accepted)


def mix_echoes(key: Key, pool: Echoes, x: jax.Array, share: float, *, where: jax.Array | None = None):
  """A batch in which echoes stand for some examples: at most `share` of all rows, and none while the pool is empty.

  Args:
    key: which echoes.
    pool: of echoes.
    x: `[B, ...]` examples.
    share: the cap, in [0, 1].
    where: `[B]`, rows that an echo may stand for.

  Returns:
    `(x [B, ...], [B] bool)`: the batch, and which rows are echoes.

  Raises:
    ValueError: a share outside [0, 1].
  """
  check_share("mix_echoes", share=share)
  allowed = row_mask("mix_echoes", where, x.shape[0])
  chosen = jax.random.randint(key, (x.shape[0],), 0, jnp.maximum(pool.held, 1))
  most = int(share * x.shape[0] + 1e-9)
  echo = allowed & (jnp.cumsum(allowed) <= most) & (pool.held > 0)
  return jnp.where(echo.reshape(-1, *(1,) * (x.ndim - 1)), pool.images[chosen].astype(x.dtype), x), echo
