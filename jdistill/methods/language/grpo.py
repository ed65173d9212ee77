"""GRPO: a policy that writes several responses to each prompt and learns from those that are checked to be better."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import losses
from jdistill.base import Batch, Key
from jdistill.language import byte_tokenizer, generate, next_tokens, with_prompts
from jdistill.methods.knowledge.recipe import Memory, Recipe, Sampling, StepOutputs
from jdistill.methods.language.responses import draw_prompts
from jdistill.methods.language.terms import Reduction, token_term
from jdistill.ops.ring import Ring, empty_ring, push
from jdistill.schema import Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import character_codes, check_addition
from jdistill.synthetic.arithmetic import Verdict

# (tokens [N, T], padding is false [N, T], response [N, T]) -> Verdict of [N]
Checker = Callable[[jax.Array, jax.Array, jax.Array], Verdict]
_KEPT = 512  # prompts whose groups are remembered


class Group(NamedTuple):
  """What is remembered of a prompt's group.

  Attributes:
    domain: int32, of the prompt; 0 where the data has no domains.
    advantage: `[G]` float32, the absolute advantages of its responses.
  """

  domain: jax.Array
  advantage: jax.Array


class Remembered(NamedTuple):
  """The memory of GRPO, which a data policy reads by `Look.memory`.

  Attributes:
    groups: a `Ring` of the last groups, as `Group`.
    total: scalar int32, how many groups there were in all.
  """

  groups: Ring
  total: jax.Array


def addition_checker(scratchpad: bool = False) -> Checker:
  """The checker of additions in bytes; see `jdistill.synthetic.check_addition`."""
  words = byte_tokenizer()
  codes = np.asarray(character_codes(words.decode, words.size, words.eos))
  return lambda tokens, where, response: check_addition(tokens, where, response, codes, scratchpad=scratchpad)


def rewards_of(verdict: Verdict, kind: str) -> jax.Array:
  """`[N]` float32: `"exact"`, 1 for a right answer, else 0; `"graded"`, DUMP's: format and answer each by itself.

  The format gives 1 or -1; the answer 2 where it is right, -1.5 where it is wrong and -2 where it cannot be read.
  """
  right, readable = verdict
  if kind == "exact":
    return right.astype(jnp.float32)
  return jnp.where(readable, 1.0, -1.0) + jnp.where(right, 2.0, jnp.where(readable, -1.5, -2.0))


@validated("method")
def grpo(
  *,
  group_size: Annotated[int, Range(2)] = 16,
  clip: NonNegative = 0.2,
  kl_weight: NonNegative = 0.0,
  entropy_weight: NonNegative = 0.0,
  reward: Literal["exact", "graded"] = "exact",
  scratchpad: bool = False,
  max_new: Count = 16,
  sampling_temperature: Positive = 1.0,
  end_token: Size = 256,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`-min(r A, clip(r) A) + kl_weight KL(pi || reference) - entropy_weight H(pi)` per token (arXiv 2402.03300).

  The rewards are those of a checker of additions in bytes; `rewarded` is the same for any checker.

  To every prompt of a batch the student writes `group_size` responses as it is in that update; each is rewarded by a
  checker and its advantage is `(r - mean) / (std + 1e-6)` within its group, the same for all of its tokens. Each update
  samples anew, so that `r = pi / pi_old` is 1 and the clip does not bind: DUMP's release takes four updates of 32
  prompts from the roll-outs of 128. Its coefficients are `kl_weight` 0.001 and `entropy_weight` 0.001.

  The labels of the data are not used. Sampling, checking and the update are one program. `method/reward`,
  `method/wrong`, `method/unreadable`, `method/response` (mean tokens), `method/constant`, the share of groups that are
  all alike and teach nothing, and `method/advantage`, the mean of |A|, are reported. Absolute advantages are remembered
  for data policies such as `dump`.

  Args:
    group_size: G, responses to each prompt.
    clip: epsilon.
    kl_weight: of the estimate k3 of the divergence from the first teacher, the reference; above 0 needs a teacher.
    entropy_weight: of the entropy of the student's distributions, as a bonus.
    reward: see `rewards_of`.
    scratchpad: whether the answer comes after steps and a semicolon.
    max_new: tokens of a response at most; the rest of a row's length is for the prompt.
    sampling_temperature: of the responses; the ratio is that of the untempered model.
    end_token: that ends a response, and counts; 256 for bytes.
    reduction: `"token_mean"` as in DUMP's code, `"sequence_mean"` as in GRPO's paper.

  Raises:
    ValueError: at trace time, what `gkd` refuses.
  """
  return rewarded(
    addition_checker(scratchpad), group_size=group_size, clip=clip, kl_weight=kl_weight, entropy_weight=entropy_weight,
    reward=reward, max_new=max_new, sampling_temperature=sampling_temperature, end_token=end_token, reduction=reduction,
  )  # fmt: skip


