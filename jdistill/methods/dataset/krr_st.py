"""KRR-ST: images with feature targets, from which ridge regression predicts a target model's features of real ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.augment import identity
from jdistill.base import Apply, Augmentation, Batch, Key, Method, Metrics, Network, UserError, Variables
from jdistill.methods.dataset.batches import random_batches
from jdistill.methods.dataset.pool import Pool, PoolState, mean_squared_error, model_pool
from jdistill.methods.dataset.regression import CURE, gradient_norms
from jdistill.methods.optimizers import make_optimizer, schedule
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.ops import append_bias, krr_predict
from jdistill.ops.pairwise import gram
from jdistill.schema import Count, NonNegative, Positive, Share, validated
from jdistill.synthetic import Feed, Materials, SyntheticSet


class Taught(NamedTuple):
  """What a step sees: real images, and the target model's variables, so that they are no constants of the program."""

  batch: Batch
  teacher: Variables


class KRRSTState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `set`, `images` and `labels` together.
    pool: the networks.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  roles: dict[str, Role]
  pool: PoolState
  count: jax.Array
  lr: jax.Array


def unlabelled_batches(*, batch_real: Count = 1024) -> Feed:
  """The stream of `krr_st`: random real images, without repetition within a step, and the target model's variables.

  Args:
    batch_real: images per step, at most as many as there are.
  """

  def stream(found: Materials) -> Callable[[int], Taught]:
    count = len(found.y)
    if batch_real > count:
      raise UserError(f"method.batch_real={batch_real}: larger than the {count} real images; lower it")
    if found.teacher is None:
      raise UserError("method: needs a target model whose features are learned from; add 'teachers' to config.stages")
    batch = random_batches(batch_real=batch_real).stream(found)
    unlabelled = np.full(batch_real, -1, np.int32)
    return lambda step: Taught(batch(step)._replace(y=unlabelled), found.teacher)

  def example(found: Materials) -> Taught:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), stream(found)(0))

  return Feed(stream, example)


@validated("method")
def krr_st(
  network: Network,
  teacher_apply: Apply,
  initial: SyntheticSet,
  *,
  augment: Augmentation | None = None,
  iterations: Count = 160_000,
  outer_lr: Positive = 1e-4,
  outer_clip: NonNegative = 0.0,
  ridge: Positive = 1e-6,
  pool_size: Count = 10,
  reset_after: Count = 1000,
  pool_lr: Positive = 0.1,
  pool_momentum: Share = 0.9,
  pool_decay: NonNegative = 1e-3,
  warm_pool: bool = True,
) -> Method:
  """Builds self-supervised data-set distillation by kernel ridge regression (KRR-ST).

  One step draws a network of the pool, augments real images `x` once for network and target model `g` alike, and moves
  images and targets of the set together, by Adam, along the gradient of

      mean_(i, k) (K_rs (K_ss + lambda I)^-1 T - g(x))_ik^2,   lambda = ridge tr(K_ss), a constant for the gradient

  with `K` the products of the network's embeddings with a one appended, in evaluation mode, and `T` the set's targets.
  Only this linear head is solved for, in closed form and without any random draw: a loss with random views in its place
  would make the gradient of the outer one biased. No gradient passes through the network's training, of which the
  network then does one step of SGD on the mean squared error to the set's targets, all images together
  (`jdistill.methods.dataset.pool`); a network with `reset_after` of them is replaced in place of that. The rate falls
  linearly to a thousandth over the `iterations`. Labels of real images are not looked at.

  Synthetic images live in the space of the real ones after their preprocessing, where the release's are pixels of a
  space of their own that is never normalised.

  Args:
    network: of the pool; its head is as wide as the targets.
    teacher_apply: the target model, whose embedding is `g(x)`; it needs no head.
    initial: the starting set, with the target model's features of its images as labels `[m, D]`.
    augment: of real images, drawn anew for each; `None` for none.
    iterations: steps, and the length of the schedule.
    outer_lr, outer_clip: Adam's rate on the set, and the greatest norm of its gradient, 0 for any.
    ridge: relative to the trace of `K_ss`, which is not divided by the number of images.
    pool_size, reset_after: how many networks there are, and after how many updates one is replaced.
    pool_lr, pool_momentum, pool_decay: SGD of the pool, with decay added to the gradient.
    warm_pool: every network of the first pool is trained for a random number of steps below `reset_after` before the
      first step; otherwise all begin as they are drawn.

  Returns:
    A `Method` whose stream is made of `Taught` and whose result is a `SyntheticSet` with feature targets as labels and
    the initial rate.

  Raises:
    ValueError: the initial labels are no feature vectors; at trace time, a stream of other images, or a target model of
      another width.

  References:
    Lee et al., "Self-Supervised Dataset Distillation for Transfer Learning" (arXiv 2310.06511), alg. 1 and eqs. 7 and 8
    (numbers unverified). The released code never sets the age of a replaced network back, so that it is replaced at
    every later visit; here, as in the algorithm, its age is 0.
  """
  check_targets(initial)
  augment = augment or identity()
  rate = schedule("linear", outer_lr, epochs=iterations, final_lr=1e-3 * outer_lr)
  optimizers = {"set": make_optimizer("adamw", rate, clip=outer_clip or None)}
  sgd = make_optimizer("sgd", pool_lr, momentum=pool_momentum, weight_decay=pool_decay)
  pool = model_pool(network, sgd, size=pool_size, reset_after=reset_after, loss=mean_squared_error, late=True)

  def init(key: Key, example: Taught) -> KRRSTState:
    del example
    key_pool, key_ages = jax.random.split(key)
    learned = {"images": jnp.array(initial.images, copy=True), "labels": jnp.array(initial.labels, copy=True)}
    networks = pool.init(key_pool)
    networks = networks._replace(age=jnp.zeros_like(networks.age))
    if warm_pool:
      networks = warmed(pool, key_ages, networks, learned["images"], learned["labels"], reset_after)
    lr = jnp.array(initial.lr, copy=True)
    return KRRSTState(init_roles(optimizers, {"set": learned}), networks, jnp.zeros((), jnp.int32), lr)

  def step(key: Key, state: KRRSTState, taught: Taught) -> tuple[KRRSTState, Metrics]:
    check_images(taught.batch, initial)
    key_augment, key_draw, key_pool = jax.random.split(key, 3)
    x = augment.apply(augment.sample(key_augment, taught.batch.x.shape), taught.batch.x)
    wanted = lax.stop_gradient(teacher_apply(taught.teacher.params, x, stats=taught.teacher.stats).embedding)
    number, variables = pool.draw(key_draw, state.pool)
    learned = state.roles["set"].params
    (loss, explained), grads = jax.value_and_grad(
      lambda own: krr_st_loss(network.apply, variables, own["images"], own["labels"], x, wanted, ridge=ridge),
      has_aux=True,
    )(learned)
    roles = update_roles(optimizers, state.roles, {"set": grads}, epoch=state.count.astype(jnp.float32))
    moved = roles["set"].params
    networks = pool.step(key_pool, state.pool, number, moved["images"], moved["labels"])
    metrics = {"krr/loss": loss, "krr/explained": explained} | gradient_norms(grads)
    return KRRSTState(roles, networks, state.count + 1, state.lr), metrics

  def result(state: KRRSTState) -> SyntheticSet:
    return SyntheticSet(**state.roles["set"].params, lr=state.lr)

  return Method(init, step, result, steps=iterations, cure=f"{CURE} (outer_lr, pool_lr)")


