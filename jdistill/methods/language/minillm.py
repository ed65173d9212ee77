"""MiniLLM: the reverse divergence of whole sequences, by policy gradients on text that student and teacher write."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import losses
from jdistill.base import Batch, Key, PyTree
from jdistill.language import mixture
from jdistill.methods.knowledge.recipe import Memory, Recipe, Sampling, StepOutputs, Term
from jdistill.methods.language.responses import respond, with_data, writing_teacher
from jdistill.methods.language.terms import counted, data_term, token_term
from jdistill.ops.ring import Ring, draw_rows, empty_ring, push
from jdistill.schema import Count, NonNegative, Positive, Range, Share, Size, Traced, validated

Weight = Annotated[NonNegative, Traced]


class _Seen(NamedTuple):
  """Of every token of a batch, `[B, T]`: whether a rollout has it, and what its weight is made of."""

  where: jax.Array
  old: jax.Array  # log-probabilities under the student that wrote
  now: jax.Array  # under the student of this update, with a gradient
  rewards: jax.Array
  weights: jax.Array


@validated("method")
def minillm(
  *,
  teacher_share: Annotated[float, Range(0, 0.9999)] = 0.2,
  reward_scale: Annotated[Positive, Traced] = 0.5,
  reward_bound: Annotated[Positive, Traced] = 100.0,
  discount: Annotated[Share, Traced] = 1.0,
  returns: Literal["own", "next"] = "own",
  length_norm: bool = True,
  whiten: Literal["tokens", "padded", "none"] = "tokens",
  clip: Annotated[NonNegative, Traced] = 0.2,
  clip_weighted: bool = True,
  rollouts: Count = 256,
  reuse: Count = 4,
  long_weight: Weight = 1.0,
  single_weight: Weight = 1.0,
  lm_weight: NonNegative = 1.0,
  lm_teacher: Share = 0.5,
  prompt: Size = 0,
  max_new: Count = 64,
  end_token: Size | None = 256,
) -> Recipe:
  """`KL(q || p)` of sequences: `long_weight PPO + single_weight KL_t(q || p) + lm_weight LM` (arXiv 2306.08543).

  Every `reuse` updates a document of each row of the batch is drawn, and its prompt is continued token by token from
  `teacher_share p + (1 - teacher_share) q`. These rollouts enter a buffer, and every update learns as many of it as
  the batch has rows. With `q_0` the student that wrote and `y` the tokens written

      r_t = clip((log p(y_t) - log q_0(y_t)) / reward_scale, -reward_bound, reward_bound)
      A_t = whitened (1 / n_t) sum_{t' >= t} discount^(t' - t) r_t'        n_t terms of the sum
      c_t = q / q_0 w_t,   w_t = q_0 / ((1 - teacher_share) q_0 + teacher_share p)
      PPO = mean_t -min(c_t A_t, clip(c_t, 1 - clip, 1 + clip) A_t)

  `KL_t` is the exact divergence of the next token at every position of the rollouts, its gradient through `q`. `LM`
  is `(1 - lm_teacher) CE + lm_teacher KL(p || q)` on the text of the data, which joins every batch if `lm_weight` is
  not 0. All are means over tokens.

  `method/reward` (the mean of `r_t`), `method/ratio` (of `c_t`), `method/length` (tokens of a rollout) and
  `method/bounded` (the share of rewards at the bound) are reported.

  Args:
    teacher_share: the paper's alpha.
    reward_scale, reward_bound: of the rewards.
    discount: 1 is the paper's sum; its scripts have 0.95 (unverified). 0 leaves a token its own reward: on-policy
      distillation on the sampled tokens.
    returns: `"own"` includes a token's own reward, as above. `"next"` leaves it out: beside the single-step term, which
      is its gradient, that is the exact decomposition of the gradient of the divergence of sequences.
    length_norm: false leaves out `1 / n_t`.
    whiten: over the `"tokens"` of the rollouts of a batch; `"padded"` counts the padding as zeros, as the released code
      does; `"none"` for the returns themselves.
    clip: of PPO.
    clip_weighted: false clips `q / q_0` alone and multiplies by `w_t` afterwards.
    rollouts: rows of the buffer, at least a batch; the oldest are forgotten.
    reuse: updates per batch of new rollouts. 1 and as many rollouts as a batch has rows are on-policy. The paper's 4
      PPO epochs over 256 rollouts, in batches of 16, are 4 updates per 16 new ones.
    long_weight, single_weight, lm_weight, lm_teacher: see above.
    prompt, max_new, end_token: of the rollouts; see the recipe `gkd`.

  Raises:
    ValueError: at trace time, as for `gkd`, or fewer `rollouts` than rows of a batch.
    UserError: at trace time, a teacher with another vocabulary.
  """
  memory = Memory(lambda key, count, batch: _begin(batch, rollouts))
  rule = {"discount": discount, "own": returns == "own", "length_norm": length_norm}
  options = {"prompt": prompt, "max_new": max_new, "temperature": 1.0, "end_token": end_token}

  def sampled_batch(key: Key, sampling: Sampling) -> tuple[Batch, PyTree]:
    key_write, key_draw = jax.random.split(key)
    n, data = sampling.memory["n"], sampling.batch
    there = None if data.weight is None else data.weight > 0

    def write(buffer: Ring) -> Ring:
      return push(buffer, _rollouts(key_write, sampling, teacher_share, options), there)

    buffer = lax.cond(n % reuse == 0, write, lambda buffer: buffer, sampling.memory["buffer"])
    rows = draw_rows(buffer, key_draw, data.ids.shape[0])
    batch = data._replace(x=rows["x"], y=rows["y"], weight=None if there is None else jnp.ones_like(data.weight))
    batch = batch._replace(extra={"mask": rows["mask"], "old_log_probs": rows["old_log_probs"]})
    return with_data(batch, data) if lm_weight else batch, {"n": n + 1, "buffer": buffer}

  seen = lambda step: _look(step, teacher_share, reward_scale, reward_bound)  # noqa: E731

  def long(step: StepOutputs) -> jax.Array:
    where, old, now, rewards, weights = seen(step)
    sums = losses.discounted_returns(rewards, where=where, **rule)
    written = where.shape[0] // 2 if lm_weight else where.shape[0]  # rows of the data come after
    advantages = sums if whiten == "none" else _whitened(sums, where, written, whiten == "padded")
    surrogate = losses.clipped_policy_loss(
      now, old, advantages, clip=clip, weights=weights, clip_weighted=clip_weighted, where=where
    )
    return losses.reduce_tokens(surrogate, where)

  terms = {"long": Term(long, long_weight), "single": token_term(_reverse_kl, single_weight, "token_mean")}
  if lm_weight:
    terms["lm"] = data_term(lm_weight, "token_mean", lm_teacher)
  return Recipe(
    terms, sampled_batch=sampled_batch, memory=memory, metrics=lambda step: _figures(seen(step), reward_bound)
  )


def _begin(batch: Batch, rollouts: int) -> PyTree:
  """The memory before the first update."""
  if rollouts < batch.ids.shape[0]:
    raise ValueError(f"method.rollouts={rollouts}: holds no batch of {batch.ids.shape[0]}; raise it")
  return {"n": jnp.zeros((), jnp.int32), "buffer": empty_ring(_rows(batch, jnp.zeros(batch.y.shape)), rollouts)}


def _rollouts(key: Key, sampling: Sampling, teacher_share: float, options: Mapping) -> PyTree:
  """Rows that student and teacher write to the prompts of a batch."""
  model, params = writing_teacher("minillm", sampling.teachers)
  both = mixture(sampling.student, model, teacher_share)
  new, _ = respond(key, both, (sampling.params, params), sampling.batch, **options)
  logits = sampling.student.apply(sampling.params, new.x).logits
  return _rows(new, -losses.cross_entropy(logits, new.y, where=new.extra["mask"]))


def _look(step: StepOutputs, teacher_share: float, scale: float, bound: float) -> _Seen:
  where, old = counted(step), step.batch.extra["old_log_probs"]
  now, teacher = (-losses.cross_entropy(out.logits, step.y, where=where) for out in (step.student, step.teacher))
  rewards = losses.log_ratio_rewards(old, teacher, scale=scale, bound=bound, where=where)
  return _Seen(where, old, now, rewards, losses.mixture_weight(old, teacher, share=teacher_share, where=where))


def _whitened(returns: jax.Array, where: jax.Array, written: int, padding: bool) -> jax.Array:
  """Over the first rows, which are rollouts."""
  own = losses.whiten_advantages(returns[:written], where=where[:written], padding=padding)
  return jnp.concatenate([own, returns[written:]])


def _figures(seen: _Seen, bound: float) -> dict[str, jax.Array]:
  where, old, now, rewards, weights = seen
  ratio = jnp.exp(jnp.clip(jnp.where(where, now - old, 0), -20, 20)) * weights
  means = {"reward": rewards, "ratio": ratio, "bounded": (jnp.abs(rewards) >= bound).astype(jnp.float32)}
  means = {name: losses.reduce_tokens(values, where) for name, values in means.items()}
  return means | {"length": jnp.sum(where) / jnp.maximum(jnp.sum(jnp.any(where, axis=1)), 1)}


def _reverse_kl(step: StepOutputs, where: jax.Array) -> jax.Array:
  return losses.reverse_kl(step.student.logits, step.teacher.logits, where=where)


def _rows(batch: Batch, old_log_probs: jax.Array) -> PyTree:
  """What the buffer keeps of rollouts."""
  return {"x": batch.x, "y": batch.y, "mask": batch.extra["mask"], "old_log_probs": old_log_probs}
