"""The one trainer behind every evaluation: a fresh network, a data source, stored targets, a protocol."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.augment import identity
from jdistill.base import Augmentation, Batch, Key, Network, Pool, PyTree, Variables
from jdistill.data.samplers import epoch_batches
from jdistill.ops.rows import suggest_chunk_size, value_and_grad


class Protocol(NamedTuple):
  """How a network is trained on a (distilled) set: the field's evaluation after DC, MTT and DATM.

  SGD on the mean cross entropy against class probabilities; the learning rate is divided by ten once, after epoch
  `epochs // 2 + 1`, where the velocity starts again from zero, as the released code rebuilds its optimiser.

  Attributes:
    epochs: training runs over epochs `0..epochs` inclusive.
    batch_size: images per step; at most the size of the set.
    momentum: of SGD.
    weight_decay: added to the gradient.
    augment: drawn anew for every image of every step.
  """

  epochs: int = 1000
  batch_size: int = 128
  momentum: float = 0.9
  weight_decay: float = 5e-4
  augment: Augmentation = identity()


def same_examples(data: Batch, key: Key, epoch: jax.Array) -> Batch:
  """The data source that gives the same examples every epoch."""
  del key, epoch
  return data


def stored_targets(key: Key, x: jax.Array, examples: Batch) -> jax.Array:
  """The target source whose class probabilities lie beside the images, in `examples.y`."""
  del key, x
  return examples.y


@functools.lru_cache(maxsize=32)
def trainer(
  network: Network,
  protocol: Protocol,
  draw: Callable[[PyTree, Key, jax.Array], Batch] = same_examples,
  targets: Callable[[Key, jax.Array, Batch], jax.Array] = stored_targets,
) -> Callable[[Key, PyTree, jax.Array], Variables]:
  """Builds the training of one fresh network as a jitted function; equal arguments share one program.

  Args:
    network: what is trained.
    protocol: how.
    draw: the data source, `(data, key, epoch) -> Batch` of one size for all epochs. A `DataSource` that holds its
      data fits as `lambda data, key, epoch: source(key, epoch)`; taking the data as an argument keeps it out of the
      compiled program.
    targets: the target source, `(key, augmented pixels, examples of the batch) -> [batch, classes]` probabilities
      (`TargetSource.targets`).

  Returns:
    `(key, data, lr) -> Variables` after the last step; with the default sources `data` are a `Batch` whose `y` are
    class probabilities `[n, classes]`.
  """

  def loss(params, rows, stats=None):
    images, targets, weight = rows
    out = network.apply(params, images, train=True, stats=stats)
    losses = -jnp.sum(targets * jax.nn.log_softmax(out.logits), axis=-1)
    return jnp.sum(weight * losses), out.stats

  def gradient(variables, rows):
    """The gradient and the new running statistics; in chunks where no statistics couple the rows."""
    params, stats = variables
    if jax.tree.leaves(stats):
      return jax.grad(loss, has_aux=True)(params, rows, stats)
    images = rows[0]
    chunk = suggest_chunk_size(network.apply, params, images.shape[1:], images.shape[0])
    return value_and_grad(lambda p, rows: loss(p, rows)[0], params, rows, chunk)[1], stats

  def epoch(lr, data, key_data, carry, row):
    index, key = row
    key_order, key_augment = jax.random.split(key)
    examples = draw(data, key_data, index)
    count = examples.x.shape[0]
    indices, mask = epoch_batches(key_order, count, min(protocol.batch_size, count))
    shape = (indices.shape[1], *examples.x.shape[1:])
    drop = protocol.epochs // 2 + 1
    rate = lr * jnp.where(index > drop, 0.1, 1.0).astype(lr.dtype)

    def step(carry, row):
      variables, velocity = carry
      picked, valid, key = row
      batch = jax.tree.map(lambda leaf: leaf[picked], examples)
      images = protocol.augment.apply(protocol.augment.sample(key, shape), batch.x)
      weight = valid.astype(images.dtype) / jnp.sum(valid).astype(images.dtype)
      wanted = lax.stop_gradient(targets(jax.random.fold_in(key, 1), images, batch))
      grads, stats = gradient(variables, (images, wanted, weight))
      velocity = jax.tree.map(
        lambda v, g, p: protocol.momentum * v + g + protocol.weight_decay * p, velocity, grads, variables.params
      )
      params = jax.tree.map(lambda p, v: p - rate * v, variables.params, velocity)
      return (Variables(params, stats), velocity), None

    variables, velocity = carry
    velocity = jax.tree.map(lambda v: jnp.where(index == drop + 1, jnp.zeros_like(v), v), velocity)
    keys = jax.random.split(key_augment, indices.shape[0])
    carry, _ = lax.scan(step, (variables, velocity), (indices, mask, keys))
    return carry, None

  @jax.jit
  def train(key: Key, data: PyTree, lr: jax.Array) -> Variables:
    key_init, key_epochs = jax.random.split(key)
    variables = network.init(key_init)
    velocity = jax.tree.map(jnp.zeros_like, variables.params)
    epochs = jnp.arange(protocol.epochs + 1)
    rows = (epochs, jax.random.split(key_epochs, protocol.epochs + 1))
    (variables, _), _ = lax.scan(
      functools.partial(epoch, lr, data, jax.random.fold_in(key, 1)), (variables, velocity), rows
    )
    return variables

  return train


@functools.lru_cache(maxsize=32)
def _logits(network: Network) -> Callable:
  return jax.jit(lambda variables, x: network.apply(variables.params, x, stats=variables.stats).logits)


def predict(network: Network, variables: Variables, x: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
  """Logits `[n, classes]` of a network in evaluation mode, batch by batch; the last batch is filled up."""
  out = []
  batch_size = min(batch_size, len(x))
  for begin in range(0, len(x), batch_size):
    rows = x[begin : begin + batch_size]
    padded = np.concatenate([rows, np.zeros((batch_size - len(rows), *x.shape[1:]), x.dtype)])
    out.append(np.asarray(_logits(network)(variables, padded))[: len(rows)])
  return np.concatenate(out)


def accuracy(network: Network, variables: Variables, x: np.ndarray, y: np.ndarray) -> float:
  """Share of images whose largest logit is that of their label."""
  return float(np.mean(predict(network, variables, x).argmax(-1) == y))


def probabilities(labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Class probabilities `[n, classes]` of integer labels `[n]` (one-hot) or label logits `[n, classes]` (softmax)."""
  labels = np.asarray(labels)
  if labels.ndim == 1:
    return np.eye(num_classes, dtype=np.float32)[labels]
  shifted = np.exp(labels - labels.max(-1, keepdims=True))
  return (shifted / shifted.sum(-1, keepdims=True)).astype(np.float32)


