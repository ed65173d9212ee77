"""CV-DD: images that several trained networks vote on, by their cross entropies and batch-norm statistics."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Apply, Key, Method, Metrics, Variables
from jdistill.methods.dataset.recovery import (
  BlockGradient,
  Rates,
  RecoveryState,
  collect_blocks,
  descend,
  sre2l_blocks,
  start_blocks,
)
from jdistill.methods.dataset.sre2l import check_batch_norm, recover_loss, recovery_augmentation
from jdistill.ops.voting import committee_weights
from jdistill.schema import Above, Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import Feed, SyntheticSet

Committee = tuple[tuple[Variables, ...], jax.Array]  # variables of all teachers, and what each is worth: `[M]`


def committee_stream() -> Feed:
  """The stream of `cv_dd`: in every step the variables of all teachers, and their prior `[M]`."""

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del method, teacher_train

  found = lambda materials: (materials.committee, materials.prior)  # noqa: E731
  return Feed(lambda materials: lambda step: found(materials), found, check)


def committee_blocks(labels: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Which images are recovered together: at most one of every class.

  Args:
    labels: `[m]` integer labels, equally many of each class.
    block_size: the most images of a block; clipped to the number of classes.

  Returns:
    `(blocks [n, block_size] int32 positions, index [n])`, where `index` says which image of its class each is. A block
    that is not full is filled up with images of the same index, of which nothing is kept.
  """
  labels = np.asarray(labels)
  first = sre2l_blocks(labels, len(np.unique(labels)))  # a row for every index
  block_size = min(block_size, first.shape[1])
  per_index = -(-first.shape[1] // block_size)
  blocks = np.stack([np.resize(row, (per_index, block_size)) for row in first])
  return blocks.reshape(-1, block_size), np.repeat(np.arange(len(first)), per_index)


def choose_members(prior: jax.Array, index: np.ndarray, key: Key, *, voters: int, pairs: str) -> jax.Array:
  """Which teachers vote on each block.

  Args:
    prior: `[M]`, what each teacher is worth.
    index: `[n]`, which image of its class each block holds.
    key: for `"random"`; blocks of one index have the same teachers.
    voters: N, how many vote.
    pairs: `"fixed"`, all combinations in lexicographic order, one index after the other, again from the start where
      there are more indices; `"best"`, those of the highest prior; `"random"`.

  Returns:
    `[n, M]` bool.
  """
  count = len(prior)
  if pairs == "fixed":
    groups = list(itertools.combinations(range(count), voters))
    table = np.zeros((len(groups), count), bool)
    for row, group in zip(table, groups, strict=True):
      row[list(group)] = True
    return jnp.asarray(table[index % len(groups)])
  if pairs == "best":
    order = jnp.argsort(-jnp.asarray(prior), stable=True)
    chosen = jnp.zeros(count, bool).at[order[:voters]].set(True)
    return jnp.broadcast_to(chosen, (len(index), count))
  draw = lambda number: jax.random.permutation(jax.random.fold_in(key, number), count) < voters  # noqa: E731
  return jax.vmap(draw)(jnp.asarray(index, jnp.uint32))


def committee_recover_loss(
  applies: Sequence[Apply],
  members: Sequence[Variables],
  weights: jax.Array,
  x: jax.Array,
  y: jax.Array,
  *,
  all_vote: bool = False,
  **options: float,
) -> tuple[jax.Array, Metrics]:
  """`sum_m w_m (CE(z_m(x), y) + r_bn bn_stat_loss_m(x))`, every network in evaluation mode.

  Args:
    applies, members: networks with batch norm, and their variables. No gradient is taken in them.
    weights: `[M]`, which sum to 1. A network whose weight is 0 is not run.
    x: `[b, height, width, channels]`, augmented.
    y: `[b]` integer labels.
    all_vote: whether no weight is 0, which makes a smaller program.
    **options: of `jdistill.methods.dataset.sre2l.recover_loss`.

  Returns:
    The scalar, and the weighted means of its parts as metrics.
  """
  losses = [functools.partial(recover_loss, apply, **options) for apply in applies]
  total = None
  for number, (loss, variables) in enumerate(zip(losses, members, strict=True)):
    run = lambda x, loss=loss, variables=variables: loss(variables, x, y)[1]  # noqa: E731
    if all_vote:
      found = run(x)
    else:
      nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, x))
      found = jax.lax.cond(weights[number] > 0, run, lambda x, nothing=nothing: nothing, x)
    voted = {name: weights[number].astype(value.dtype) * value for name, value in found.items()}
    total = voted if total is None else jax.tree.map(jnp.add, total, voted)
  return total["recover/loss"], total


