"""Decoder-only transformers: Llama, SmolLM2 and Qwen2, and GPT-2, with a cache for sampling."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Key, LanguageModel, Outputs, PyTree, UserError, Variables
from jdistill.models.decoder_cache import Cache, empty_cache
from jdistill.models.decoder_config import DecoderConfig
from jdistill.models.decoder_layers import Affine, Head, Rows, Table, TokenNorm, attend, last_of, rotate, visible
from jdistill.models.initialise import INITS, draw_params
from jdistill.models.layers import Recorder

DECODER_INITS = ("decoder", *INITS)


class Decoder(nn.Module):
  """Embedded tokens, `depth` pre-norm blocks, a last norm and a linear head at every position.

  A block is `x + attention(norm(x))`, then `x + mlp(norm(x))`. Position `t` of the logits has seen the tokens of its
  document up to `t`, so its target is token `t + 1`. The embedding, `[B, T, width]`, is what enters the head: the head
  is computed only where logits are used. Taps `block0` to `block{depth - 1}` are what the blocks give,
  `[B, T, width]`, before the last norm. No dropout.

  Attributes:
    config: see `DecoderConfig`.

  References:
    Touvron et al., LLaMA: Open and Efficient Foundation Language Models, arXiv:2302.13971; Radford et al., Language
    Models are Unsupervised Multitask Learners (GPT-2), 2019.
  """

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x: Rows, record: Recorder, cache: Cache | None = None
  ) -> tuple[jax.Array, jax.Array, Cache | None]:
    """Logits, embedding and the cache with the tokens added.

    Args:
      x: rows; `segments` may be `None` for rows of one document without padding.
      record: notes the taps.
      cache: keys and values of the tokens before, with these tokens entered (`enter`); logits and embedding are then
        those of each row's last token alone, `[B, 1, ...]`.
    """
    config = self.config
    embed = Table(config.num_classes, config.width, name="embed")
    y = embed(x.tokens)
    if config.positions == "learned":
      y += Table(config.context, config.width, name="positions")(x.positions)
    if config.dtype != "params":
      y = y.astype(config.dtype)
    if x.segments is not None:  # nothing of padding may enter a sum, not even times zero
      y = jnp.where((x.segments > 0)[:, :, None], y, jnp.zeros((), y.dtype))
    seen = visible(x.segments, x.tokens.shape[1]) if cache is None else cache.seen(x.tokens.shape[1])
    for i in range(config.depth):
      if config.remat and cache is None:
        y = nn.remat(_forward_block, static_argnums=(2, 3))(self, y, i, config, x.positions, seen)
      else:
        y, cache = _block(y, i, config, x.positions, seen, cache)
      y = record.tap(f"block{i}", y)
    if cache is not None:
      cache = cache._replace(used=cache.used + x.tokens.shape[1])
      y = last_of(y, x.segments)
    y = record.site("embedding", _norm(config, "last_norm")(y))
    return Head(config.num_classes, name="head")(y, embed.kernel.T if config.tied else None), y, cache


def _forward_block(module: nn.Module, x, index, config, positions, seen) -> jax.Array:
  return _block(x, index, config, positions, seen, None)[0]


def _block(
  x: jax.Array, index: int, config: DecoderConfig, positions: jax.Array, seen: jax.Array, cache: Cache | None
) -> tuple[jax.Array, Cache | None]:
  """A pre-norm block of the calling module, and the cache with this layer's keys and values."""
  prefix = f"block{index}_"
  mixed, cache = _attention(_norm(config, f"{prefix}norm0")(x), index, config, positions, seen, cache)
  x = x + mixed
  y, every = _norm(config, f"{prefix}norm1")(x), config.bias == "all"
  up = Affine(config.units, every, name=f"{prefix}up")(y)
  if config.mlp == "swiglu":
    hidden = jax.nn.silu(Affine(config.units, every, name=f"{prefix}gate")(y)) * up
  else:
    hidden = jax.nn.gelu(up, approximate=True)
  return x + Affine(config.width, every, name=f"{prefix}down")(hidden), cache


def _attention(x, index, config, positions, seen, cache):
  batch, tokens, _ = x.shape
  prefix, own, size = f"block{index}_", config.heads * config.size, config.size
  shared, biased = config.groups * size, config.bias != "none"
  if config.fused:
    together = Affine(own + 2 * shared, biased, name=f"{prefix}qkv")(x)
    parts = jnp.split(together, (own, own + shared), axis=-1)
  else:
    widths = {"query": own, "key": shared, "value": shared}
    parts = [Affine(width, biased, name=f"{prefix}{name}")(x) for name, width in widths.items()]
  queries, keys, values = (part.reshape(batch, tokens, -1, size) for part in parts)
  if config.positions == "rope":
    queries, keys = rotate(queries, positions, config.theta), rotate(keys, positions, config.theta)
  keys, values = (jnp.swapaxes(part, 1, 2).reshape(-1, tokens, size) for part in (keys, values))
  if cache is not None:
    cache = cache.store(index, keys, values)
    keys, values = cache.keys[index].astype(x.dtype), cache.values[index].astype(x.dtype)
  mixed = attend(queries, keys, values, seen)
  return Affine(config.width, config.bias == "all", name=f"{prefix}out")(mixed), cache


