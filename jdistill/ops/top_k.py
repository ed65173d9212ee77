"""The greatest logits of a distribution in the place of all of them, and back."""

import jax
import jax.numpy as jnp


def spread(values: jax.Array, classes: jax.Array, others: jax.Array) -> jax.Array:
  """Logits of all classes: `values` at `classes`, and `others` at every other one.

  Args:
    values: `[..., k]`.
    classes: `[..., k]` integers in `[0, C)`, all different.
    others: `[..., C]`, what stands where no value does.

  Returns:
    `[..., C]` of the type of `others`.
  """
  return jnp.put_along_axis(others, classes.astype(jnp.int32), values, axis=-1, inplace=False)


def greatest(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The `k` greatest logits, their classes, and the logarithm of the sum of the exponentials of the others.

  Args:
    logits: `[..., C]`.
    k: in `1..C - 1`.

  Returns:
    `(values [..., k], classes [..., k] int32, rest [...])`; equal logits are taken in the order of their classes.
  """
  values, classes = jax.lax.top_k(logits, k)
  left_out = jnp.put_along_axis(logits, classes, jnp.asarray(-jnp.inf, logits.dtype), axis=-1, inplace=False)
  return values, classes, jax.nn.logsumexp(left_out, axis=-1)
