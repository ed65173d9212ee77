"""DistiLLM: skew divergences, and student text that is written less often than it is learned."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import losses
from jdistill.base import Batch, Key, PyTree
from jdistill.methods.knowledge.recipe import Memory, Recipe, Sampling, StepOutputs
from jdistill.methods.language.divergences import Inner
from jdistill.methods.language.responses import held_out_loss, marked, respond, with_data
from jdistill.methods.language.terms import Reduction, Temperature, data_term, share_done, token_term
from jdistill.ops.ring import Ring, draw_rows, empty_ring, push
from jdistill.schema import Count, NonNegative, Positive, Share, Size, Traced, validated

DATA, STUDENT, REPLAY = 0, 1, 2  # where the batch of an update comes from
_REPLAYED = ("mask",)


class Adaptive(NamedTuple):
  """What the adaptive schedule remembers.

  Attributes:
    threshold: the paper's phi.
    before: held-out loss when the threshold last rose, of the start at first; infinite before the first look.
    n: updates so far.
    generated: batches that the student has written so far.
  """

  threshold: jax.Array
  before: jax.Array
  n: jax.Array
  generated: jax.Array


class Schedule(NamedTuple):
  """When the threshold rises; see `distillm`."""

  threshold_step: float
  loss_rise: float
  validate_every: int


@validated("method")
def distillm(
  *,
  divergence: Literal["skew_kl", "skew_reverse_kl"] = "skew_kl",
  skew: Inner = 0.1,
  replay: Literal["decreasing", "constant", "increasing"] = "decreasing",
  start_threshold: Share = 0.0,
  threshold_step: Share = 0.1,
  loss_rise: NonNegative = 0.1,
  validate_every: Count = 16,
  capacity: Count = 1000,
  steps: Count | None = None,
  prompt: Size = 0,
  max_new: Count = 64,
  sampling_temperature: Positive = 1.0,
  end_token: Size | None = 256,
  temperature: Temperature = 1.0,
  kd_weight: Annotated[NonNegative, Traced] = 1.0,
  lm_weight: NonNegative = 0.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`kd_weight T^2 D_skew(p, q)` on data or on the student's own text, more of it as it overfits (arXiv 2402.03898).

  A threshold `phi` decides where the batch of update `n` of `N` comes from. With `u` uniform in [0, 1)

      u < phi s(n/N), or u < phi while the buffer is not full    the student writes, and the buffer takes its rows
      else u < phi                                                rows of the buffer, without anything being written
      else                                                        the data

  with `s(x) = 1 - x` (`"decreasing"`), 1/2 (`"constant"`) or `x` (`"increasing"`). Every `validate_every` updates the
  held-out loss is measured. If it is `loss_rise` above the last one that counted, at first that of the start, then
  `phi` rises by `threshold_step`, to 1 at most, and this loss counts from now on.

  `method/threshold`, `method/held_out`, `method/generated` (batches written so far) and `method/source` (0 data, 1
  written, 2 replayed) are reported.

  Args:
    divergence: `"skew_kl"`, `KL(p || a p + (1 - a) q)`, or `"skew_reverse_kl"`, `KL(q || (1 - a) p + a q)`.
    skew: `a`; 0 and 1 give degenerate losses. The release leaves out the entropy of `p`, which has no gradient.
    replay: `s`.
    start_threshold: `phi` of the first update.
    threshold_step, loss_rise, validate_every: see above; losses are in nats per token.
    capacity: rows of the buffer, which forgets the oldest; at least a batch.
    steps: `N`; open for as many as the epochs of the training have.
    prompt, max_new, sampling_temperature, end_token: of what the student writes; see the recipe `gkd`.
    temperature: of both distributions in D.
    kd_weight: of the divergence.
    lm_weight: of the next-token loss of the data, which joins every batch if it is not 0; the paper's 1.0 is on a text
      of its own (OpenWebText).
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    ValueError: at trace time, as for `gkd`; a capacity below a batch, no held-out examples, or `steps` is open and
      nobody said how many epochs there are.
  """
  options = {"prompt": prompt, "max_new": max_new, "temperature": sampling_temperature, "end_token": end_token}

  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    own = {"kind": divergence, "skew": skew, "temperature": temperature, "where": where}
    return losses.token_divergence(step.student.logits, step.teacher.logits, **own)

  schedule = Schedule(threshold_step, loss_rise, validate_every)

  def init(key: Key, count: int, batch: Batch) -> PyTree:
    del key, count
    return {"adaptive": begin(start_threshold), "held_out": jnp.zeros(()), "buffer": empty_ring(_rows(batch), capacity)}

  def sampled_batch(key: Key, sampling: Sampling) -> tuple[Batch, PyTree]:
    key_choice, key_batch = jax.random.split(key)
    memory = sampling.memory
    state, measured = _looked(schedule, sampling)
    done = share_done("distillm", state.n, steps, sampling.epoch, sampling.epochs)
    source = draw_source(key_choice, state.threshold, done, memory["buffer"], replay)
    batch, buffer = _taken(key_batch, source, sampling, options)
    state = state._replace(n=state.n + 1, generated=state.generated + (source == STUDENT).astype(jnp.int32))
    batch = marked(batch, source=source.astype(jnp.float32))
    if lm_weight:
      batch = with_data(batch, sampling.batch)
    return batch, {"adaptive": state, "held_out": measured, "buffer": buffer}

  terms = {"distillm": token_term(values, kd_weight, reduction)}
  if lm_weight:
    terms["lm"] = data_term(lm_weight, reduction)
  needs = ("teacher", "held_out")
  return Recipe(terms, sampled_batch=sampled_batch, memory=Memory(init), metrics=_figures, needs=needs)


