"""Short looks at a task before trajectory matching: how experts learn, and how well a set can follow them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import bilevel, models
from jdistill.base import Augmentation, Key, Network, Variables
from jdistill.losses import cross_entropy, trajectory_matching
from jdistill.methods.dataset.batches import augmented_batches
from jdistill.methods.dataset.trajectory import synthetic_loss
from jdistill.models.predict import predict
from jdistill.synthetic import SyntheticSet


class Curve(NamedTuple):
  """How an expert learned.

  Attributes:
    trajectory: `[epochs + 1, P]` parameters, of epoch 0 before the first step.
    accuracy: `[epochs + 1]` on held-out images.
    loss: mean cross entropy on them, in nats, after the last epoch.
    seconds_per_image: of a training step, without compilation.
  """

  trajectory: np.ndarray
  accuracy: list[float]
  loss: float
  seconds_per_image: float


class Learner:
  """Trains experts by plain SGD at any rate with one program; `epochs` are blocks of a fixed number of steps.

  Args:
    network: what is trained.
    x, y: training images in network space, and labels.
    held_x, held_y: held-out ones.
    steps: of an epoch.
    batch_size: random images of a step.
    augment: drawn anew for every image.
  """

  def __init__(self, network: Network, x, y, held_x, held_y, *, steps: int, batch_size: int, augment: Augmentation):
    self.network, self.flat = network, models.flatten(network)
    self.held, self.steps, self.batch_size = (held_x, held_y), steps, batch_size
    self.data = jnp.asarray(x), jnp.asarray(y, jnp.int32)  # arguments: as constants they would be compiled in

    def epoch(theta: jax.Array, lr: jax.Array, key: Key, images: jax.Array, labels: jax.Array) -> jax.Array:
      def step(theta: jax.Array, key: Key) -> tuple[jax.Array, None]:
        key_rows, key_augment = jax.random.split(key)
        rows = jax.random.randint(key_rows, (batch_size,), 0, images.shape[0])
        batch = augment.apply(augment.sample(key_augment, (batch_size, *images.shape[1:])), images[rows])

        def loss(theta: jax.Array) -> jax.Array:
          return jnp.mean(cross_entropy(self.flat.apply(theta, batch, train=True).logits, labels[rows]))

        return theta - lr * jax.grad(loss)(theta), None

      return jax.lax.scan(step, theta, jax.random.split(key, steps))[0]

    self._epoch = jax.jit(epoch)

  def logits(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`[n, classes]`"""
    return predict(self.network, Variables(self.flat.unravel(jnp.asarray(theta))), x)

  def train(self, key: Key, lr: float, epochs: int, *, seconds: float = float("inf")) -> Curve:
    """An expert of so many epochs, or of fewer where the seconds are spent before."""
    theta = self.flat.ravel(self.network.init(key).params)
    jax.block_until_ready(self._epoch(theta, jnp.float32(lr), key, *self.data))  # compiled outside the measurement
    found, begin = [np.asarray(theta)], time.monotonic()
    for number in range(epochs):
      theta = self._epoch(theta, jnp.float32(lr), jax.random.fold_in(key, number), *self.data)
      found.append(np.asarray(theta))
      if time.monotonic() - begin > seconds:
        break
    spent = (time.monotonic() - begin) / ((len(found) - 1) * self.steps * self.batch_size)
    return Curve(np.stack(found), [self.accuracy(one) for one in found], self.loss(found[-1]), spent)

  def accuracy(self, theta: np.ndarray, x: np.ndarray | None = None) -> float:
    """Share of held-out images, or of other views of them, that are classified correctly; 0 after divergence."""
    found = self.logits(theta, self.held[0] if x is None else x)
    return float(np.mean(found.argmax(-1) == self.held[1])) if np.isfinite(found).all() else 0.0

  def loss(self, theta: np.ndarray) -> float:
    """Mean cross entropy of held-out images, in nats; infinite after divergence."""
    found = self.logits(theta, self.held[0])
    if not np.isfinite(found).all():
      return float("inf")
    return float(np.mean(np.asarray(cross_entropy(jnp.asarray(found), jnp.asarray(self.held[1], jnp.int32)))))


class Matcher:
  """The outer loss of trajectory matching and its gradient, each one program for all rates and segments.

  Args:
    network: the experts'.
    initial: the synthetic set before the first step.
    inner_steps, batch_size: of the inner training; all images if `None`.
    augment: of the inner steps.
    learn_labels: whether label logits are learned.
    momentum: of inner steps.
  """

  def __init__(
    self,
    network: Network,
    initial: SyntheticSet,
    *,
    inner_steps: int,
    batch_size: int | None,
    augment: Augmentation,
    learn_labels: bool,
    momentum: float = 0.0,
  ):
    size, shape = initial.images.shape[0], initial.images.shape
    loss = synthetic_loss(models.flatten(network).apply, augment, shape[1:])
    self.initial, self.learn_labels = initial, learn_labels

    def outer(learned: Mapping[str, jax.Array], key: Key, start: jax.Array, target: jax.Array) -> jax.Array:
      indices, batches = augmented_batches(key, augment, shape, batch_size or size, inner_steps)
      if not learn_labels:
        batches["labels"] = jnp.asarray(initial.labels)[indices]
      shared = {name: learned[name].reshape(size, -1) for name in ("images", "labels") if name in learned}
      end = bilevel.unroll(loss, start, shared, batches, learned["lr"], indices=indices, momentum=momentum)
      return trajectory_matching(end, target, start)

    self.value, self.gradient = jax.jit(outer), jax.jit(jax.value_and_grad(outer))

  def learned(self, lr: float) -> dict[str, jax.Array]:
    """What is learned, before the first step."""
    found = {"images": jnp.asarray(self.initial.images), "lr": jnp.float32(lr)}
    return found | ({"labels": jnp.asarray(self.initial.labels)} if self.learn_labels else {})

  def losses(self, learned: Mapping[str, Any], segments: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The matching loss of each segment."""
    key = jax.random.key(0)
    return np.array([float(self.value(learned, key, *ends)) for ends in segments])

  def pilot(
    self, lr: float, rates: Mapping[str, float], momenta: Mapping[str, float], segments: Sequence[tuple], steps: int
  ) -> tuple[dict[str, jax.Array], float]:
    """`(what is learned after some steps of SGD, seconds per step)`, over the segments in turn."""
    learned = self.learned(lr)
    velocity, spent = jax.tree.map(jnp.zeros_like, learned), 0.0
    for step in range(steps):
      key, ends = jax.random.key(step), segments[step % len(segments)]
      begin = time.monotonic()
      value, gradient = jax.block_until_ready(self.gradient(learned, key, *ends))
      spent += time.monotonic() - begin
      if not np.isfinite(float(value)):
        break
      velocity = {name: momenta[name] * velocity[name] + gradient[name] for name in learned}
      learned = {name: learned[name] - rates[name] * velocity[name] for name in learned}
    return learned, spent / (step + 1)

  def scales(self, lr: float, segments: Sequence[tuple]) -> dict[str, float]:
    """Root mean square of the gradient by what is learned, at the start, over some segments."""
    found = [self.gradient(self.learned(lr), jax.random.key(i), *ends)[1] for i, ends in enumerate(segments)]
    root = lambda leaves: float(np.sqrt(np.mean([float(jnp.mean(jnp.square(leaf))) for leaf in leaves])))  # noqa: E731
    return {name: root([one[name] for one in found]) for name in found[0]}
