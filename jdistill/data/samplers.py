"""Which examples an epoch holds and in which batches: pure index makers with static shapes."""

import jax
import jax.numpy as jnp

from jdistill.base import Batch, DataSource, Key, UserError


def epoch_batches(key: Key, n: int, batch_size: int, *, drop_last: bool = False) -> tuple[jax.Array, jax.Array]:
  """One epoch in random order: a permutation of `0..n-1` cut into batches.

  The last batch is filled up with index 0 and masked, so every batch has the same shape and the masked indices hold
  every example exactly once.

  Args:
    key: what decides the order.
    n: the number of examples.
    batch_size: examples per batch; may exceed `n`.
    drop_last: leave out an incomplete last batch instead of filling it up.

  Returns:
    `(indices [steps, batch_size] int32, mask [steps, batch_size] bool)`; `False` marks padding. `steps` is
    `ceil(n / batch_size)`, or `floor` with `drop_last`.

  Raises:
    UserError: `n` or `batch_size` below 1, or `drop_last` with a batch larger than `n`, which leaves nothing.
  """
  if n < 1:
    raise UserError(f"n={n}: an epoch needs at least one example")
  if batch_size < 1:
    raise UserError(f"batch_size={batch_size}: must be at least 1")
  if drop_last and batch_size > n:
    raise UserError(
      f"batch_size={batch_size}: larger than the {n} examples, so drop_last drops all; lower it to at most {n}"
    )
  steps = n // batch_size if drop_last else -(-n // batch_size)
  order = jax.random.permutation(key, n).astype(jnp.int32)
  order = order[: steps * batch_size]
  padding = steps * batch_size - order.shape[0]
  mask = jnp.arange(steps * batch_size) < order.shape[0]
  return jnp.pad(order, (0, padding)).reshape(steps, batch_size), mask.reshape(steps, batch_size)


def static(x: jax.Array, y: jax.Array, ids: jax.Array | None = None) -> DataSource:
  """A source that gives the same examples every epoch.

  Args:
    x: `[n, height, width, channels]`.
    y: `[n]` integer labels, or `[n, classes]` label logits.
    ids: `[n]` stable names of the examples; `0..n-1` if not given.

  Returns:
    `(key, epoch) -> Batch`.

  Raises:
    UserError: `x`, `y` and `ids` differ in length.
  """
  examples = _examples(x, y, ids)

  def source(key: Key, epoch: jax.Array) -> Batch:
    del key, epoch
    return examples

  return source


def fresh_subset(x: jax.Array, y: jax.Array, fraction_or_size: float, ids: jax.Array | None = None) -> DataSource:
  """A source that gives a new random subset each epoch, drawn uniformly from all examples (RS2, "with replacement").

  Within an epoch no example occurs twice; between epochs the draws are independent. The subset of an epoch follows from
  `fold_in(key, epoch)`, so a resumed run draws the same ones.

  Args:
    x: `[n, height, width, channels]`.
    y: `[n]` integer labels, or `[n, classes]` label logits.
    fraction_or_size: a float in (0, 1] is a fraction `r` and gives `max(1, round(r * n))` examples; an int is their
      number. So `1.0` is everything and `1` is one example.
    ids: `[n]` stable names of the examples; `0..n-1` if not given.

  Returns:
    `(key, epoch) -> Batch`, always of the same shape.

  Raises:
    UserError: a fraction outside (0, 1], a size outside 1..n, or `x`, `y` and `ids` of different lengths.

  References:
    Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", ICLR 2024,
    arXiv 2305.18424.
  """
  examples = _examples(x, y, ids)
  n = examples.x.shape[0]
  size = _size(fraction_or_size, n)

  def source(key: Key, epoch: jax.Array) -> Batch:
    chosen = jax.random.permutation(jax.random.fold_in(key, epoch), n)[:size]
    return Batch(examples.x[chosen], examples.y[chosen], examples.ids[chosen])

  return source


def _size(fraction_or_size: float, n: int) -> int:
  value = fraction_or_size
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise UserError(f"fraction_or_size={value!r}: must be a fraction (float) or a number of examples (int)")
  if isinstance(value, float):
    if not 0 < value <= 1:
      raise UserError(f"fraction_or_size={value}: a fraction must lie in (0, 1]; give an int for a number of examples")
    return max(1, round(value * n))
  if not 1 <= value <= n:
    raise UserError(f"fraction_or_size={value}: must lie in 1..{n}, the number of examples")
  return value


def _examples(x: jax.Array, y: jax.Array, ids: jax.Array | None) -> Batch:
  x, y = jnp.asarray(x), jnp.asarray(y)
  ids = jnp.arange(x.shape[0], dtype=jnp.int32) if ids is None else jnp.asarray(ids, jnp.int32)
  if not x.shape[0] == y.shape[0] == ids.shape[0]:
    raise UserError(
      f"x, y, ids: lengths {x.shape[0]}, {y.shape[0]}, {ids.shape[0]} differ; give one of each per example"
    )
  return Batch(x, y, ids)