def warmed(
  pool: Pool, key: Key, state: PoolState, images: jax.Array, targets: jax.Array, reset_after: int
) -> PoolState:
  """Networks of a pool after random numbers of updates, each in `[1, reset_after)`."""
  size = state.age.shape[0]
  ages = jax.random.randint(key, (size,), min(1, reset_after - 1), reset_after)

  def train(number: jax.Array, state: PoolState) -> PoolState:
    return pool.step(jax.random.fold_in(key, number), state, number, images, targets, ages[number])

  return lax.fori_loop(0, size, train, state)


def krr_st_loss(
  apply: Apply,
  variables: Variables,
  images: jax.Array,
  targets: jax.Array,
  x: jax.Array,
  wanted: jax.Array,
  *,
  ridge: float = 1e-6,
) -> tuple[jax.Array, jax.Array]:
  """The outer loss of KRR-ST in one network: the mean squared error of a linear head that is fitted to the set.

  Args:
    apply: a network; it is asked in evaluation mode, so that no image's features depend on the others.
    variables: of the network. No gradient is taken in them.
    images: `[m, height, width, channels]` of the set. Differentiable.
    targets: `[m, D]` of the set. Differentiable.
    x: `[b, height, width, channels]` real images, as augmented for the target model too.
    wanted: `[b, D]`, the target model's features of `x`.
    ridge: see `krr_st`.

  Returns:
    `(loss, share of the variance of wanted that is explained)`, scalars; the second is at most 1, and negative where
    predictions are worse than the mean.

  Raises:
    ValueError: targets and features of different width, or a ridge that is not positive.
  """
  if targets.ndim != 2 or wanted.ndim != 2 or targets.shape[1] != wanted.shape[1]:
    raise ValueError(
      f"krr_st: the set's targets {targets.shape} and the target model's features {wanted.shape} differ in width; "
      "start from features of this target model"
    )
  variables = lax.stop_gradient(variables)

  def features(x: jax.Array) -> jax.Array:
    return append_bias(apply(variables.params, x, stats=variables.stats).embedding)

  synthetic, real = features(images), lax.stop_gradient(features(x))
  predictions = krr_predict(
    gram(real, synthetic), gram(synthetic, synthetic), targets, ridge, rule="trace", detach=True
  )
  wanted = lax.stop_gradient(wanted)
  loss = jnp.mean(jnp.square(predictions - wanted))
  spread = jnp.mean(jnp.square(wanted - jnp.mean(wanted, axis=0, keepdims=True)))
  return loss, 1 - loss / jnp.maximum(spread, 1e-12)


def check_targets(initial: SyntheticSet) -> None:
  """Raises `ValueError` unless the labels of a starting set are feature vectors `[m, D]`."""
  labels = initial.labels
  if np.ndim(labels) != 2 or not jnp.issubdtype(jnp.asarray(labels).dtype, jnp.floating) or not np.shape(labels)[1]:
    raise ValueError(
      f"krr_st: the set's labels are {jnp.asarray(labels).dtype} {np.shape(labels)}; they must be the target model's "
      "features of its images, float [m, D], and no classes"
    )


def check_images(batch: Batch, initial: SyntheticSet) -> None:
  """Raises `ValueError` unless real images have the shape of the set's."""
  if batch.x.shape[1:] != initial.images.shape[1:]:
    raise ValueError(f"krr_st: real images {batch.x.shape}; the set has images {initial.images.shape[1:]}")