@validated("method")
def cv_dd(
  teacher_applies: tuple[Apply, ...],
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  iterations: Count = 4000,
  block_size: Annotated[int, Range(2)] = 100,
  image_lr: Positive = 0.25,
  b1: Annotated[float, Range(0, 0.9999)] = 0.5,
  b2: Annotated[float, Range(0, 0.9999)] = 0.9,
  r_bn: NonNegative = 0.01,
  first_layer_multiplier: NonNegative = 10.0,
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = 0.08,
  flip_images: bool = True,
  jitter: Size = 4,
  voters: Count = 2,
  pairs: Literal["fixed", "best", "random"] = "fixed",
  voter: Literal["prior", "equal", "random"] = "prior",
  voter_temperature: Positive = 5.0,
) -> Method:
  """Builds CV-DD's recovery of images from a committee of networks with batch norm.

  As `jdistill.methods.dataset.sre2l`, along the gradient of

      sum_m w_m (mean_i CE(f_m(a(x_i)), y_i) + r_bn bn_stat_loss_m(a(x))),   w = softmax over the voters of prior / T

  where `voters` of the M teachers vote on all images of one index within their classes. With `voters=1` and one
  teacher it is the paper's baseline SRe2L++. A block holds at most one image of every class. The teachers' running
  statistics are read and never written.

  Args:
    teacher_applies: the trained networks, M of them.
    initial: where recovery starts: real patches (`jdistill.synthetic.patches.patch_start`).
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    iterations: updates per block.
    block_size: images per block; clipped to the number of classes.
    image_lr, b1, b2: Adam on images; the rate falls to 0 along a half cosine over a block.
    r_bn: weight of the batch-norm statistics.
    first_layer_multiplier: how much more the first batch norm counts than the others.
    crop_scale: smallest share of the area that a random resized crop keeps; `None` for no crops.
    flip_images: mirror with probability 1/2.
    jitter: largest roll in pixels (32 for ImageNet).
    voters: how many teachers vote on an image: 2 in the paper, where 3 were worse.
    pairs: which ones, see `choose_members`: `"fixed"` for 10 images per class, `"best"` for 1, `"random"` for 50 (the
      last is read in the code and not confirmed by its scripts; so is the order of the fixed ones).
    voter: weights by `"prior"`, `"equal"` ones, or `"random"`, uniform numbers divided by their sum, drawn once for
      every block.
    voter_temperature: T.

  Returns:
    A `Method` whose stream gives the variables of all teachers and their prior in every step (`committee_stream`), and
    whose result is a `SyntheticSet` in the order of `initial`.

  Raises:
    ValueError: fewer teachers than `voters`, soft labels; in `init`, a teacher without batch norm.

  References:
    Cui et al., "Dataset Distillation via Committee Voting" (arXiv 2501.07575), sec. 3.
  """
  count = len(teacher_applies)
  if voters > count:
    raise ValueError(
      f"voters={voters}: there are {count} teachers; name more in teachers.also, or set method.voters={count}"
    )
  if np.ndim(initial.labels) == 2:
    raise ValueError("initial: has soft labels, and recovery needs classes; set method.labels='hard'")
  blocks, index = committee_blocks(initial.labels, block_size)
  augment = recovery_augmentation(crop_scale=crop_scale, flip_images=flip_images, jitter=jitter)
  options = {"r_bn": r_bn, "first_layer_multiplier": first_layer_multiplier, "all_vote": voters == count}
  rates = Rates(iterations, image_lr, b1, b2, pixel_range)

  def init(key: Key, batch: Committee) -> RecoveryState:
    members, prior = batch
    _check_members(teacher_applies, members, jnp.asarray(initial.images)[blocks[0]])
    for_members, for_weights = jax.random.split(key)
    chosen = choose_members(prior, index, for_members, voters=voters, pairs=pairs)
    votes = _votes(for_weights, prior, chosen, voter=voter, temperature=voter_temperature)
    return start_blocks(initial, blocks, votes)

  def step(key: Key, state: RecoveryState, batch: Committee) -> tuple[RecoveryState, Metrics]:
    members, _ = batch

    def gradient(number: jax.Array, place: jax.Array, x: jax.Array, y: jax.Array) -> BlockGradient:
      del place
      record, weights = augment.sample(key, x.shape), state.carried[number]

      def loss(x: jax.Array) -> tuple[jax.Array, Metrics]:
        return committee_recover_loss(teacher_applies, members, weights, augment.apply(record, x), y, **options)

      (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(x)
      return BlockGradient(grads, metrics, state.carried)

    return descend(state, gradient, rates)

  return Method(init, step, functools.partial(collect_blocks, blocks=blocks), steps=len(blocks) * iterations)


def _votes(key: Key, prior: jax.Array, chosen: jax.Array, *, voter: str, temperature: float) -> jax.Array:
  """`[blocks, M]` weights of the members that are chosen for each block."""
  if voter == "random":
    drawn = jnp.where(chosen, jax.random.uniform(key, chosen.shape, minval=1e-3), 0.0)
    return drawn / jnp.sum(drawn, -1, keepdims=True)
  worth = jnp.asarray(prior, jnp.float32)
  worth = worth if voter == "prior" else jnp.zeros_like(worth)
  return committee_weights(worth, temperature=temperature, where=chosen)


def _check_members(applies: Sequence[Apply], members: Sequence[Variables], images: jax.Array) -> None:
  """Raises `ValueError` with the number of a teacher without batch norm."""
  for number, (apply, variables) in enumerate(zip(applies, members, strict=True)):
    try:
      check_batch_norm(apply, variables, images)
    except ValueError as error:
      why = str(error).partition(": ")[2]
      raise ValueError(f"teacher_applies: number {number + 1} of {len(applies)}: {why}") from error
