"""Data policies: which examples the steps of an epoch see, in which order and in which batches.

Builders take how many examples there are and how many make a batch; all of them where there are fewer. The indices are
positions among the student's examples.
"""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Block, DataPolicy, Key, Look, PyTree, UserError
from jdistill.data.samplers import epoch_batches
from jdistill.schema import Above, Count, Range, Size, validated

Fraction = Annotated[float, Above(0), Range(high=1)]


@validated("data_policy")
def shuffle(size: int, batch_size: int, *, drop_last: bool = True) -> DataPolicy:
  """All examples in random order.

  Args:
    size: how many examples there are.
    batch_size: per step.
    drop_last: leave out an incomplete last batch, whose examples come in another order next time; otherwise it is
      filled up with zero weights.
  """
  batch_size = min(batch_size, size)

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del epoch, look
    return batches(key, jnp.arange(size, dtype=jnp.int32), batch_size, drop_last), state

  return DataPolicy(lambda key: (), draw, _steps(size, batch_size, drop_last))


@validated("data_policy")
def static_subset(
  size: int,
  batch_size: int,
  *,
  fraction: Fraction = 0.1,
  count: Count | None = None,
  seed: Size | None = None,
) -> DataPolicy:
  """One random subset for the whole training, drawn without regard to classes; every epoch goes through it once.

  Args:
    size: how many examples there are.
    batch_size: per step; the last batch is filled up with zero weights.
    fraction: share of the examples that is kept, `max(1, round(fraction size))` of them.
    count: how many are kept, instead of `fraction`.
    seed: decides the subset, for all students alike; `None` draws one for each student.

  Raises:
    UserError: `count` exceeds `size`.
  """
  if count is not None and count > size:
    raise UserError(f"data_policy.count={count}: there are {size} examples; lower it")
  kept = count or part_size(fraction, size)
  batch_size = min(batch_size, kept)

  def init(key: Key) -> jax.Array:
    own = key if seed is None else jax.random.key(seed)
    return jax.random.permutation(own, size)[:kept].astype(jnp.int32)

  def draw(key: Key, state: jax.Array, epoch: jax.Array, look: Look | None) -> tuple[Block, jax.Array]:
    del epoch, look
    return batches(key, state, batch_size), state

  return DataPolicy(init, draw, _steps(kept, batch_size, False))


@validated("data_policy")
def span(
  size: int,
  batch_size: int,
  *,
  skip: Size = 0,
  count: Count | None = None,
) -> DataPolicy:
  """Examples one behind the other in the data, in random order: several trainings of a run can take different ones.

  Args:
    size: how many examples there are.
    batch_size: per step; the last batch is filled up with zero weights.
    skip: examples that are left out before the first one.
    count: how many; `None` for all from there on.

  Raises:
    UserError: they are beyond the last example.
  """
  if skip >= size or (count is not None and skip + count > size):
    raise UserError(f"data_policy.skip={skip}: with count={count} of {size} examples is beyond the last; lower them")
  kept = size - skip if count is None else count
  batch_size = min(batch_size, kept)

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del epoch, look
    return batches(key, skip + jnp.arange(kept, dtype=jnp.int32), batch_size), state

  return DataPolicy(lambda key: (), draw, _steps(kept, batch_size, False))


@validated("data_policy")
def rs2(size: int, batch_size: int, *, fraction: Fraction = 0.1, replacement: bool = False) -> DataPolicy:
  """Repeated Random Sampling: a fresh random subset of `n = max(1, round(fraction size))` examples in every epoch.

  Without replacement all examples are shuffled once, epochs take consecutive blocks of `n`, and where fewer than `n`
  remain all are shuffled again. (The released code lets a block go past the end; here the remainder is left out.) The
  state is a seed, drawn once: what an epoch sees follows from it and from the number of the epoch. Schedules must be
  those of the epochs that really happen: an epoch has `ceil(n / batch_size)` steps.

  Args:
    size: how many examples there are.
    batch_size: per step; the last batch is filled up with zero weights.
    fraction: share of the examples that an epoch sees.
    replacement: subsets of different epochs are independent, so that examples may come again before all have come;
      within an epoch none comes twice.

  References:
    Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning" (arXiv 2305.18424).
  """
  kept = part_size(fraction, size)
  batch_size = min(batch_size, kept)
  blocks = 1 if replacement else size // kept

  def draw(key: Key, state: jax.Array, epoch: jax.Array, look: Look | None) -> tuple[Block, jax.Array]:
    del look
    round_, block = jnp.divmod(jnp.asarray(epoch, jnp.int32), jnp.int32(blocks))
    order = jax.random.permutation(jax.random.fold_in(jax.random.key(state), round_), size).astype(jnp.int32)
    chosen = jax.lax.dynamic_slice_in_dim(order, block * kept, kept)
    return batches(key, chosen, batch_size), state

  return DataPolicy(lambda key: jax.random.bits(key, dtype=jnp.uint32), draw, _steps(kept, batch_size, False))


