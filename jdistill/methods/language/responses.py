"""Where the responses of an update come from: written by a model, taken from a memory, or those of the data."""

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Batch, Key, LanguageModel, PyTree
from jdistill.language import Rows, Samples, generate, next_tokens, with_prompts
from jdistill.methods.knowledge.recipe import Sampling


def respond(
  key: Key,
  model: LanguageModel,
  params: PyTree,
  batch: Batch,
  *,
  prompt: int,
  max_new: int,
  temperature: float,
  end_token: int | None,
) -> tuple[Batch, Samples]:
  """A document of every row is drawn, and a model continues its prompt.

  A token's random numbers depend on the key, the example and its position, and not on the neighbours in the batch.

  Args:
    key: of the batch.
    model, params: that writes.
    batch, prompt, max_new: see `draw_prompts`.
    temperature: of the samples; 0 for the likeliest tokens.
    end_token: that ends a response, and counts; `None` for no end before `max_new`.

  Returns:
    The batch with prompts and responses as `x`, their next tokens as `y` and the responses as `mask` of the extra,
    which has nothing else; and the samples.

  Raises:
    ValueError: see `draw_prompts`.
  """
  key_document, key_text = jax.random.split(key)
  prompts, there = draw_prompts(key_document, batch, prompt, max_new)
  samples = generate(
    model, params, prompts, key_text, max_new=max_new, prompt_mask=there, temperature=temperature,
    end_token=end_token, row_ids=batch.ids,
  )  # fmt: skip
  rows, response = with_prompts(prompts, there, samples)
  targets, mask = next_tokens(rows, response)
  return batch._replace(x=rows, y=targets, extra={"mask": mask}), samples


def draw_prompts(key: Key, batch: Batch, prompt: int, max_new: int) -> tuple[jax.Array, jax.Array]:
  """Prompts of one document of every row, each drawn with the same probability, on the right of the array.

  Args:
    key: random key.
    batch: `x` are `Rows` `[B, T]` whose documents are numbered from 1, and `mask` of the extra says which tokens have a
      target that is learned.
    prompt: how many tokens that are learned in the data belong to the prompt, beside those before them that are not: 0
      for records of prompts and responses, more for texts. A document gives all but its last token at most.
    max_new: tokens of a response at most; the rest of a row's length is for the prompt, of which the end is kept.

  Returns:
    Tokens `[B, T - max_new]` and their mask.

  Raises:
    ValueError: `max_new` that leaves no token of a row to the prompt, or examples that are no `Rows`.
  """
  rows = batch.x
  if not isinstance(rows, Rows) or "mask" not in batch.extra:
    raise ValueError("responses: need examples with documents and a mask; use the task 'language'")
  room = rows.tokens.shape[1] - max_new
  if room < 1:
    raise ValueError(f"method.max_new={max_new}: leaves no token of {max_new + room} to a prompt; lower it")
  count = jnp.maximum(jnp.max(rows.segments, axis=1), 1)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.ids)
  own = rows.segments == jax.vmap(lambda key, most: jax.random.randint(key, (), 1, most + 1))(keys, count)[:, None]
  # position t predicts token t + 1, so the prompt ends at the first position whose target is learned
  learned = jnp.cumsum(own & batch.extra["mask"], axis=1) > 0
  size = jnp.sum(own & ~learned, axis=1) + 1 + prompt
  size = jnp.maximum(jnp.minimum(size, jnp.sum(own, axis=1) - 1), 1)
  places = (jnp.argmax(own, axis=1) + size)[:, None] + jnp.arange(-room, 0)[None]
  tokens = jnp.take_along_axis(rows.tokens, jnp.clip(places, 0, rows.tokens.shape[1] - 1), axis=1)
  there = jnp.arange(room)[None] >= room - size[:, None]
  return jnp.where(there, tokens, 0), there


def writing_teacher(name: str, teachers: tuple) -> tuple[LanguageModel, PyTree]:
  """The first teacher, as one that can be sampled from.

  Raises:
    ValueError: there is none.
  """
  if not teachers:
    raise ValueError(f"{name}: its teacher writes, and this one cannot; use targets.source='online' and a decoder")
  return teachers[0]


def marked(batch: Batch, **flags: float | jax.Array) -> Batch:
  """The batch with further extras `[B]` float32, the same number for all rows."""
  return batch._replace(
    extra=dict(batch.extra) | {n: jnp.full(batch.ids.shape, v, jnp.float32) for n, v in flags.items()}
  )


def with_data(batch: Batch, data: Batch) -> Batch:
  """Rows that were written, and after them those of the data, which only terms of the data learn.

  `mask` is false for the rows of the data, `data_mask` is true for their tokens and false for all others. Other extras
  of rows that were written are 0 for those of the data.
  """
  mask = data.extra["mask"]
  own = dict(batch.extra) | {"data_mask": jnp.zeros_like(mask)}
  theirs = {n: jnp.zeros((mask.shape[0], *v.shape[1:]), v.dtype) for n, v in own.items()} | {"data_mask": mask}
  pairs = (batch._replace(extra=own), data._replace(extra=theirs))
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pairs)


def held_out_loss(sampling: Sampling) -> jax.Array:
  """The student's mean loss per token of the held-out examples, in nats: a scalar.

  Raises:
    ValueError: there are none.
  """
  held_out = sampling.held_out
  if held_out is None or held_out.y.shape[0] == 0:
    raise ValueError("method: no held-out examples to score; give StudentInput.held_out, apart from the data")
  logits = sampling.student.apply(sampling.params, held_out.x).logits
  mask = held_out.extra["mask"]
  return losses.reduce_tokens(losses.cross_entropy(logits, held_out.y, where=mask), mask)
