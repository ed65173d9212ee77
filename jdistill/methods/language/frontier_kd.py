"""Distillation by synthetic data: a teacher answers at length, and students learn to do so without being asked to."""

from typing import Literal

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key
from jdistill.language import Samples, generate, next_tokens, with_prompts
from jdistill.methods.knowledge.recipe import Recipe
from jdistill.methods.language.responses import draw_prompts, writing_teacher
from jdistill.methods.language.terms import Reduction, next_token_term
from jdistill.schema import Count, NonNegative, Size, validated

PROMPT = "teacher_prompt"  # of the extra: [B, P] ids, -1 for padding


@validated("method")
def frontier_kd(
  *,
  prompts: Literal["elaborate", "direct"] = "elaborate",
  target: Literal["rationale", "answer"] = "rationale",
  separator: Size = 59,
  max_new: Count = 64,
  sampling_temperature: NonNegative = 0.0,
  end_token: Size = 256,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """Cross entropy with what the teacher wrote to another prompt than the student's (arXiv 2410.18588).

  Once before training the teacher answers an elaborate prompt, such as one that asks for the steps. The student's
  example is the simple prompt and this response: so it learns to reason without being told to. Responses without an end
  after `max_new` tokens and empty ones are dropped, and their shares are reported.

  Args:
    prompts: of the teacher: `"elaborate"`, the `teacher_prompt` of the examples, or `"direct"`, those of the student.
    target: of the student: the whole response, or what comes from its first `separator` on, which is the answer. A
      response without a separator has no answer, and is dropped as empty.
    separator: id of the token between rationale and answer; 59 is `;` in bytes.
    max_new: tokens of a response at most; the rest of a row's length is for the prompt.
    sampling_temperature: of the teacher; 0 takes the likeliest tokens (the paper's is not known; unverified).
    end_token: that ends a response.
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    ValueError: at trace time, examples without an elaborate prompt, no teacher that can write, or a `max_new` that
      leaves no room for prompts.
  """

  def written(key: Key, teachers: tuple, batch: Batch) -> tuple[Batch, dict[str, jax.Array]]:
    model, params = writing_teacher("frontier_kd", teachers)
    own, own_mask = draw_prompts(key, batch, 0, max_new)
    asked, asked_mask = own, own_mask
    if prompts == "elaborate":
      if PROMPT not in batch.extra:
        raise ValueError("method.prompts='elaborate': the task has no such prompts; set prompts='direct'")
      asked_mask = batch.extra[PROMPT] >= 0
      asked = jnp.where(asked_mask, batch.extra[PROMPT], 0)
    samples = generate(
      model, params, asked, key, max_new=max_new, prompt_mask=asked_mask, temperature=sampling_temperature,
      end_token=end_token, row_ids=batch.ids,
    )  # fmt: skip
    ended = jnp.any(samples.mask & (samples.tokens == end_token), axis=1)
    if target == "answer":
      samples = answers(samples, separator)
    size = jnp.sum(samples.mask, axis=1)
    empty = size <= 1  # the end alone
    rows, response = with_prompts(own, own_mask, samples)
    targets, mask = next_tokens(rows, response)
    mask = mask & (ended & ~empty)[:, None]
    figures = {"unfinished": ~ended, "empty": empty & ended, "tokens": jnp.sum(mask, axis=1)}
    return batch._replace(x=rows, y=targets, extra=dict(batch.extra) | {"mask": mask}), figures

  return Recipe({"ce": next_token_term(1.0, reduction)}, written=written)


def answers(samples: Samples, separator: int) -> Samples:
  """Responses from their first `separator` on, moved to the front; nothing of those without one.

  Args:
    samples: `[B, T]`.
    separator: id of a token.
  """
  here = samples.mask & (samples.tokens == separator)
  first = jnp.argmax(here, axis=1)[:, None]
  places = first + jnp.arange(here.shape[1])[None]
  there = jnp.any(here, axis=1)[:, None] & (places < here.shape[1])
  take = lambda leaf: jnp.take_along_axis(leaf, jnp.minimum(places, here.shape[1] - 1), axis=1)  # noqa: E731
  mask = take(samples.mask) & there
  moved = Samples(*map(take, samples))
  return jax.tree.map(lambda leaf: jnp.where(mask, leaf, jnp.zeros_like(leaf)), moved)._replace(mask=mask)
