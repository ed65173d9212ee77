"""Linear classifiers on frozen features: what a representation is worth."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Key, Network, Outputs, PyTree, UserError, Variables


class Scale:
  """Columns shifted and scaled to mean 0 and variance 1, as fitted on some rows; constant columns become 0."""

  def __init__(self, features: np.ndarray):
    """Fits the scale to rows `[n, D]`, `n >= 1`."""
    self._mean = features.mean(0, dtype=np.float64)
    deviation = features.std(0, dtype=np.float64)
    self._factor = np.where(deviation > 1e-7 * (1 + np.abs(self._mean)), 1 / np.maximum(deviation, 1e-30), 0)

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Rows `[n, D]` on that scale, float64."""
    return (np.asarray(features, np.float64) - self._mean) * self._factor


def ridge_probe(
  features: np.ndarray, labels: np.ndarray, num_classes: int, *, ridge: float = 1e-3
) -> Callable[[np.ndarray], np.ndarray]:
  """Ridge regression from features to one-hot labels, solved in closed form.

      min_(W, b) 1/n sum_i |W f_i + b - e_(y_i)|^2 + ridge |W|^2

  on features of mean 0 and variance 1, in float64. Scale and shift of a representation do not matter to it, and nothing
  has to be chosen by looking at results.

  Args:
    features: `[n, D]`.
    labels: `[n]` integers; negative ones mark examples without a label, which are left out.
    num_classes: number of classes.
    ridge: of the weights, above 0; the bias has none.

  Returns:
    `(features [m, D]) -> scores [m, num_classes]`, float32, of which the largest is the prediction.

  Raises:
    UserError: no example has a label.
  """
  known = np.asarray(labels) >= 0
  if not known.any():
    raise UserError("labels: none of the examples has one, so no probe can be fitted; give some, or score nothing")
  scale = Scale(features[known])
  rows, targets = scale(features[known]), np.eye(num_classes)[np.asarray(labels)[known]]
  mean = targets.mean(0)
  gram = rows.T @ rows / len(rows) + ridge * np.eye(rows.shape[1])
  weights = np.linalg.solve(gram, rows.T @ (targets - mean) / len(rows))
  return lambda other: (scale(other) @ weights + mean).astype(np.float32)


@functools.lru_cache(maxsize=64)
def linear_network(width: int, num_classes: int) -> Network:
  """A linear classifier of features `[n, width]` that starts from zeros, for probes trained like any other network."""

  def init(key: Key) -> Variables:
    del key
    return Variables({"kernel": jnp.zeros((width, num_classes)), "bias": jnp.zeros(num_classes)})

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    del train, rngs, sites
    return Outputs(x @ params["kernel"] + params["bias"][None], x, stats=stats or {})

  return Network(init, apply)
