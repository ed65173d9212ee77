"""DDK: domains are drawn by how far the student is behind the teacher in each; and mixtures with fixed weights."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Block, DataPolicy, Key, Look, PyTree, UserError
from jdistill.language.domains import mean_by_domain, target_losses
from jdistill.schema import Count, NonNegative, Range, validated
from jdistill.selection import domain_discrepancy, mixture_sampler, smooth_discrepancy_update

_CHUNK = 16  # rows whose logits are held at once
_NOT_FINITE = "a perplexity is not finite; lower train.lr"


@validated("data_policy")
def ddk(
  size: int,
  batch_size: int,
  domains: Sequence[str] = (),
  *,
  interval: Count = 1000,
  alpha: Annotated[float, Range(0, 1)] = 0.5,
  smooth: bool = True,
  first_interval: Literal["pool", "weights"] = "pool",
  cap: Annotated[float, Range(1)] | None = None,
) -> DataPolicy:
  """Domains with weights that follow the ratio of the student's perplexity to the teacher's (DDK, arXiv 2407.16154).

  An epoch of this policy is an interval of `interval` updates, so that no batch is of two intervals, and a run has
  `interval` times `train.epochs` updates. Before the first one `r_0 = softmax(l_S / l_T)`; at the start of every other
  the student's perplexities on the held-out examples are measured anew (the teacher's are kept) and

      r' = alpha softmax(log r + l_S / l_T) + (1 - alpha) / D

  Domains of the next interval are drawn with these weights, and examples within a domain in an order that is drawn
  once, again from the beginning where they are used up. A method with a teacher is needed, such as `fkl` with
  `ce_weight=1, kd_weight=0.2` as in the paper, on a task whose examples have `extra["domain"]`.

  `weight/NAME` and `log_ratio/NAME`, the logarithm of `l_S / l_T`, are reported of every domain. The teacher may be
  worse than the student in some: that is legal, and a line of the log tells of it.

  Args:
    size: examples of the student.
    batch_size: per step.
    domains: their names; empty for one domain.
    interval: the paper's K.
    alpha: of the smoothed update; 0.5 in the paper.
    smooth: false takes eq. 1, the softmax of ratios, in every interval ("w/o FS").
    first_interval: what it is drawn with: `"pool"`, at random from all examples as in the paper, or the weights.
    cap: the most that a ratio counts, for students from scratch whose ratios are huge; no part of the paper.

  Returns:
    A policy that looks at held-out examples.
  """
  names = tuple(domains) or ("all",)
  count, batch_size = len(names), min(batch_size, size)

  def init(key: Key) -> PyTree:
    return {
      "seed": jax.random.bits(key, dtype=jnp.uint32),
      "weights": jnp.full(count, 1 / count, jnp.float32),
      "teacher": jnp.zeros(count, jnp.float32),
      "drawn": jnp.zeros(count, jnp.int32),
    }

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look) -> tuple[Block, PyTree]:
    held_out = _held_out(look)
    teacher = lax.cond(epoch == 0, lambda: _losses(held_out, held_out.teacher, count), lambda: state["teacher"])
    student = _losses(held_out, held_out.student, count)
    before, both = state["weights"], (jnp.exp(student), jnp.exp(teacher))
    begun = domain_discrepancy(*both, cap=cap)
    moved = smooth_discrepancy_update(before, *both, alpha=alpha, cap=cap) if smooth else begun
    weights = jnp.where(epoch == 0, begun, moved)
    order, sizes = _by_domain(look, size, count, state["seed"])
    drawn_with = jnp.where((epoch == 0) & (first_interval == "pool"), sizes / size, weights)
    whole = jnp.all(jnp.isfinite(drawn_with) & jnp.isfinite(student - teacher))
    drawn_with = jnp.where(whole, drawn_with, 1.0)
    block, drawn = _block(key, order, sizes, drawn_with, state["drawn"], (interval, batch_size))
    metrics = _named("weight", names, weights) | _named("log_ratio", names, student - teacher)
    block = block._replace(weight=jnp.where(whole, block.weight, 0.0), metrics=metrics)
    return block, {"seed": state["seed"], "weights": weights, "teacher": teacher, "drawn": drawn}

  return DataPolicy(init, draw, interval, looks=True, hint=_NOT_FINITE, held_out=True, remark=_worse_teacher)


@validated("data_policy")
def mixture(
  size: int,
  batch_size: int,
  domains: Sequence[str] = (),
  *,
  draw: Literal["natural", "equal", "weights"] = "natural",
  weights: tuple[NonNegative, ...] | None = None,
  interval: Count = 1000,
) -> DataPolicy:
  """Domains with weights that stay the same, drawn as `ddk` draws them: the controls beside it.

  Args:
    size: examples of the student.
    batch_size: per step.
    domains: their names; empty for one domain.
    draw: `"natural"`, in the proportions of the examples; `"equal"`, every domain alike; or `"weights"`.
    weights: one for each domain, for `draw="weights"`; their sum does not matter.
    interval: updates of an epoch.

  Raises:
    UserError: weights that do not fit the domains, or without `draw="weights"`.
  """
  names = tuple(domains) or ("all",)
  count, batch_size = len(names), min(batch_size, size)
  if (draw == "weights") != bool(weights):
    raise UserError(f"data_policy.weights={weights}: go with data_policy.draw='weights'; set both or none")
  if weights and (len(weights) != count or sum(weights) <= 0):
    raise UserError(
      f"data_policy.weights={weights}: give one for each of the {count} domains {', '.join(names)}, not all 0"
    )

  def init(key: Key) -> PyTree:
    return {"seed": jax.random.bits(key, dtype=jnp.uint32), "drawn": jnp.zeros(count, jnp.int32)}

  def next_(key: Key, state: PyTree, epoch: jax.Array, look: Look) -> tuple[Block, PyTree]:
    del epoch
    order, sizes = _by_domain(look, size, count, state["seed"])
    fixed = jnp.ones(count) if weights is None else jnp.asarray(weights, jnp.float32)
    own = sizes / size if draw == "natural" else fixed
    block, drawn = _block(key, order, sizes, own, state["drawn"], (interval, batch_size))
    return block, {"seed": state["seed"], "drawn": drawn}

  return DataPolicy(init, next_, interval, looks=True)


def _held_out(look: Look) -> Look:
  if look.held_out is None:
    raise ValueError("ddk: there are no held-out examples to measure perplexities on; set validation_size")
  return look.held_out


def _domain_of(look: Look, positions: jax.Array, count: int) -> jax.Array:
  own = look.examples(positions).extra.get("domain")
  if own is None:
    if count > 1:
      raise ValueError("ddk: the examples have no extra['domain']; use a task with domains")
    return jnp.zeros(positions.shape, jnp.int32)
  return own.astype(jnp.int32)


def _losses(look: Look, logits, count: int) -> jax.Array:
  """`[D]` mean nats per token of the held-out examples, a few rows at a time."""
  positions = jnp.arange(look.size, dtype=jnp.int32)

  def one(position: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch = look.examples(position[None])
    own = logits(position[None])
    mask = batch.extra.get("mask", jnp.ones(batch.y.shape, bool))
    if own.shape[:-1] != batch.y.shape:
      raise ValueError(f"ddk: logits {own.shape} for labels {batch.y.shape}; use a task of token rows or of classes")
    return target_losses(own, batch.y)[0], mask[0].astype(bool)

  values, where = lax.map(one, positions, batch_size=_CHUNK)
  return mean_by_domain(values, where, _domain_of(look, positions, count), count)


def _by_domain(look: Look, size: int, count: int, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Positions `[n]` domain by domain, in an order of the seed, and how many each domain has."""
  domain = _domain_of(look, jnp.arange(size, dtype=jnp.int32), count)
  mixed = jax.random.permutation(jax.random.key(seed), size).astype(jnp.int32)
  order = mixed[jnp.argsort(domain[mixed], stable=True)]
  return order, jnp.zeros(count, jnp.int32).at[domain].add(1)


def _block(
  key: Key, order: jax.Array, sizes: jax.Array, weights: jax.Array, drawn: jax.Array, shape: tuple[int, int]
) -> tuple[Block, jax.Array]:
  """An interval, and how many of each domain were drawn with it."""
  domain, index = mixture_sampler(key, weights, sizes, shape[0] * shape[1], start=drawn)
  first = jnp.cumsum(sizes) - sizes
  positions = order[first[domain] + index].reshape(shape)
  total = (drawn + jnp.zeros_like(drawn).at[domain].add(1)) % jnp.maximum(sizes, 1)
  return Block(positions.astype(jnp.int32), jnp.ones(shape, jnp.float32)), total


def _named(kind: str, names: Sequence[str], values: jax.Array) -> dict[str, jax.Array]:
  return {f"{kind}/{name}": values[i] for i, name in enumerate(names)}


def _worse_teacher(metrics: Mapping[str, float]) -> str:
  """Which domains the student knows better than the teacher."""
  own = [name.partition("/")[2] for name, value in metrics.items() if name.startswith("log_ratio/") and value < 0]
  return f"the teacher is worse than the student in {', '.join(sorted(own))}: its ratio is below 1" if own else ""
