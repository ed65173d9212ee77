"""Sequence-level distillation: a student that learns the text its teacher writes to the prompts of the data."""

from typing import Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Batch, Key, UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs
from jdistill.methods.language.responses import respond, writing_teacher
from jdistill.methods.language.terms import Reduction, Temperature, next_token_term, token_term
from jdistill.schema import Count, NonNegative, Share, Size, validated


@validated("method")
def seq_kd(
  *,
  word_share: Share = 0.0,
  unfinished: Literal["drop", "keep"] = "drop",
  prompt: Size = 0,
  max_new: Count = 64,
  sampling_temperature: NonNegative = 1.0,
  end_token: Size | None = 256,
  temperature: Temperature = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`(1 - word_share) CE + word_share T^2 KL(p || q)` per token of responses that the teacher wrote (arXiv 1606.07947).

  Once before training, a document of each row of the data is drawn and the teacher continues its prompt. These
  responses stand in the place of the data in all epochs, and are an artefact of the run: with the hash of the teacher,
  the seed and the options of the method, the temperature among them. The share of unfinished ones is reported.

  The paper searches for the likeliest sequence by a beam; language models sample. A low temperature makes texts of one
  kind, 0 takes the likeliest token at every step.

  Args:
    word_share: of word-level distillation on the same responses, which needs the teacher in every update.
    unfinished: what is done about responses without an end after `max_new` tokens: `"drop"` learns nothing of them.
    prompt, max_new, end_token: of the responses; see the recipe `gkd`.
    sampling_temperature: of the teacher's samples.
    temperature: of both distributions in word-level distillation.
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    UserError: unfinished responses would be dropped and there is no end token.
    ValueError: at trace time, as for `gkd`.
  """
  if end_token is None and unfinished == "drop":
    raise UserError("method.end_token=None: no response ends, and all would be dropped; set unfinished='keep'")
  options = {"prompt": prompt, "max_new": max_new, "temperature": sampling_temperature, "end_token": end_token}

  def written(key: Key, teachers: tuple, batch: Batch) -> tuple[Batch, dict[str, jax.Array]]:
    new, samples = respond(key, *writing_teacher("seq_kd", teachers), batch, **options)
    ended = jnp.any(samples.mask & (samples.tokens == (-1 if end_token is None else end_token)), axis=1)
    kept = ended if unfinished == "drop" else jnp.ones_like(ended)
    mask = new.extra["mask"] & kept[:, None]
    figures = {"unfinished": ~ended, "tokens": jnp.sum(mask, axis=1)}
    return batch._replace(x=new.x, y=new.y, extra=dict(batch.extra) | {"mask": mask}), figures

  def words(step: StepOutputs, where: jax.Array) -> jax.Array:
    return losses.kl_divergence(step.student.logits, step.teacher.logits, temperature=temperature, where=where)

  terms = {"ce": next_token_term(1 - word_share, reduction)}
  if word_share:
    terms["word"] = token_term(words, word_share, reduction)
  return Recipe(terms, written=written)
