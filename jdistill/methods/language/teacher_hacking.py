"""The laboratory of teacher hacking: one loss, and responses that are fixed, or the teacher's or student's own."""

from typing import Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Batch, Key, UserError
from jdistill.methods.knowledge.recipe import Memory, Recipe, Sampling, StepOutputs
from jdistill.methods.language.responses import respond, writing_teacher
from jdistill.methods.language.terms import Reduction, token_term
from jdistill.schema import Count, Size, validated


@validated("method")
def teacher_hacking(
  *,
  source: Literal["data", "teacher", "student"] = "teacher",
  responses: Count | None = None,
  divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
  prompt: Size = 0,
  max_new: Count = 64,
  end_token: Size | None = 256,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`D(p, q)` per token at temperature 1, on responses from one of the paper's sources (arXiv 2502.02671).

  | source      | responses | the paper's                                                                       |
  |-------------|-----------|-----------------------------------------------------------------------------------|
  | `"data"`    |           | offline, the oracle's: those that the data has                                    |
  | `"teacher"` | 1         | offline: the teacher writes one to each prompt, which comes back in every epoch   |
  | `"teacher"` | k         | offline, with k responses to each prompt, of which every update draws one         |
  | `"teacher"` | `None`    | online: the teacher writes a new one for every update                             |
  | `"student"` | `None`    | online: the student writes, as it is in that update; no gradient passes through   |

  A fixed response is not stored but written again, from random numbers that depend on the seed and the example alone:
  the arms of a comparison differ in nothing else, and there is no limit to k. The time of a step is that of sampling in
  all arms with a teacher; to write responses once, use `seq_kd`. Seeds have different responses.

  Args:
    source: who writes.
    responses: different responses to each prompt; `None` for a new one in every update. The student's are always new.
    divergence: D, as in `gkd`; the paper's main one is the forward KL.
    prompt, max_new, end_token: as in `gkd`.
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    UserError: a fixed number of responses of the student.
    ValueError: at trace time, what `gkd` refuses.
  """
  if source == "student" and responses is not None:
    raise UserError(f"method.responses={responses}: those of method.source='student' are always new; set it to None")

  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    return losses.token_divergence(step.student.logits, step.teacher.logits, kind=divergence, where=where)

  def sampled_batch(key: Key, sampling: Sampling) -> tuple[Batch, jax.Array]:
    batch = sampling.batch
    if source == "student":
      model, params = sampling.student, sampling.params
    else:
      model, params = writing_teacher("teacher_hacking", sampling.teachers)
    ids = batch.ids
    if responses is not None:
      chosen = jax.vmap(lambda row: jax.random.randint(jax.random.fold_in(key, row), (), 0, responses))(batch.ids)
      ids, key = batch.ids * responses + chosen, jax.random.wrap_key_data(sampling.memory)
    options = {"prompt": prompt, "max_new": max_new, "temperature": 1.0, "end_token": end_token}
    written, _ = respond(key, model, params, batch._replace(ids=ids), **options)
    return written._replace(ids=batch.ids), sampling.memory

  return Recipe(
    {"divergence": token_term(values, 1.0, reduction)},
    sampled_batch=None if source == "data" else sampled_batch,
    # the key of fixed responses
    memory=None if source == "data" else Memory(lambda key, count, batch: jnp.asarray(jax.random.key_data(key))),
  )
