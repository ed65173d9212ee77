"""GKD: a student that learns from its teacher on text of its own."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import losses
from jdistill.base import Batch, Key, LanguageModel, PyTree
from jdistill.language import Rows, generate, next_tokens, with_prompts
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs
from jdistill.methods.language.divergences import Inner
from jdistill.methods.language.terms import Reduction, Temperature, token_term
from jdistill.schema import Count, Positive, Share, Size, validated


@validated("method")
def gkd(
  *,
  student_share: Share = 0.5,
  divergence: Literal["jsd", "forward_kl", "reverse_kl"] = "jsd",
  beta: Inner = 0.5,
  prompt: Size = 0,
  max_new: Count = 64,
  sampling_temperature: Positive = 1.0,
  end_token: Size | None = 256,
  temperature: Temperature = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`T^2 D(p, q)` per token, in a share of the updates on text that the student writes (arXiv 2306.13649).

  Every update draws whether its batch is the data's or the student's: then a document of each row is drawn, and the
  student continues its prompt as it is in that update. Its tokens are labels of nothing: only the teacher's
  distributions are learned, on the response and its end. No gradient passes through the samples.

  A token's random numbers depend on the seed, the update and the example, and not on its neighbours in the batch.
  `method/own_text` is 1 for an update on the student's text.

  Args:
    student_share: the paper's lambda; 1 is on-policy, which it finds best in general, 0 never samples.
    divergence: D: `"jsd"`, `"forward_kl"`, KL(p || q), or `"reverse_kl"`, KL(q || p).
    beta: of `"jsd"`, the teacher's share of the mixture; see the recipe `jsd`.
    prompt: how many tokens that are learned in the data belong to the prompt, beside those before them that are not:
      0 for records of prompts and responses, more for texts. A document gives all but its last token at most.
    max_new: tokens of a response at most; the rest of a row's length is for the prompt, of which the end is kept.
    sampling_temperature: of the samples alone.
    end_token: that ends a response, and counts; 256 for bytes. `None` for no end before `max_new`.
    temperature: of both distributions in D.
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    ValueError: at trace time, `max_new` that leaves no token of a row to the prompt, examples that are no `Rows`, or a
      student that cannot be sampled from.
  """

  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    options = {"kind": divergence, "temperature": temperature, "where": where}
    return losses.token_divergence(step.student.logits, step.teacher.logits, beta=beta, **options)

  def write(key: Key, model: LanguageModel, params: PyTree, batch: Batch) -> Batch:
    key_document, key_text = jax.random.split(key)
    prompts, there = draw_prompts(key_document, batch, prompt, max_new)
    samples = generate(
      model, params, prompts, key_text, max_new=max_new, prompt_mask=there, temperature=sampling_temperature,
      end_token=end_token, row_ids=batch.ids,
    )  # fmt: skip
    rows, response = with_prompts(prompts, there, samples)
    targets, mask = next_tokens(rows, response)
    return _marked(batch._replace(x=rows, y=targets, extra=dict(batch.extra) | {"mask": mask}), 1.0)

  def sampled_batch(key: Key, model: LanguageModel, params: PyTree, batch: Batch) -> Batch:
    key_choice, key_write = jax.random.split(key)
    chosen = jax.random.bernoulli(key_choice, student_share)
    return lax.cond(chosen, lambda: write(key_write, model, params, batch), lambda: _marked(batch, 0.0))

  return Recipe(
    {"gkd": token_term(values, 1.0, reduction)},
    sampled_batch=sampled_batch if student_share else None,
    metrics=lambda step: {"own_text": jnp.mean(step.batch.extra["own_text"])} if student_share else {},
  )


def _marked(batch: Batch, own: float) -> Batch:
  return batch._replace(extra=dict(batch.extra) | {"own_text": jnp.full(batch.ids.shape, own, jnp.float32)})


def draw_prompts(key: Key, batch: Batch, prompt: int, max_new: int) -> tuple[jax.Array, jax.Array]:
  """Prompts of one document of every row, each drawn with the same probability, on the right of the array.

  Args:
    key: random key.
    batch: `x` are `Rows` `[B, T]` whose documents are numbered from 1, and `mask` of the extra says which tokens have a
      target that is learned.
    prompt, max_new: see `gkd`.

  Returns:
    Tokens `[B, T - max_new]` and their mask.

  Raises:
    ValueError: see `gkd`.
  """
  rows = batch.x
  if not isinstance(rows, Rows) or "mask" not in batch.extra:
    raise ValueError("gkd: needs examples with documents and a mask; use the task 'language'")
  room = rows.tokens.shape[1] - max_new
  if room < 1:
    raise ValueError(f"gkd: method.max_new={max_new} leaves no token of {max_new + room} to a prompt; lower it")
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
