"""GKD: a student that learns from its teacher on text of its own."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import losses
from jdistill.base import Batch, Key
from jdistill.methods.knowledge.recipe import Recipe, Sampling, StepOutputs
from jdistill.methods.language.divergences import Inner
from jdistill.methods.language.responses import marked, respond, writing_teacher
from jdistill.methods.language.terms import Reduction, Temperature, token_term
from jdistill.schema import Count, Positive, Share, Size, validated


@validated("method")
def gkd(
  *,
  student_share: Share = 0.5,
  seq_kd: bool = False,
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
    student_share: the paper's lambda; 1 is on-policy, which it finds best in general, 0 never samples from the student.
    seq_kd: in the other updates the teacher continues the prompts, in the place of the text of the data.
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
      student or, with `seq_kd`, a teacher that cannot be sampled from.
  """
  options = {"prompt": prompt, "max_new": max_new, "temperature": sampling_temperature, "end_token": end_token}

  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    own = {"kind": divergence, "temperature": temperature, "where": where}
    return losses.token_divergence(step.student.logits, step.teacher.logits, beta=beta, **own)

  def sampled_batch(key: Key, sampling: Sampling) -> tuple[Batch, tuple]:
    key_choice, key_write = jax.random.split(key)
    batch = sampling.batch

    def write(model, params, own: float) -> Batch:
      new, _ = respond(key_write, model, params, batch, **options)
      return marked(new._replace(extra=dict(batch.extra) | new.extra), own_text=own)

    def other() -> Batch:
      return write(*writing_teacher("gkd", sampling.teachers), 0.0) if seq_kd else marked(batch, own_text=0.0)

    chosen = jax.random.bernoulli(key_choice, student_share)
    return lax.cond(chosen, lambda: write(sampling.student, sampling.params, 1.0), other), ()

  samples = student_share > 0 or seq_kd
  return Recipe(
    {"gkd": token_term(values, 1.0, reduction)},
    sampled_batch=sampled_batch if samples else None,
    metrics=lambda step: {"own_text": jnp.mean(step.batch.extra["own_text"])} if samples else {},
  )