def answered(size: int, batch_size: int, *, labelled: int, unlabelled: int = 0, steps: int | None = None) -> DataPolicy:
  """The first `labelled` examples in random order, and beside each batch of them some of the others, drawn at random.

  Batches are full however few have an answer, so that shapes are the same as answers grow in number: within an epoch
  the examples come again in another order until the last batch is full, and numbers of passes differ by one at most.
  The others are drawn anew for every step, none twice in one. (ActiveKD's code draws the labelled ones with
  replacement, which leaves some out by chance.)

  Args:
    size: how many examples there are.
    batch_size: labelled examples of a step, also where there are fewer.
    labelled: how many of the first examples have an answer.
    unlabelled: how many of the others a step sees, at most all of them.
    steps: of an epoch; `None` for `ceil(labelled / batch_size)`.

  Raises:
    UserError: `labelled` is not within `1..size`.
  """
  if not 1 <= labelled <= size:
    raise UserError(f"labelled={labelled}: of {size} examples; give 1 to {size}")
  steps, others = steps or -(-labelled // batch_size), size - labelled
  beside = min(unlabelled, others)
  passes = -(-steps * batch_size // labelled)

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del epoch, look
    own, more = jax.random.split(key)
    orders = jax.vmap(lambda one: jax.random.permutation(one, labelled))(jax.random.split(own, passes))
    index = orders.reshape(-1)[: steps * batch_size].reshape(steps, batch_size)
    if beside:
      drawn = jax.vmap(lambda one: jax.random.permutation(one, others)[:beside])(jax.random.split(more, steps))
      index = jnp.concatenate([index, labelled + drawn], axis=1)
    return Block(index.astype(jnp.int32), jnp.ones(index.shape, jnp.float32)), state

  return DataPolicy(lambda key: (), draw, steps)


class Chosen(NamedTuple):
  """The subset of every student of one training.

  Attributes:
    positions: `[seeds, k]` int32, among the examples of each student.
    weights: `[seeds, k]` float32, at least 0; zero marks what only fills up the row of a student with fewer examples.
  """

  positions: np.ndarray
  weights: np.ndarray


@validated("data_policy")
def selected(
  size: int, batch_size: int, chosen: Chosen | None = None, *, weighted: bool = True, shuffled: bool = True
) -> DataPolicy:
  """A subset that stage `select` chose; every epoch goes through it once, in an order of its own.

  The loss of a batch is the mean with the weights of its examples, `sum w l / sum w`, so that only their ratios count.

  Args:
    size: how many examples a student has.
    batch_size: per step; the last batch is filled up with zero weights.
    chosen: the subset of each student; `None` for all examples.
    weighted: whether the weights of the selector count (CRAIG and GradMatch have some); otherwise all are 1.
    shuffled: false takes the order of the choice in every epoch, which for chunks is that of the corpus (MiniPLM).

  References:
    Guo et al., "DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning" (arXiv 2204.08499).
  """
  if chosen is None:
    chosen = Chosen(np.arange(size)[None], np.ones((1, size)))
  kept = chosen.positions.shape[1]
  batch_size = min(batch_size, kept)
  weights = np.asarray(chosen.weights, np.float32)
  states = (np.asarray(chosen.positions, np.int32), weights if weighted else (weights > 0).astype(np.float32))

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del epoch, look
    positions, weight = state
    if shuffled:
      places, mask = epoch_batches(key, kept, batch_size)
    else:
      line = jnp.arange(_steps(kept, batch_size, False) * batch_size, dtype=jnp.int32).reshape(-1, batch_size)
      places, mask = jnp.minimum(line, kept - 1), line < kept
    return Block(positions[places], jnp.where(mask, weight[places], 0.0)), state

  first = lambda key: jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), states)  # noqa: E731
  every = lambda keys: jax.tree.map(jnp.asarray, states)  # noqa: E731
  return DataPolicy(first, draw, _steps(kept, batch_size, False), init_seeds=every)