def _norm(config: DecoderConfig, name: str) -> TokenNorm:
  return TokenNorm(config.norm, config.epsilon, name=name)


def language_model(config: DecoderConfig, init: str = DECODER_INITS[0]) -> LanguageModel:
  """A `Decoder` as pure functions of its parameters.

  `apply` takes ids `[B, T]`, which are rows of one document each, or `Rows`. Outputs of padding mean nothing, but are
  finite, and reach no other token.

  Args:
    config: sizes and variants.
    init: `"decoder"` draws kernels and embeddings with the standard deviation `1 / sqrt(3 width)`, which at GPT-2's
      width is its 0.02, those that end a branch (`out`, `down`) divided by `sqrt(2 depth)`; biases are zero. The others
      are those of all networks: `draw_params`.

  Returns:
    The `LanguageModel`; the same object for the same arguments, so that compiled functions are shared. Its caches are
    `Cache`s.

  Raises:
    UserError: from `apply`, `init_cache` and `prefill`, for rows beyond the context or arrays that are no tokens.
  """
  if init not in DECODER_INITS:
    raise UserError(f"init: {init!r} is unknown; choose one of {', '.join(DECODER_INITS)}")
  return _language_model(config, init)


@functools.lru_cache(maxsize=64)
def _language_model(config: DecoderConfig, init: str) -> LanguageModel:
  module = Decoder(config)

  @jax.jit
  def first(key: Key) -> Variables:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), _rows(jnp.zeros((1, 1), jnp.int32)), Recorder()))
    return Variables(_drawn(key, shapes["params"], config, init))

  def apply(params: PyTree, x: jax.Array | Rows, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    rows = x if isinstance(x, Rows) else _rows(x)
    _check(rows, config.context)
    record = Recorder(sites)
    logits, embedding, _ = module.apply({"params": params}, rows, record)
    return record.outputs(logits, embedding, stats or {})

  def init_cache(batch: int, length: int) -> Cache:
    if not 1 <= length <= config.context:
      raise UserError(f"length: a cache of {length} tokens; give 1 to {config.context}, the context of the model")
    return empty_cache(batch, length, config)

  def prefill(params: PyTree, cache: Cache, tokens: jax.Array, mask: jax.Array | None = None):
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    slots = cache.valid.shape[1]
    if tokens.shape[1] > slots:
      raise UserError(f"tokens: {tokens.shape[1]} do not fit a cache of {slots}; make a longer one")
    positions, cache = cache.enter(mask)
    rows = Rows(tokens, mask.astype(jnp.int32), positions)
    _check(rows, config.context)
    logits, _, cache = module.apply({"params": params}, rows, Recorder(), cache)
    return jnp.where(cache.used <= slots, logits[:, 0], jnp.nan), cache

  def decode(params: PyTree, cache: Cache, tokens: jax.Array):
    return prefill(params, cache, tokens[:, None])

  return LanguageModel(first, apply, init_cache, prefill, decode, config.context, config.num_classes)


def head_kernel(params: PyTree) -> jax.Array:
  """The head's kernel `[width, num_classes]`, tied or not: logits are `embedding @ head_kernel(params)`."""
  return params["head"]["kernel"] if "head" in params else params["embed"]["kernel"].T


def _rows(tokens: jax.Array) -> Rows:
  """Rows of one document each, without padding."""
  if jnp.ndim(tokens) != 2:
    raise UserError(f"x: shape {jnp.shape(tokens)} given to a decoder; it takes [batch, tokens]")
  return Rows(tokens, None, jnp.arange(tokens.shape[1], dtype=jnp.int32)[None])


def _check(rows: Rows, context: int) -> None:
  if not jnp.issubdtype(rows.tokens.dtype, jnp.integer):
    raise UserError(f"x: {rows.tokens.dtype} values given to a decoder; it takes whole numbers, ids of tokens")
  if not 1 <= rows.tokens.shape[1] <= context:
    raise UserError(f"x: rows of {rows.tokens.shape[1]} tokens; the model takes 1 to {context}, its context")
  if rows.segments is not None and not rows.tokens.shape == rows.segments.shape == rows.positions.shape:
    shapes = ", ".join(str(array.shape) for array in rows)
    raise UserError(f"x: tokens, segments and positions of shapes {shapes}; they must be one shape")


def _drawn(key: Key, shapes: PyTree, config: DecoderConfig, init: str) -> PyTree:
  """First parameters, see `language_model`."""
  if init != "decoder":
    return draw_params(key, shapes, init)
  params = draw_params(key, shapes, "flax")  # kernels of variance 1 / rows, biases zero
  for name, layer in params.items():
    if "kernel" in layer:
      ends = name.endswith(("_out", "_down"))
      scale = math.sqrt(layer["kernel"].shape[0] / (3 * config.width * (2 * config.depth if ends else 1)))
      layer["kernel"] = layer["kernel"] * scale
  return params
