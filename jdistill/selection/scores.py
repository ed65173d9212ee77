"""How hard, how uncertain or how often forgotten every example is: scores by which examples are kept."""

import jax
import jax.numpy as jnp

from jdistill.ops.logits import probs


def label_residuals(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`softmax(logits) - onehot(labels)`, the gradient of the cross entropy in the logits.

  The entry of the label is minus the sum of the other probabilities, so that it does not round to 0 where the label has
  nearly all of the probability.

  Args:
    logits: `[..., n, C]`.
    labels: `[n]` integers.

  Returns:
    `[..., n, C]` float32 or float64.
  """
  own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(own, 0, probs(logits))
  return jnp.where(own, -jnp.sum(others, axis=-1, keepdims=True), others)


def el2n(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean over networks of `|| softmax(logits) - onehot(labels) ||_2`, between 0 (sure and right) and `sqrt(2)`.

  Args:
    logits: `[runs, n, C]`, of networks after a few epochs.
    labels: `[n]` integers.

  Returns:
    `[n]`.

  References:
    Paul et al., "Deep Learning on a Data Diet" (arXiv 2107.07075), which keeps the highest. Sets of a few images per
    class are better made of the lowest (arXiv 2502.06434).
  """
  return jnp.mean(jnp.linalg.norm(label_residuals(logits, labels), axis=-1), axis=0)