@validated("data_policy")
def ordered(size: int, batch_size: int, *, order: tuple[Size, ...] | None = None) -> DataPolicy:
  """The same batches in every epoch, each of neighbours, in a given order: a curriculum that was found, replayed.

  Batch `k` has the examples `k batch_size, ..., (k + 1) batch_size - 1`; an incomplete last one is left out.

  Args:
    size: how many examples there are.
    batch_size: per step.
    order: the batch of every step, each once, such as one that stage `orders` has found; `None` for that of the data.

  Raises:
    UserError: not a permutation of the batches.
  """
  batch_size = min(batch_size, size)
  steps = size // batch_size
  found = tuple(range(steps)) if order is None else tuple(order)
  if sorted(found) != list(range(steps)):
    missing = sorted(set(range(steps)) - set(found))
    lacking = f", and batch {missing[0]} is missing" if missing else ""
    raise UserError(
      f"data_policy.order: has {len(found)} batches{lacking}; {size} examples make {steps} batches of {batch_size}: "
      f"name each from 0 to {steps - 1} once"
    )
  index = np.asarray(found, np.int32)[:, None] * batch_size + np.arange(batch_size, dtype=np.int32)[None]

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del key, epoch, look
    return Block(jnp.asarray(index), jnp.ones(index.shape, jnp.float32)), state

  return DataPolicy(lambda key: (), draw, steps)


def part_size(fraction: float, size: int) -> int:
  """`max(1, round(fraction size))`."""
  return max(1, round(fraction * size))


def batches(key: Key, chosen: jax.Array, batch_size: int, drop_last: bool = False) -> Block:
  """The positions `chosen` `[n]` in random order, `batch_size` to a step; weight zero fills up the last."""
  places, mask = epoch_batches(key, chosen.shape[0], batch_size, drop_last=drop_last)
  return Block(chosen[places], mask.astype(jnp.float32))


def walk(key: Key, keep: jax.Array, batch_size: int, *, repeat: bool = False) -> Block:
  """The kept examples in random order, each once; as many steps as all of them would need, the last ones empty.

  Shapes do not depend on how many are kept, so one program serves all epochs. Places without weight hold kept examples,
  too, so that batch norm sees no others.

  Args:
    key: decides the order.
    keep: `[n]` bool.
    batch_size: examples per step.
    repeat: go through the kept ones again until all steps are full.

  Returns:
    A `Block` whose metric `selected` is the share that is kept. Without any it has no weight at all.
  """
  size = keep.shape[0]
  batch_size = min(batch_size, size)
  steps = -(-size // batch_size)
  order = jax.random.permutation(key, size).astype(jnp.int32)
  kept_first = order[jnp.argsort(jnp.logical_not(keep[order]), stable=True)]
  count, places = jnp.sum(keep), jnp.arange(steps * batch_size)
  index = kept_first[places % jnp.maximum(count, 1)]
  weight = jnp.broadcast_to(count > 0, places.shape) if repeat else places < count
  shape = (steps, batch_size)
  selected = {"selected": jnp.mean(keep.astype(jnp.float32))}
  return Block(index.reshape(shape), weight.astype(jnp.float32).reshape(shape), selected)


def cut(block: Block) -> tuple[np.ndarray, np.ndarray]:
  """`(index, weight)` of the steps of a block that happen, on the host: those with any weight."""
  index, weight = np.asarray(block.index), np.asarray(block.weight)
  happens = (weight > 0).any(axis=1)
  return index[happens], weight[happens]


def _steps(size: int, batch_size: int, drop_last: bool) -> int:
  return size // batch_size if drop_last else -(-size // batch_size)
