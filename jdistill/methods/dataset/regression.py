"""What the methods share that predict real labels by a regression on the synthetic set: KIP, FRePo, RCIG."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, PyTree, UserError
from jdistill.ops import centred_one_hot
from jdistill.synthetic import SyntheticSet

CURE = "raise method.ridge, or lower the learning rates of method"


def initial_targets(initial: SyntheticSet, *, scaled: bool = False) -> jax.Array:
  """Regression targets `[m, classes]` of a starting set: label logits as they are, classes as centred one-hot vectors.

  Args:
    initial: the set.
    scaled: as for `jdistill.ops.centred_one_hot`.
  """
  if initial.labels.ndim == 2:
    return jnp.array(initial.labels, copy=True)  # the loop donates its state, and the initial set must outlive it
  return centred_one_hot(initial.labels, int(np.asarray(initial.labels).max()) + 1, scaled=scaled)


def check_learns(name: str, **rates: float) -> None:
  """Refuses learning rates that are all zero.

  Raises:
    UserError: with the keys.
  """
  if not any(rates.values()):
    keys = " and ".join(f"method.{key}=0" for key in rates)
    raise UserError(f"{keys}: {name} learns nothing; give one of them a positive rate")


def check_real(name: str, batch: Batch, image_shape: tuple[int, ...]) -> None:
  """Refuses batches that are not images of the set's shape with one class each.

  Raises:
    ValueError: with the shapes.
  """
  if batch.x.shape[1:] != image_shape or batch.y.shape != batch.x.shape[:1]:
    raise ValueError(
      f"{name}: real images {batch.x.shape} with labels {batch.y.shape}; the set has images {image_shape}"
    )


def label_margin(labels: jax.Array, cap: float) -> jax.Array:
  """`mean_i min(largest - second largest of y_i, cap)`: how decided labels are, as far as that counts.

  Args:
    labels: `[m, classes]` with at least two classes.
    cap: margins above it count as this.

  Returns:
    A scalar.
  """
  best, _ = jax.lax.top_k(labels, 2)
  return jnp.mean(jnp.minimum(best[:, 0] - best[:, 1], cap))


def share_correct(predictions: jax.Array, y: jax.Array) -> jax.Array:
  """Share of the rows `[b, classes]` whose largest entry is that of the class `y` `[b]`; a scalar float32."""
  return jnp.mean((jnp.argmax(predictions, axis=1).astype(y.dtype) == y).astype(jnp.float32))


def with_mirrors(images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Images `[m, height, width, channels]` with their left-right mirrors behind them, and labels `[m, ...]` twice."""
  return jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([targets, targets])


def start_of(
  initial: SyntheticSet, *, learn_labels: bool, scaled: bool = False
) -> tuple[dict[str, jax.Array], jax.Array | None]:
  """`(what is learned, the labels where they are not)`, copies of the initial set."""
  images, labels = jnp.array(initial.images, copy=True), initial_targets(initial, scaled=scaled)
  return ({"images": images, "labels": labels}, None) if learn_labels else ({"images": images}, labels)


def learned_set(state: PyTree) -> SyntheticSet:
  """The set of a state with `roles`, `labels` where they are not learned, and `lr`."""
  labels = state.roles["labels"].params if state.labels is None else state.labels
  return SyntheticSet(state.roles["images"].params, labels, state.lr)


def gradient_norms(grads: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Euclidean norms by what is learned, as metrics."""
  return {f"gradient/{name}": jnp.sqrt(jnp.sum(jnp.square(grad))) for name, grad in grads.items()}
