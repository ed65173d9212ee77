"""FRePo: a set whose labels, through features of a pool of networks, predict those of real images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Batch, Key, Method, Metrics, Network
from jdistill.methods.dataset.pool import PoolState, model_pool
from jdistill.methods.dataset.regression import (
  CURE,
  check_learns,
  check_real,
  gradient_norms,
  label_margin,
  learned_set,
  share_correct,
  start_of,
  with_mirrors,
)
from jdistill.methods.optimizers import make_optimizer, schedule
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.ops import centred_one_hot, krr_predict
from jdistill.ops.pairwise import gram
from jdistill.schema import Count, NonNegative, Positive, validated
from jdistill.synthetic import SyntheticSet


class FRePoState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images` and, where they are learned, `labels`.
    labels: `[m, classes]` where they are fixed, else `None`.
    pool: the networks.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  roles: dict[str, Role]
  labels: jax.Array | None
  pool: PoolState
  count: jax.Array
  lr: jax.Array


@validated("method")
def frepo(
  network: Network,
  initial: SyntheticSet,
  *,
  iterations: Count = 500_000,
  image_lr: NonNegative = 3e-4,
  label_lr: NonNegative = 3e-4,
  ridge: Positive = 1e-6,
  detach_ridge: bool = False,
  margin_weight: NonNegative = 1.0,
  scale_labels: bool = True,
  use_flip: bool = False,
  pool_size: Count = 10,
  reset_after: Count = 100,
  pool_lr: Positive = 3e-4,
  pool_batch: Count = 500,
) -> Method:
  """Builds neural feature regression with a pool of networks (FRePo).

  One step draws a network of the pool and moves the set, by LAMB, along the gradient of

      mean_i 1/2 |y_i - K_rs (K_ss + ridge tr(K_ss) / m I)^-1 y_s|^2 - margin_weight mean_j min(gap_j, 1/C)

  with `K` the products of what enters the network's head (`Outputs.embedding`, in evaluation mode), `i` real images and
  their centred one-hot labels, `j` synthetic ones and `gap_j` the distance of the largest entry of a label to the
  second. The gradient does not pass through the network's training, of which the network then does one step
  (`jdistill.methods.dataset.pool`). Rates fall to a tenth of themselves along half a cosine over the `iterations`.

  Args:
    network: of the pool; with batch norm or without any in the paper.
    initial: the starting set; integer labels become centred one-hot vectors.
    iterations: steps, and the length of the schedule. (The default is unverified.)
    image_lr, label_lr: of LAMB; 0 leaves images or labels as they are.
    ridge: relative to the mean of the diagonal of `K_ss`.
    detach_ridge: whether the ridge is a constant for the gradient; not in paper and release.
    margin_weight: of the term that keeps labels decided.
    scale_labels: divide the initial labels by `sqrt(C / 10)`.
    use_flip: the set has the mirrors of its images too, with their labels, where it predicts. For small sets of
      natural images; not for digits.
    pool_size, reset_after: how many networks there are, and after how many updates one is replaced.
    pool_lr, pool_batch: Adam's rate, and the most synthetic images in an update of a network. (The released code takes
      up to 1000.)

  Returns:
    A `Method` whose stream is made of `Batch`es of real images (`jdistill.methods.dataset.batches.random_batches`) and
    whose result is a `SyntheticSet` with regression targets as labels and the initial rate.

  Raises:
    UserError: nothing is learned.
    ValueError: at trace time, a stream of other images.

  References:
    Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression" (arXiv 2206.00719), alg. 1.
  """
  check_learns("frepo", image_lr=image_lr, label_lr=label_lr)
  falling = lambda lr: schedule("cosine", lr, epochs=iterations, final_lr=0.1 * lr)  # noqa: E731
  optimizers = {n: make_optimizer("lamb", falling(lr)) for n, lr in (("images", image_lr), ("labels", label_lr))}
  pool = model_pool(
    network, make_optimizer("adam", pool_lr), size=pool_size, reset_after=reset_after, batch_size=pool_batch
  )
  image_shape = initial.images.shape[1:]

  def init(key: Key, example: Batch) -> FRePoState:
    del example
    learned, fixed = start_of(initial, learn_labels=label_lr > 0, scaled=scale_labels)
    count, lr = jnp.zeros((), jnp.int32), jnp.array(initial.lr, copy=True)
    return FRePoState(init_roles(optimizers, learned), fixed, pool.init(key), count, lr)

  def step(key: Key, state: FRePoState, batch: Batch) -> tuple[FRePoState, Metrics]:
    check_real("frepo", batch, image_shape)
    key_draw, key_pool = jax.random.split(key)
    number, variables = pool.draw(key_draw, state.pool)
    features = lambda x: network.apply(variables.params, x, stats=variables.stats).embedding  # noqa: E731
    real = lax.stop_gradient(features(batch.x))

    def loss(learned: dict[str, jax.Array]):
      labels = learned.get("labels", state.labels)
      x, y = with_mirrors(learned["images"], labels) if use_flip else (learned["images"], labels)
      synthetic = features(x)
      predictions = krr_predict(
        gram(real, synthetic), gram(synthetic, synthetic), y, ridge, rule="trace_mean", detach=detach_ridge
      )
      targets = centred_one_hot(batch.y, y.shape[1]).astype(predictions.dtype)
      error = 0.5 * jnp.mean(jnp.sum(jnp.square(predictions - targets), axis=1))
      margin = label_margin(labels, 1 / labels.shape[1])
      return error - margin_weight * margin, (error, margin, share_correct(predictions, batch.y))

    learned = {name: role.params for name, role in state.roles.items()}
    (value, (error, margin, correct)), grads = jax.value_and_grad(loss, has_aux=True)(learned)
    roles = update_roles(optimizers, state.roles, grads, epoch=state.count.astype(jnp.float32))
    labels = roles["labels"].params if state.labels is None else state.labels
    trained = pool.step(key_pool, state.pool, number, roles["images"].params, labels)
    metrics = {"krr/loss": value, "krr/error": error, "krr/accuracy": correct, "labels/margin": margin}
    state = state._replace(roles=roles, pool=trained, count=state.count + 1)
    return state, metrics | gradient_norms(grads)

  return Method(init, step, learned_set, steps=iterations, cure=CURE)
