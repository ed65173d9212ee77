"""The driver of data policies: draws blocks of steps, cuts the empty ones off, and feeds the rest to the loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Block, DataPolicy, Key, Look, PyTree, UserError
from jdistill.training import parallel
from jdistill.training.stream import Stream

_AHEAD = 256  # steps that are drawn together


class NothingSelected(UserError):
  """A data policy left an epoch without any example."""


class Row(NamedTuple):
  """What a step has for itself; as host arrays `[steps, seeds, ...]`, for `Stream.join` those of one step and seed.

  Attributes:
    index: `[B]` int32, positions in the whole data.
    weight: `[B]` float32; zero marks padding.
    epoch: scalar float32, epochs done, with the fraction of the running one by the steps that it really has.
    step: scalar int32, number of the update.
    start: what only `Method.init` sees, such as parameters to start from.
  """

  index: Any
  weight: Any
  epoch: Any
  step: Any
  start: PyTree = None


class Drawn(NamedTuple):
  """Steps as they were drawn: all that is needed to run them again, on any number of devices.

  Attributes:
    index: `[steps, seeds, B]` int32, positions in the whole data.
    weight: `[steps, seeds, B]` float32.
    epoch: `[steps]` float32.
    first: the number of the first of these steps.
  """

  index: np.ndarray
  weight: np.ndarray
  epoch: np.ndarray
  first: int = 0


def policy_stream(
  policy: DataPolicy,
  key: Key,
  *,
  shared: PyTree,
  members: np.ndarray,
  join: Callable[[PyTree, Row], PyTree],
  epochs: int,
  seeds: Sequence[int],
  batch_size: int,
  look: Callable[[PyTree, PyTree, jax.Array], Look] | None = None,
  start: PyTree = None,
  stored: Drawn | None = None,
  record: bool = False,
) -> Stream:
  """A stream of the steps that a data policy draws, for seeds that train side by side.

  Policies that do not look are asked for many epochs at once, in one program. Those that look are asked at the start of
  every epoch, with the networks as they are then; they can serve one seed at a time. Steps without any weight are cut
  off, so the number of steps is known only at the end: run the loop with `steps=None`.

  Args:
    policy: over positions `0..n-1` among a student's examples.
    key: seed `s` draws with `fold_in(key, s)`, into which the epoch is folded.
    shared: see `Stream`.
    members: `[seeds, n]` positions in the whole data of the examples of each seed.
    join: `(shared, Row of one step and seed) -> batch`.
    epochs: of the run.
    seeds: their numbers.
    batch_size: of the rows, at most `n` of them count.
    look: `(state of one seed, shared, members [n]) -> Look`, traced; for policies that look.
    start: what `Method.init` finds in `Row.start`, with a leading axis of seeds.
    stored: steps that were drawn before and are run again instead of new ones.
    record: keep what is drawn, for `Stream.drawn`.

  Returns:
    A `Stream`; its `drawn` gives the steps that were drawn since it was made or restored.

  Raises:
    ValueError: a policy that looks, with several seeds or without `look`.
    NothingSelected: while it runs, an epoch in which nothing was selected.
  """
  if policy.looks and stored is None and (look is None or len(seeds) != 1):
    raise ValueError(f"policy_stream: a policy that looks needs `look` and one seed at a time, got {len(seeds)} seeds")
  driver = _Driver(policy, key, np.asarray(members, np.int32), epochs, seeds, look, record)
  if stored is not None:
    driver.replay(stored)
  return Stream(
    driver.rows,
    shared,
    join,
    lambda: driver.first(batch_size, start),
    boundary=lambda step: driver.end - step,
    done=driver.over,
    prepare=driver.prepare,
    save=driver.save,
    restore=driver.restore,
    metrics=lambda: driver.shown,
    drawn=driver.drawn,
  )


@functools.lru_cache(maxsize=16)
def _drawer(policy: DataPolicy, ahead: int) -> Callable:
  """`(keys [seeds], states, first epoch) -> (Blocks [seeds, ahead, ...], states)`, compiled."""

  @jax.jit
  def draw(keys: jax.Array, states: PyTree, first: jax.Array):
    def one(key, state):
      def epoch(state, number):
        block, state = policy.next(jax.random.fold_in(key, number), state, number, None)
        return state, block

      state, blocks = lax.scan(epoch, state, first + jnp.arange(ahead, dtype=jnp.int32))
      return blocks, state

    return jax.vmap(one)(keys, states)

  return draw


@functools.lru_cache(maxsize=4)
def _looker(policy: DataPolicy, look: Callable) -> Callable:
  """As `_drawer`, for one epoch of one seed, and with what the policy looks at."""

  @jax.jit
  def draw(keys: jax.Array, states: PyTree, number: jax.Array, state: PyTree, shared: PyTree, members: jax.Array):
    networks, own = jax.tree.map(lambda leaf: leaf[0], (state, states))
    looks = look(networks, shared, members[0])
    found = policy.next(jax.random.fold_in(keys[0], number), own, number, looks)
    block, own = jax.tree.map(lambda leaf: leaf[None], found)
    return jax.tree.map(lambda leaf: leaf[:, None], block), own

  return draw


class _Driver:
  """The running draw: `rows_` are the steps `begin..end - 1`, of the epochs before `next_epoch`."""

  def __init__(self, policy, key, members, epochs, seeds, look, record):
    self.policy, self.members, self.epochs, self.look = policy, members, epochs, look
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(seeds, jnp.uint32))
    init, self.keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    self.ahead = 1 if policy.looks else max(1, min(_AHEAD // policy.steps, epochs))
    self.states = jax.jit(policy.init_seeds or jax.vmap(policy.init))(init)
    self.before = self.states  # the states before the running draw
    self.block: Block | None = None
    self.begin = self.end = self.first_epoch = self.next_epoch = 0
    self.rows_: Drawn | None = None
    self.record: list[Drawn] | None = [] if record else None
    self.shown: dict[str, float] = {}
    self.replays = False

  def first(self, batch_size: int, start: PyTree) -> Row:
    """What `Method.init` sees: the first examples of every seed."""
    index = self.members[:, : min(batch_size, self.members.shape[1])]
    count = len(index)
    return Row(index, np.ones(index.shape, np.float32), np.zeros(count, np.float32), np.zeros(count, np.int32), start)

  def over(self, step: int) -> bool:
    return self.next_epoch >= self.epochs and step >= self.end

  def drawn(self) -> Drawn:
    parts = self.record
    return Drawn(*(np.concatenate(leaves) for leaves in zip(*(p[:3] for p in parts), strict=True)), parts[0].first)

  def prepare(self, step: int, state: PyTree, shared: PyTree) -> None:
    """Draws the next steps where the last ones are used up."""
    if step < self.end:
      return
    self.before, self.begin, self.first_epoch = self.states, self.end, self.next_epoch
    number = jnp.int32(self.next_epoch)
    if self.policy.looks:
      block, self.states = self._look(self.states, number, *parallel.local((state, shared)))
    else:
      block, self.states = _drawer(self.policy, self.ahead)(self.keys, self.states, number)
    self._take(jax.device_get(block))

  def _look(self, states: PyTree, number: jax.Array, state: PyTree, shared: PyTree) -> tuple[Block, PyTree]:
    draw = _looker(self.policy, self.look)
    return draw(self.keys, states, number, state, shared, jnp.asarray(self.members))

  def _take(self, block: Block) -> None:
    """Makes rows of a block `[seeds, epochs, steps, B]`."""
    self.block = block
    count = min(self.ahead, self.epochs - self.first_epoch)
    index, weight = (np.asarray(leaf)[:, :count] for leaf in block[:2])
    happens = (weight > 0).any(-1)
    if (happens != happens[:1]).any():
      raise ValueError(
        "policy_stream: seeds that train side by side drew different numbers of steps; run one at a time"
      )
    self.next_epoch = self.first_epoch + count
    self.shown = {f"data/{name}": float(np.mean(np.asarray(v)[:, :count])) for name, v in block.metrics.items()}
    steps = happens[0].sum(-1)
    if not steps.all():
      found = "".join(f", {name.partition('/')[2]} {value:.3g}" for name, value in self.shown.items())
      cure = f"; {self.policy.hint}" if self.policy.hint else ""
      raise NothingSelected(f"epoch {self.first_epoch + int(np.argmin(steps))}: no example was selected{found}{cure}")
    seeds = np.arange(len(self.members))[:, None, None]
    index, weight = self.members[seeds, index[:, happens[0]]], weight[:, happens[0]]
    epoch = np.concatenate([self.first_epoch + e + np.arange(n) / n for e, n in enumerate(steps)])
    swapped = (np.ascontiguousarray(np.swapaxes(leaf, 0, 1)) for leaf in (index, weight.astype(np.float32)))
    self._set(Drawn(*swapped, epoch.astype(np.float32), self.begin))

  def _set(self, rows: Drawn) -> None:
    self.rows_, self.end = rows, rows.first + len(rows.epoch)
    if self.record is not None:
      self.record.append(rows)

  def replay(self, rows: Drawn) -> None:
    """Takes stored steps for the whole run."""
    self.replays, self.next_epoch = True, self.epochs
    self._set(rows)

  def rows(self, first: int, count: int) -> Row:
    part = slice(first - self.rows_.first, first - self.rows_.first + count)
    index, weight, epoch = self.rows_.index[part], self.rows_.weight[part], self.rows_.epoch[part]
    seeds = (1, len(self.members))
    step = np.arange(first, first + count, dtype=np.int32)
    return Row(index, weight, np.tile(epoch[:, None], seeds), np.tile(step[:, None], seeds))

  def save(self, state: PyTree, shared: PyTree) -> PyTree:
    """Where the running draw begins, and for policies that look also the draw, which cannot be made again."""
    if self.replays:
      return ()
    counters = np.asarray([self.begin, self.first_epoch, self.end > self.begin], np.int32)
    saved = {"counters": counters, "before": jax.device_get(self.before)}
    if self.policy.looks:
      block = self.block
      if block is None:  # its shapes are enough
        block, _ = jax.eval_shape(self._look, self.states, jnp.int32(0), state, shared)
      saved |= {"after": jax.device_get(self.states), "block": block}
    return saved

  def restore(self, saved: PyTree) -> None:
    self.begin, self.first_epoch, drew = (int(value) for value in saved["counters"])
    self.states = self.before = jax.tree.map(jnp.asarray, saved["before"])
    self.end, self.next_epoch = self.begin, self.first_epoch
    if self.policy.looks and drew:
      self.states = jax.tree.map(jnp.asarray, saved["after"])
      self._take(saved["block"])
    elif drew:
      self.prepare(self.begin, (), ())
