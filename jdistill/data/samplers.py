"""The batches of an epoch: pure index makers with static shapes."""

import jax
import jax.numpy as jnp

from jdistill.base import Key, UserError


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
