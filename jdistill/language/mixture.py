"""Two language models as one, whose next token comes from a mixture of both distributions."""

import functools

import jax
import jax.numpy as jnp

from jdistill.base import LanguageModel, Outputs, UserError, Variables
from jdistill.ops.precision import widen


@functools.lru_cache(maxsize=16)
def mixture(first: LanguageModel, second: LanguageModel, share: float, temperature: float = 1.0) -> LanguageModel:
  """The model of `(1 - share) q + share p` for every token, `q` the first and `p` the second, at this temperature.

  So MiniLLM writes its samples: the teacher holds the student back from text that only the student likes. Parameters
  are the pair of both models', caches as well, and both enter every token; `generate` takes it as any other, with its
  own `temperature=1`, and its log-probabilities are then those of the mixture. The same arguments give the same object,
  and so the same compiled programs.

  Args:
    first, second: with the same vocabulary.
    share: of the second, in [0, 1].
    temperature: of both, above 0.

  Returns:
    A `LanguageModel` whose logits are log-probabilities, without an embedding.

  Raises:
    UserError: vocabularies that differ, or a share or temperature out of its range.

  References:
    Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models" (arXiv 2306.08543), teacher-mixed sampling.
  """
  if first.vocabulary != second.vocabulary:
    raise UserError(
      f"mixture: vocabularies of {first.vocabulary} and {second.vocabulary} tokens; both models must have the same"
    )
  if not 0 <= share <= 1 or not 0 < temperature < float("inf"):
    raise UserError(f"mixture: share={share}, temperature={temperature}; give a share in [0, 1], a temperature above 0")
  both = first, second

  def mixed(logits: tuple[jax.Array, jax.Array]) -> jax.Array:
    q, p = (jax.nn.log_softmax(widen(one) / temperature, axis=-1) for one in logits)
    return log_mixture(q, p, share)

  def apply(params, x, **options):
    outs = [one.apply(own, x, **options) for one, own in zip(both, params, strict=True)]
    logits = mixed(tuple(out.logits for out in outs))
    return Outputs(logits, jnp.zeros((*logits.shape[:-1], 0), logits.dtype))

  def init(key):
    keys = jax.random.split(key)
    return Variables(tuple(one.init(own).params for one, own in zip(both, keys, strict=True)))

  def init_cache(batch, length):
    return tuple(one.init_cache(batch, length) for one in both)

  def prefill(params, cache, tokens, mask):
    found = [one.prefill(*own, tokens, mask) for one, *own in zip(both, params, cache, strict=True)]
    logits, caches = zip(*found, strict=True)
    return mixed(logits), caches

  def decode(params, cache, tokens):
    found = [one.decode(*own, tokens) for one, *own in zip(both, params, cache, strict=True)]
    logits, caches = zip(*found, strict=True)
    return mixed(logits), caches

  context = min(first.context, second.context)
  return LanguageModel(init, apply, init_cache, prefill, decode, context, first.vocabulary)


def log_mixture(log_q: jax.Array, log_p: jax.Array, share: float | jax.Array) -> jax.Array:
  """`log((1 - share) q + share p)` of log-probabilities, finite wherever one of them is and has a share.

  Args:
    log_q, log_p: of the same shape, in nats.
    share: of `p`, in [0, 1].

  Returns:
    The same shape.
  """
  share = jnp.asarray(share, log_q.dtype)
  return jnp.logaddexp(jnp.log1p(-share) + log_q, jnp.log(share) + log_p)