def examples_of(images: np.ndarray, labels: np.ndarray, num_classes: int) -> Batch:
  """A training set for `trainer`: images with integer labels or label logits."""
  ids = jnp.arange(len(images), dtype=jnp.int32)
  return Batch(jnp.asarray(images), jnp.asarray(probabilities(labels, num_classes)), ids)


@functools.lru_cache(maxsize=32)
def _pooled_trainer(network: Network, protocol: Protocol, pool: Pool, own_sets: bool) -> Callable:
  return pool.spread(trainer(network, protocol), (True, own_sets, False))


def _train_pooled(
  network: Network,
  protocol: Protocol,
  examples: Batch | list[Batch],
  rate: jax.Array,
  keys: list[Key],
  pool: Pool,
) -> Iterator[Variables]:
  """The networks of several seeds, trained at once; what fills up the pool is trained and thrown away."""
  filled = [index if index < len(keys) else len(keys) - 1 for index in range(-(-len(keys) // pool.size) * pool.size)]
  own_sets = isinstance(examples, list)
  data = examples
  if own_sets:
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(examples[index] for index in filled))
  train = _pooled_trainer(network, protocol, pool, own_sets)
  stacked = pool.fetch(train(jnp.stack([keys[index] for index in filled]), data, rate))
  for index in range(len(keys)):
    yield jax.tree.map(lambda leaf, index=index: leaf[index], stacked)


def evaluate_seeds(
  network: Network,
  protocol: Protocol,
  examples: Batch | list[Batch],
  lr: float,
  test_x: np.ndarray,
  test_y: np.ndarray,
  *,
  key: Key,
  seeds: int,
  first: int = 0,
  pool: Pool | None = None,
) -> list[float]:
  """Trains `seeds` fresh networks on one set and tests each.

  On accelerators the seeds train at once (`vmap`); on CPU one after another, where stacked convolutions would only
  cost memory; with a pool, spread over its devices. All give seed `i` the key `fold_in(key, i)`.

  Args:
    network: what is trained.
    protocol: how.
    examples: the set, from `examples_of`; a list has one of the same size for every seed (with a pool only).
    lr: learning rate.
    test_x: `[n,H,W,C]` test images in network space.
    test_y: `[n]` labels.
    key: decides initialisations, orders and augmentations.
    seeds: how many networks.
    first: number of the first seed, for going on where an earlier call ended.
    pool: devices that train at once.

  Returns:
    Test accuracies as fractions, one per seed.
  """
  train, rate = trainer(network, protocol), jnp.asarray(lr, jnp.float32)
  keys = [jax.random.fold_in(key, index) for index in range(first, first + seeds)]
  if pool is not None:
    trained = _train_pooled(network, protocol, examples, rate, keys, pool)
  elif jax.default_backend() == "cpu":
    trained = (train(one, examples, rate) for one in keys)
  else:
    stacked = jax.vmap(train, in_axes=(0, None, None))(jnp.stack(keys), examples, rate)
    trained = (jax.tree.map(lambda leaf, i=index: leaf[i], stacked) for index in range(seeds))
  return [accuracy(network, variables, test_x, test_y) for variables in trained]
