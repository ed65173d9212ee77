"""What clients tell of their data, and how far they are from each other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch


def class_statistics(x: jax.Array, y: jax.Array, weight: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
  """Mean and standard deviation of every channel over the pixels of each class.

  Args:
    x: `[n, height, width, channels]`.
    y: `[n]` integers.
    weight: `[n]`, 0 for padding.
    num_classes: number of classes.

  Returns:
    `(mean [C, channels], standard deviation [C, channels])`, divided by the number of pixels of the class. A class
    without examples has 0 for both.

  References:
    The initialisation of FedLGD (arXiv 2303.02278). Its released code divides the sum over a class by the number of
    pixels of the whole client.
  """
  member = jax.nn.one_hot(y, num_classes, dtype=x.dtype) * (weight > 0).astype(x.dtype)[:, None]  # [n, C]
  count = jnp.maximum(jnp.sum(member, axis=0), 1)[:, None]  # [C, 1]
  mean = member.T @ jnp.mean(x, axis=(1, 2)) / count
  gap = jnp.mean(jnp.square(x - mean[y][:, None, None]), axis=(1, 2))  # [n, channels], within the own class
  return mean, jnp.sqrt(member.T @ gap / count)


def client_share(features: np.ndarray) -> float:
  """How much of the spread of features within classes lies between clients: 0 for clients alike, 1 for nothing else.

      sum_c sum_k |m_ck - m_c|^2 / sum_c mean_i sum_k |f_cki - m_c|^2

  with `m_ck` the mean of class `c` at client `k` and `m_c` that of all clients. It is biased upwards for few examples:
  compare only what has the same number of them.

  Args:
    features: `[classes, clients, examples, D]`, the same number for every class and client.
  """
  features = np.asarray(features, np.float64)
  centre = features.mean((1, 2), keepdims=True)
  between = np.square(features.mean(2, keepdims=True) - centre).sum()
  total = np.square(features - centre).sum() / features.shape[2]
  return float(between / total) if total > 0 else 0.0


def stacked_batches(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
  """The examples of clients as arrays of one size, filled up with zeros of weight 0.

  Args:
    parts: `(x [n, ...], y [n])` of each client.

  Returns:
    `x` `[clients, n, ...]`, `y` `[clients, n]` int32, `ids` `[clients, n]` positions, `weight` `[clients, n]`.
  """
  most = max(len(y) for _, y in parts)

  def fill(leaf: np.ndarray) -> np.ndarray:
    return np.concatenate([leaf, np.zeros((most - len(leaf), *leaf.shape[1:]), leaf.dtype)])

  x, y = (np.stack([fill(np.asarray(part[i])) for part in parts]) for i in (0, 1))
  weight = np.stack([np.arange(most) < len(y) for _, y in parts]).astype(np.float32)
  ids = np.broadcast_to(np.arange(most, dtype=np.int32), weight.shape)
  return Batch(x.astype(np.float32), y.astype(np.int32), ids, weight)
