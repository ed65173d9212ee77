"""Text from a language model, in one compiled program with a cache."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Key, LanguageModel, PyTree, UserError
from jdistill.language.sampling import check_restriction, sample
from jdistill.models.decoder_layers import Rows
from jdistill.ops.checks import known


class Samples(NamedTuple):
  """Responses to prompts, each row filled up with padding after its end.

  Attributes:
    tokens: `[B, max_new]` int32.
    mask: `[B, max_new]` bool, true up to the end token, which counts.
    drawn_log_probs: `[B, max_new]` of the tokens in the distribution sampled from, with temperature, top-k and top-p;
      0 for padding, and everywhere at temperature 0.
    log_probs: `[B, max_new]` of the tokens in the model's own distribution, at temperature 1 and over the whole
      vocabulary; 0 for padding.
  """

  tokens: jax.Array
  mask: jax.Array
  drawn_log_probs: jax.Array
  log_probs: jax.Array


def generate(
  model: LanguageModel,
  params: PyTree,
  prompts: jax.Array,
  key: Key,
  *,
  max_new: int,
  prompt_mask: jax.Array | None = None,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  end_token: int | tuple[int, ...] | None = None,
  pad_token: int = 0,
  row_ids: jax.Array | None = None,
  early_stop: bool = True,
) -> Samples:
  """Continues every prompt by at most `max_new` tokens.

  One program of fixed shapes: the prompts in one pass, then a loop over tokens with the model's cache. A token's key is
  `key` folded with the id of its row and with its position in the row, padding not counted. So a sample depends neither
  on its neighbours nor on the padding, and continuing a sample gives the same as sampling more at once (but for the
  rounding of another batch shape, which can decide between two tokens that are all but equal).

  Call it alone or inside a compiled function; values of traced prompts are not checked.

  Args:
    model: its functions are part of the program, its parameters are not.
    params: of the model.
    prompts: `[B, T]` int ids.
    key: typed key of the whole batch.
    max_new: tokens per row at most.
    prompt_mask: `[B, T]`, false for padding, which may be on either side; `None` for none.
    temperature: divides the logits; 0 takes the most probable token.
    top_k, top_p: see `restrict`.
    end_token: the token or tokens after which a row ends; `None` for no end before `max_new`.
    pad_token: what fills ended rows.
    row_ids: `[B]` int, which decide on the random numbers of a row; `0, 1, ...` by default.
    early_stop: whether the loop ends with the last row; the result is the same.

  Returns:
    `Samples`.

  Raises:
    UserError: prompts and response beyond the context, an empty prompt, ids outside the vocabulary, or an argument that
      is out of its range.
  """
  ends = () if end_token is None else end_token if isinstance(end_token, tuple) else (end_token,)
  prompts = jnp.asarray(prompts)
  mask = jnp.ones(prompts.shape, bool) if prompt_mask is None else jnp.asarray(prompt_mask).astype(bool)
  check_restriction(model.vocabulary, temperature, top_k, top_p)
  _check(model, prompts, mask, key, max_new, (*ends, pad_token))
  ids = jnp.arange(len(prompts), dtype=jnp.int32) if row_ids is None else jnp.asarray(row_ids)
  if ids.shape != prompts.shape[:1]:
    raise UserError(f"row_ids: shape {ids.shape} for {len(prompts)} prompts; give one id per prompt")
  options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
  return _generate(
    params, prompts, mask, key, ids,
    model=model, max_new=max_new, options=tuple(options.items()), ends=ends, pad_token=pad_token, early_stop=early_stop,
  )  # fmt: skip


class _State(NamedTuple):
  """What the loop carries: the samples, of which `step` columns are there, and what the next one is made of."""

  step: jax.Array
  samples: Samples
  done: jax.Array  # [B]
  cache: PyTree


@functools.partial(jax.jit, static_argnames=("model", "max_new", "options", "ends", "pad_token", "early_stop"))
def _generate(params, prompts, mask, key, ids, *, model, max_new, options, ends, pad_token, early_stop) -> Samples:
  batch, tokens = prompts.shape
  row_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(ids)
  positions = jnp.sum(mask, axis=1, dtype=jnp.int32)

  def draw(state: _State, logits: jax.Array) -> _State:
    """Adds the column of the next token."""
    keys = jax.vmap(jax.random.fold_in)(row_keys, positions + state.step)
    drawn = sample(keys, logits, **dict(options))
    active = ~state.done
    column = (jnp.where(active, drawn[0], pad_token), active, *(jnp.where(active, x, 0) for x in drawn[1:]))
    samples = jax.tree.map(
      lambda all_, new: lax.dynamic_update_index_in_dim(all_, new.astype(all_.dtype), state.step, 1),
      state.samples,
      Samples(*column),
    )
    ended = functools.reduce(jnp.logical_or, [column[0] == end for end in ends], state.done)
    return _State(state.step + 1, samples, ended, state.cache)

  def proceed(state: _State) -> _State:
    last = lax.dynamic_index_in_dim(state.samples.tokens, state.step - 1, 1, keepdims=False)
    logits, cache = model.decode(params, state.cache, last)
    return draw(state._replace(cache=cache), logits)

  def open_(state: _State) -> jax.Array:
    return (state.step < max_new) & (jnp.any(~state.done) if early_stop else True)

  # the last token of a response is never entered
  logits, cache = model.prefill(params, model.init_cache(batch, tokens + max_new - 1), prompts, mask)
  numbers = jnp.zeros((batch, max_new), jnp.promote_types(logits.dtype, jnp.float32))
  nothing = Samples(jnp.full((batch, max_new), pad_token, jnp.int32), numbers.astype(bool), numbers, numbers)
  start = _State(jnp.int32(0), nothing, jnp.zeros(batch, bool), cache)
  return lax.while_loop(open_, proceed, draw(start, logits)).samples


def with_prompts(prompts: jax.Array, prompt_mask: jax.Array | None, samples: Samples) -> tuple[Rows, jax.Array]:
  """Prompts and responses as rows that a model can be trained on or score.

  Args:
    prompts, prompt_mask: as given to `generate`.
    samples: what it returned.

  Returns:
    `Rows` of `[B, T + max_new]`, and the response mask of the same shape, true for tokens of the response. See
    `next_tokens` for targets.
  """
  mask = jnp.ones(jnp.shape(prompts), bool) if prompt_mask is None else jnp.asarray(prompt_mask).astype(bool)
  tokens = jnp.concatenate([jnp.asarray(prompts).astype(jnp.int32), samples.tokens], axis=1)
  there = jnp.concatenate([mask, samples.mask], axis=1)
  positions = jnp.maximum(jnp.cumsum(there, axis=1, dtype=jnp.int32) - 1, 0)
  response = jnp.concatenate([jnp.zeros_like(mask), samples.mask], axis=1)
  return Rows(tokens, there.astype(jnp.int32), positions), response


def _check(
  model: LanguageModel, prompts: jax.Array, mask: jax.Array, key: Key, max_new: int, named: tuple[int, ...]
) -> None:
  if prompts.ndim != 2 or not jnp.issubdtype(prompts.dtype, jnp.integer):
    raise UserError(f"prompts: {prompts.dtype} of shape {prompts.shape}; give whole numbers [batch, tokens]")
  if mask.shape != prompts.shape:
    raise UserError(f"prompt_mask: shape {mask.shape} for prompts {prompts.shape}; give one value per token")
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
    raise UserError(f"key: {key.dtype} of shape {key.shape}; give one typed key, jax.random.key(seed)")
  if max_new < 1:
    raise UserError(f"max_new={max_new}: must be at least 1")
  batch, tokens = prompts.shape
  if tokens + max_new > model.context:
    raise UserError(
      f"max_new={max_new}: prompts of {tokens} tokens and a response of {max_new} exceed the context of "
      f"{model.context}; give at most {max(model.context - tokens, 0)}, or shorter prompts"
    )
  for token in named:
    if not 0 <= token < model.vocabulary:
      raise UserError(f"end_token, pad_token: {token} is outside the vocabulary; give 0 to {model.vocabulary - 1}")
  if not batch or not tokens:
    raise UserError(f"prompts: shape {prompts.shape} holds no token; give every row at least one")
  if not known(prompts) or not known(mask):
    return
  there, ids = np.asarray(mask), np.asarray(prompts)
  if not there.any(1).all():
    raise UserError(f"prompts: row {int(there.any(1).argmin())} is empty; give every row at least one token")
  wrong = there & ((ids < 0) | (ids >= model.vocabulary))
  if wrong.any():
    raise UserError(f"prompts: id {ids[wrong][0]} is outside the vocabulary; give 0 to {model.vocabulary - 1}")
