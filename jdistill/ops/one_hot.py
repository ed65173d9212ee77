"""Classes as targets of a regression."""

import jax
import jax.numpy as jnp


def centred_one_hot(labels: jax.Array, num_classes: int, *, scaled: bool = False) -> jax.Array:
  """`1 - 1/C` for the class and `-1/C` for the others: one-hot labels whose mean over classes is 0.

  Args:
    labels: `[n]` integers in `[0, num_classes)`.
    num_classes: `C`.
    scaled: divide by `sqrt(C / 10)`, so that the squared norm of a label does not grow with the number of classes
      relative to a prediction's.

  Returns:
    `[n, C]` float32.

  Raises:
    ValueError: labels that are not integers `[n]`.

  References:
    Nguyen et al. (KIP, arXiv 2011.00050), the labels of its experiments; Zhou et al. (FRePo, arXiv 2206.00719) for the
    scale.
  """
  labels = jnp.asarray(labels)
  if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"centred_one_hot: labels must be integers [n], got {labels.dtype} {labels.shape}")
  targets = jax.nn.one_hot(labels, num_classes) - 1 / num_classes
  return targets / (num_classes / 10) ** 0.5 if scaled else targets