def begin(threshold: float) -> Adaptive:
  """The state of the adaptive schedule before the first update."""
  zero = jnp.zeros((), jnp.int32)
  return Adaptive(jnp.full((), threshold, jnp.float32), jnp.full((), jnp.inf, jnp.float32), zero, zero)


def adaptive_source_update(
  state: Adaptive, loss: jax.Array, look: jax.Array, *, loss_rise: float, threshold_step: float
) -> Adaptive:
  """The state after a look at the held-out loss; unchanged without one.

  Args:
    state: an `Adaptive`.
    loss: scalar, the held-out loss in nats per token.
    look: scalar bool, whether it was measured.
    loss_rise, threshold_step: see `distillm`.
  """
  first = jnp.isinf(state.before)
  rises = look & ~first & (loss >= state.before + loss_rise)
  threshold = jnp.where(rises, jnp.minimum(state.threshold + threshold_step, 1.0), state.threshold)
  return state._replace(threshold=threshold, before=jnp.where(rises | (look & first), loss, state.before))


def draw_source(key: Key, threshold: jax.Array, done: jax.Array, buffer: Ring, replay: str) -> jax.Array:
  """Scalar int32: `DATA`, `STUDENT` or `REPLAY`; see `distillm`. `done` is the share of updates that are done."""
  share = {"decreasing": 1 - done, "constant": jnp.full_like(done, 0.5), "increasing": done}[replay]
  u = jax.random.uniform(key)
  own, full = u < threshold, buffer.size >= buffer.capacity
  return jnp.where((u < threshold * share) | (own & ~full), STUDENT, jnp.where(own, REPLAY, DATA)).astype(jnp.int32)


def _looked(schedule: Schedule, sampling: Sampling) -> tuple[Adaptive, jax.Array]:
  """State and held-out loss, which is measured anew in every `validate_every`-th update."""
  state, measured = sampling.memory["adaptive"], sampling.memory["held_out"]
  look = state.n % schedule.validate_every == 0
  measured = lax.cond(look, lambda: held_out_loss(sampling), lambda: measured)
  rule = {"loss_rise": schedule.loss_rise, "threshold_step": schedule.threshold_step}
  return adaptive_source_update(state, measured, look, **rule), measured


def _taken(key: Key, source: jax.Array, sampling: Sampling, options: Mapping) -> tuple[Batch, Ring]:
  """The batch of an update from its source, and the buffer after it."""
  key_write, key_replay = jax.random.split(key)
  data = sampling.batch

  def write(buffer: Ring) -> tuple[Batch, Ring]:
    new, _ = respond(key_write, sampling.student, sampling.params, data, **options)
    return new, push(buffer, _rows(new), None if data.weight is None else data.weight > 0)

  def again(buffer: Ring) -> tuple[Batch, Ring]:
    return _from_rows(draw_rows(buffer, key_replay, data.ids.shape[0]), data), buffer

  plain = data._replace(extra={name: data.extra[name] for name in _REPLAYED})
  return lax.switch(source, [lambda buffer: (plain, buffer), write, again], sampling.memory["buffer"])


def _figures(step: StepOutputs) -> dict[str, jax.Array]:
  state, source = step.memory["adaptive"], step.batch.extra["source"][0]
  own = {"threshold": state.threshold, "generated": state.generated, "source": source}
  return own | {"held_out": step.memory["held_out"]}


def _rows(batch: Batch) -> PyTree:
  """What the buffer keeps of a batch."""
  return {"x": batch.x, "y": batch.y, **{name: batch.extra[name] for name in _REPLAYED}}


def _from_rows(rows: PyTree, data: Batch) -> Batch:
  return data._replace(x=rows["x"], y=rows["y"], extra={name: rows[name] for name in _REPLAYED})