def rewarded(
  check: Checker,
  *,
  group_size: int = 16,
  clip: float = 0.2,
  kl_weight: float = 0.0,
  entropy_weight: float = 0.0,
  reward: str = "exact",
  max_new: int = 16,
  sampling_temperature: float = 1.0,
  end_token: int = 256,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`grpo` with rewards of this checker: `(tokens, where, response), [N, T] each -> Verdict`; see there."""
  if group_size < 2:
    raise ValueError(
      f"rewarded: group_size={group_size} must be at least 2; a response alone has nothing to be better than"
    )

  write = _writing(
    check, group_size=group_size, reward=reward, max_new=max_new, temperature=sampling_temperature, end_token=end_token
  )

  def surrogate(step: StepOutputs, where: jax.Array) -> jax.Array:
    extra = step.batch.extra
    own = _log_probs(step.student.logits, step.y)
    return losses.clipped_policy_loss(own, extra["old"], extra["advantage"], clip=clip, where=where)

  def anchor(step: StepOutputs, where: jax.Array) -> jax.Array:
    own, reference = (_log_probs(out.logits, step.y) for out in (step.student, step.teacher))
    return losses.k3_kl(own, reference, where=where)

  def entropy(step: StepOutputs, where: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(step.student.logits, axis=-1)
    return jnp.where(where, jnp.sum(jnp.exp(log_p) * log_p, axis=-1), 0.0)

  terms = {"policy": token_term(surrogate, 1.0, reduction)}
  terms["neg_entropy"] = token_term(entropy, entropy_weight, reduction)
  if kl_weight:
    terms["kl"] = token_term(anchor, kl_weight, reduction)
  return Recipe(
    terms,
    sampled_batch=write,
    memory=Memory(lambda key, count, batch: nothing_remembered(group_size)),
    metrics=lambda step: _figures(step, group_size),
    needs=("teacher",) if kl_weight else (),
  )


def _log_probs(logits: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), y[..., None], axis=-1)[..., 0]


def _writing(
  check: Checker, *, group_size: int, reward: str, max_new: int, temperature: float, end_token: int
) -> Callable:
  """`Recipe.sampled_batch`: groups of responses with their advantages."""

  def sampled_batch(key: Key, sampling: Sampling) -> tuple[Batch, Remembered]:
    batch = sampling.batch
    key_document, key_text = jax.random.split(key)
    # [B G, ...]; a prompt that is there twice has two groups, so the row and not the id decides the random numbers
    prompts, there = (jnp.repeat(leaf, group_size, axis=0) for leaf in draw_prompts(key_document, batch, 0, max_new))
    samples = generate(
      sampling.student, sampling.params, prompts, key_text, max_new=max_new, prompt_mask=there,
      temperature=temperature, end_token=end_token,
    )  # fmt: skip
    rows, response = with_prompts(prompts, there, samples)
    verdict = check(rows.tokens, rows.segments > 0, response)
    rewards = rewards_of(verdict, reward)
    advantages = losses.group_relative_advantage(rewards.reshape(-1, group_size))
    targets, mask = next_tokens(rows, response)
    extra = {
      "mask": mask, "advantage": advantages.reshape(-1), "reward": rewards, "correct": verdict.correct,
      "readable": verdict.readable, "length": jnp.sum(samples.mask, axis=1),
      "old": _old(samples.log_probs, mask.shape[1]),
    }  # fmt: skip
    weight = batch.weight if batch.weight is None else jnp.repeat(batch.weight, group_size)
    ids = jnp.repeat(batch.ids, group_size)
    memory = _remember(sampling.memory, batch, jnp.abs(advantages))
    return Batch(rows, targets, ids, weight, extra), memory

  return sampled_batch


def _old(response_log_probs: jax.Array, length: int) -> jax.Array:
  """Log-probabilities of responses at the positions that predict them, `[N, T]`; 0 elsewhere."""
  count, size = response_log_probs.shape
  before = jnp.zeros((count, length - size - 1), response_log_probs.dtype)
  return jnp.concatenate([before, response_log_probs, jnp.zeros((count, 1), response_log_probs.dtype)], axis=1)


def nothing_remembered(group_size: int) -> Remembered:
  """The memory before the first update, of groups of this size."""
  row = Group(jnp.zeros(1, jnp.int32), jnp.zeros((1, group_size), jnp.float32))
  return Remembered(empty_ring(row, _KEPT), jnp.zeros((), jnp.int32))


def _remember(memory: Remembered, batch: Batch, advantages: jax.Array) -> Remembered:
  """Adds the groups of prompts that are no padding."""
  domain = batch.extra.get("domain", jnp.zeros_like(batch.ids))
  there = jnp.ones(batch.ids.shape, bool) if batch.weight is None else batch.weight > 0
  rows = Group(domain.astype(jnp.int32), advantages.astype(jnp.float32))
  return Remembered(push(memory.groups, rows, there), memory.total + jnp.sum(there, dtype=jnp.int32))


def _figures(step: StepOutputs, group_size: int) -> dict[str, jax.Array]:
  extra, weight = step.batch.extra, step.where.astype(jnp.float32)

  def mean(values: jax.Array) -> jax.Array:
    return jnp.sum(weight * values.astype(jnp.float32)) / jnp.maximum(jnp.sum(weight), 1)

  rewards = extra["reward"].reshape(-1, group_size)
  alike = jnp.repeat(jnp.all(rewards == rewards[:, :1], axis=1), group_size)
  return {
    "reward": mean(extra["reward"]),
    "wrong": mean(~extra["correct"]),
    "unreadable": mean(~extra["readable"]),
    "response": mean(extra["length"]),
    "constant": mean(alike),
    "advantage": mean(jnp.abs(extra["advantage"])),
  }
