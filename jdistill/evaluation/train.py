"""The field's evaluation: fresh networks trained on a set under one protocol, and tested."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill.augment import identity, show
from jdistill.base import Augmentation, Batch, DataPolicy, Key, Method, Network, Variables, View
from jdistill.data.policies import shuffle
from jdistill.methods.knowledge import Recipe, StepOutputs, StudentInput, Term, logits, student_method
from jdistill.methods.optimizers import Schedule, make_optimizer, schedule
from jdistill.models import predict
from jdistill.ops import centred_one_hot
from jdistill.ops.rows import suggest_chunk_size
from jdistill.training import run_loop, suggest_steps_per_call
from jdistill.training.policy_stream import Row, policy_stream
from jdistill.training.side_by_side import places


class Protocol(NamedTuple):
  """How a network is trained on a (distilled) set: the field's evaluation after DC, MTT and DATM.

  SGD on the mean cross entropy with the labels, or what `optimizer` and `loss` say; the learning rate is divided by ten
  once, after epoch `epochs // 2 + 1`, where the velocity starts again from zero, as the released code rebuilds its
  optimiser, or what `schedule` says. Feature targets are regressed to at a constant rate instead (KRR-ST, arXiv
  2310.06511).

  Attributes:
    epochs: training runs over epochs `0..epochs` inclusive; over `epochs` of them for feature targets and with
      `"cosine"`.
    batch_size: images per step; at most the size of the set.
    momentum: of SGD.
    weight_decay: added to the gradient; with `"adamw"` apart from it.
    augment: drawn anew for every image of every step.
    loss: `"ce"`, cross entropy with the labels' probabilities; `"mse"`, half the squared distance of the logits to the
      labels, which are regression targets then: label logits as they are, classes as centred one-hot vectors;
      `"features"`, the mean over the entries of the squared distance of the logits to feature targets.
    optimizer: `"sgd"`, or `"adam"` or `"adamw"`, which have no use for `momentum`.
    schedule: `"step"`, the drop by ten; or `"cosine"`, in epoch `e` the rate times `(1 + cos(pi e / epochs)) / 2`
      (the benchmark of arXiv 2502.06434). Without effect for feature targets.
    decay_all: false spares biases and norms the weight decay.
  """

  epochs: int = 1000
  batch_size: int = 128
  momentum: float = 0.9
  weight_decay: float = 5e-4
  augment: Augmentation = identity()
  loss: str = "ce"
  optimizer: str = "sgd"
  schedule: str = "step"
  decay_all: bool = True

  @property
  def drops(self) -> tuple[int, ...]:
    """The first epoch with the lower rate, if there is one."""
    return (self.epochs // 2 + 2,) if self.loss != FEATURES and self.schedule == "step" else ()

  @property
  def length(self) -> int:
    """How many epochs there are."""
    return self.epochs + len(self.drops)


LOSSES, FEATURES = ("ce", "mse"), "features"
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine")
_REPEATED = 2**24  # bytes of a set that each seed may have a copy of
_CERTAIN = 200.0  # a label logit beside zeros whose softmax is exactly 1 in float32


class _Shared(NamedTuple):
  data: Batch
  lr: jax.Array


def _join(shared: _Shared, row: Row) -> StudentInput:
  batch = jax.tree.map(lambda leaf: leaf[row.index], shared.data)._replace(weight=row.weight)
  return StudentInput(batch, row.step, row.epoch, lr_scale=shared.lr)


def _squared_error(step: StepOutputs) -> jax.Array:
  return 0.5 * jnp.sum(jnp.square(step.student.logits - step.y), axis=-1)


def _mean_squared_error(step: StepOutputs) -> jax.Array:
  return jnp.mean(jnp.square(step.student.logits - step.y), axis=-1)


_RECIPES = {
  "mse": Recipe({"mse": Term(_squared_error)}, needs=("labels",)),
  FEATURES: Recipe({"mse": Term(_mean_squared_error)}, needs=("labels",)),
}


def _rates(protocol: Protocol) -> Schedule:
  """The learning rate by epoch, as a share of the first one; the same within an epoch."""
  cosine = protocol.schedule == "cosine" and protocol.loss != FEATURES
  rate = schedule("cosine" if cosine else "step", 1.0, epochs=protocol.length, milestones=protocol.drops)
  return (lambda epoch: rate(jnp.floor(epoch))) if cosine else rate


@functools.lru_cache(maxsize=16)
def _method(network: Network, protocol: Protocol, shape: tuple[int, ...], rows: int) -> Method:
  """Training under a protocol with a learning rate of 1, which the stream scales: one program for all rates."""
  start = jax.eval_shape(network.init, jax.random.key(0))
  return student_method(
    network,
    logits.ce() if protocol.loss == "ce" else _RECIPES[protocol.loss],
    optimizer=make_optimizer(
      protocol.optimizer,
      _rates(protocol),
      momentum=protocol.momentum,
      weight_decay=protocol.weight_decay,
      decay_all=protocol.decay_all,
      restart=protocol.drops,
    ),
    augment=protocol.augment,
    chunk_size=suggest_chunk_size(network.apply, start.params, shape, rows, stats=start.stats),
  )


@functools.lru_cache(maxsize=16)
def _policy(size: int, batch_size: int) -> DataPolicy:
  return shuffle(size, batch_size, drop_last=False)


def examples_of(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int | None = None,
  loss: str = "ce",
  view: View | None = None,
) -> Batch:
  """A training set: images `[n,H,W,C]` with integer labels `[n]` or label logits `[n, classes]`.

  With `num_classes` integer labels become logits whose softmax is one-hot, so that sets of both kinds are trained on by
  the same program. For `loss="mse"` they become centred one-hot vectors (`jdistill.ops.centred_one_hot`). With a `view`
  the examples are all that it shows in the place of the images, with their labels.

  Raises:
    ValueError: integer labels without `num_classes` for `loss="mse"`.
  """
  labels = np.asarray(labels)
  if labels.ndim == 1 and loss == "mse":
    if num_classes is None:
      raise ValueError("examples_of: integer labels need num_classes to become regression targets")
    labels = centred_one_hot(labels.astype(np.int32), num_classes)
  elif labels.ndim == 1 and num_classes is not None:
    labels = _CERTAIN * np.eye(num_classes)[labels]
  labels = np.asarray(labels)
  labels = labels.astype(np.int32 if labels.ndim == 1 else np.float32)
  if view is not None:
    images, labels = show(view, jnp.asarray(images)), np.repeat(labels, view.copies, axis=0)
  return Batch(np.asarray(images), labels, np.arange(len(images), dtype=np.int32))


def train_seeds(
  network: Network,
  protocol: Protocol,
  examples: Batch | Sequence[Batch],
  lr: float,
  *,
  key: Key,
  seeds: int,
  first: int = 0,
  mesh: Mesh | None = None,
) -> Variables:
  """Trains `seeds` fresh networks on one set, or each on its own.

  Args:
    network, protocol, examples, lr, key, seeds, first, mesh: as for `evaluate_seeds`.

  Returns:
    `Variables` with a leading axis of seeds.
  """
  filled = places(seeds, mesh)  # any number of seeds up to that of devices is the same program
  sets = [examples] if isinstance(examples, Batch) else [examples[i] for i in filled]
  if len(sets) == 1 and sum(leaf.nbytes for leaf in jax.tree.leaves(sets[0])) < _REPEATED:
    sets *= len(filled)  # and so are a set for all and a set for each
  data = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *sets)
  size = len(sets[0].ids)
  members = np.stack([np.arange(size) + (size * i if len(sets) > 1 else 0) for i in range(len(filled))])
  rows, numbers, epochs = min(protocol.batch_size, size), [first + i for i in filled], protocol.length
  key_order, key = jax.random.split(key)
  policy = _policy(size, rows)
  stream = policy_stream(
    policy,
    key_order,
    shared=_Shared(data, jnp.asarray(lr, jnp.float32)),
    members=members,
    join=_join,
    epochs=epochs,
    seeds=numbers,
    batch_size=rows,
  )
  outcome = run_loop(
    _method(network, protocol, data.x.shape[1:], rows),
    stream,
    key=key,
    steps=None,
    steps_per_call=suggest_steps_per_call(policy.steps, epochs),
    log_every=2**30,
    seeds=numbers,
    at_once=jax.default_backend() != "cpu",
    pool_mesh=mesh,
    guard=False,  # a network that diverges is told by its accuracy, which is NaN
  )
  return jax.tree.map(lambda leaf: leaf[:seeds], outcome.result.variables["student"])


def accuracy(network: Network, variables: Variables, x: np.ndarray, y: np.ndarray) -> float:
  """Share of images whose largest logit is that of their label; NaN for a network that diverged."""
  found = predict(network, variables, x)
  return float(np.mean(found.argmax(-1) == y)) if np.isfinite(found).all() else float("nan")


def evaluate_seeds(
  network: Network,
  protocol: Protocol,
  examples: Batch | Sequence[Batch],
  lr: float,
  test_x: np.ndarray,
  test_y: np.ndarray,
  *,
  key: Key,
  seeds: int,
  first: int = 0,
  mesh: Mesh | None = None,
) -> list[float]:
  """Trains `seeds` fresh networks on one set and tests each.

  On accelerators the seeds of a device train at once (`vmap`); on CPUs one after another, where stacked convolutions
  would only cost memory. Either way seed `i` gets the key `fold_in(key, i)`. Programs are kept: further seeds, and sets
  of the same size, do not compile again.

  Args:
    network: what is trained.
    protocol: how.
    examples: the set, from `examples_of`; or one of the same size for every seed.
    lr: learning rate.
    test_x: `[n,H,W,C]` test images in network space.
    test_y: `[n]` labels.
    key: decides initialisations, orders and augmentations.
    seeds: how many networks.
    first: number of the first seed, for going on where an earlier call ended.
    mesh: spreads the seeds over its axis `pool`.

  Returns:
    Test accuracies as fractions, one per seed; NaN for a network that diverged.
  """
  trained = jax.device_get(train_seeds(network, protocol, examples, lr, key=key, seeds=seeds, first=first, mesh=mesh))
  networks = (jax.tree.map(lambda leaf, i=index: leaf[i], trained) for index in range(seeds))
  return [accuracy(network, variables, test_x, test_y) for variables in networks]
