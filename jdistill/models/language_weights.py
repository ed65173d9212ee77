"""Checkpoints of language models as parameters of a `Decoder`, and back.

Names are those of Hugging Face's Llama, SmolLM2, Mistral and Qwen2, of its GPT-2, and of GGUF files. What a decoder has
and a file has not, what a file has beyond it and what has another shape is told in one line.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import PyTree, UserError
from jdistill.models.decoder import language_model
from jdistill.models.decoder_config import DecoderConfig
from jdistill.models.weights import some_names

_SHOWN = 8  # names in a message
_BLOCK = re.compile(r"block(\d+)_(\w+)")
_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


class Style(NamedTuple):
  """The names of one library, and how its arrays lie.

  Attributes:
    name: for messages.
    prefix: of all names but the head's; files of a base model leave it out.
    once: names of the layers outside of blocks.
    block: that of a block, with a place for its number.
    parts: names of the layers of a block.
    as_here: layers whose matrices are `[in, out]` as here; all others are transposed.
    paired: whether rotary pairs in queries and keys are neighbours, and not halves of a head.
    left_out: names of constants that are no parameters.
  """

  name: str
  prefix: str
  once: Mapping[str, str]
  block: str
  parts: Mapping[str, str]
  as_here: frozenset[str] = frozenset({"embed", "positions"})
  paired: bool = False
  left_out: str = r".*rotary_emb\.inv_freq"


LLAMA = Style(
  "Hugging Face's Llama",
  "model.",
  {"embed": "model.embed_tokens", "last_norm": "model.norm", "head": "lm_head"},
  "model.layers.{}.",
  {
    "norm0": "input_layernorm", "norm1": "post_attention_layernorm",
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
  },
)  # fmt: skip
GPT2 = Style(
  "Hugging Face's GPT-2",
  "transformer.",
  {
    "embed": "transformer.wte", "positions": "transformer.wpe", "last_norm": "transformer.ln_f", "head": "lm_head",
  },
  "transformer.h.{}.",
  {
    "norm0": "ln_1", "norm1": "ln_2", "qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc",
    "down": "mlp.c_proj",
  },
  as_here=frozenset({"embed", "positions", "qkv", "out", "up", "down"}),
  left_out=r".*\.attn\.(masked_)?bias",  # the causal mask
)  # fmt: skip
_GGUF = Style(
  "GGUF",
  "",
  {"embed": "token_embd", "positions": "position_embd", "last_norm": "output_norm", "head": "output"},
  "blk.{}.",
  {
    "norm0": "attn_norm", "norm1": "ffn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v",
    "qkv": "attn_qkv", "out": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
  },
)  # fmt: skip
GGUF_STYLES = {"llama": _GGUF._replace(paired=True), "qwen2": _GGUF, "gpt2": _GGUF}  # by architecture


def style_of(config: DecoderConfig) -> Style:
  """Hugging Face's names for a decoder.

  Raises:
    UserError: neither Llama's variant, nor Qwen2's, nor GPT-2's.
  """
  variant = (config.positions, config.norm, config.mlp)
  if variant == ("rope", "rms", "swiglu") and not config.fused:
    return LLAMA
  plain = config.groups == config.heads and config.size * config.heads == config.width
  if variant == ("learned", "layer", "gelu") and config.bias == "all" and config.fused and plain:
    return GPT2
  raise UserError(
    f"decoder: positions={config.positions!r}, norm={config.norm!r}, mlp={config.mlp!r}, bias={config.bias!r}, "
    f"fused={config.fused} are neither Llama's, Qwen2's nor GPT-2's; take all options from one of them"
  )


def decoder_from_arrays(
  config: DecoderConfig,
  arrays: Mapping[str, np.ndarray],
  *,
  style: Style | None = None,
  source: str = "weights",
  dtype: jnp.dtype = jnp.float32,
) -> PyTree:
  """The parameters of a decoder from the arrays of a checkpoint.

  Args:
    config: of the decoder.
    arrays: by name.
    style: whose names these are: `LLAMA`, `GPT2` or one of `GGUF_STYLES`; `None` for Hugging Face's.
    source: what messages call them.
    dtype: of the parameters.

  Returns:
    The tree of `language_model(config).init`.

  Raises:
    UserError: arrays that are missing, left over, of another shape, not floating-point or not finite, or a head beside
      a tied embedding that is another one.
  """
  style = style or style_of(config)
  arrays = _with_prefix(style, arrays)
  wanted = _wanted(style, config)
  head = f"{style.once['head']}.weight"
  found = {name: array for name, array in arrays.items() if not re.fullmatch(style.left_out, name)}
  if config.tied and head in found:
    _check_tied(found.pop(head), found.get(f"{style.once['embed']}.weight"), f"{source}: {head}")
  _check_names(wanted, found, style, source)
  params: dict[str, dict[str, jax.Array]] = {}
  for name, one in wanted.items():
    array = _finite(found[name], f"{source}: {name}")
    params.setdefault(one.layer, {})[one.leaf] = jnp.array(_from_there(array, one, style, config), dtype)
  return params


def decoder_to_arrays(config: DecoderConfig, params: PyTree, *, style: Style | None = None) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint from the parameters of a decoder, the inverse of `decoder_from_arrays`.

  Args:
    config: of the decoder.
    params: its parameters.
    style: whose names to give; `None` for Hugging Face's.

  Returns:
    Arrays by name, contiguous, in the type of the parameters. A tied head is left out.

  Raises:
    UserError: no library has this variant.
    ValueError: parameters of another tree or with other shapes.
  """
  style = style or style_of(config)
  found = {}
  for name, one in _wanted(style, config).items():
    array = np.asarray(params.get(one.layer, {}).get(one.leaf))
    if array.shape != one.shape:
      raise ValueError(f"decoder_to_arrays: {one.layer}/{one.leaf} has the shape {array.shape}, not {one.shape}")
    found[name] = _to_there(array, one, style, config)
  if len(found) != len(jax.tree.leaves(params)):
    raise ValueError(
      f"decoder_to_arrays: {len(jax.tree.leaves(params))} arrays, and {len(found)} belong to the decoder"
    )
  return found


class _Wanted(NamedTuple):
  """One array of a decoder: its place and its shape here."""

  layer: str
  leaf: str
  shape: tuple[int, ...]


def _wanted(style: Style, config: DecoderConfig) -> dict[str, _Wanted]:
  """All arrays of a decoder by their names there."""
  shapes = jax.eval_shape(language_model(config).init, jax.random.key(0)).params
  found = {}
  for layer, leaves in shapes.items():
    for leaf, like in leaves.items():
      found[f"{_called(style, layer)}.{_NAMES[leaf]}"] = _Wanted(layer, leaf, like.shape)
  return found


def _called(style: Style, layer: str) -> str:
  match = _BLOCK.fullmatch(layer)
  names, part = (style.parts, match[2]) if match else (style.once, layer)
  if part not in names:
    raise UserError(f"decoder: {style.name} has no name for {layer}; take the options of one architecture")
  return style.block.format(match[1]) + names[part] if match else names[part]


def _with_prefix(style: Style, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays under full names, where the file is one of a base model."""
  if any(name.startswith(style.prefix) for name in arrays):
    return dict(arrays)
  head = style.once["head"]
  return {name if name.startswith(head) else style.prefix + name: array for name, array in arrays.items()}


def _check_tied(head: np.ndarray, embedding: np.ndarray | None, where: str) -> None:
  if embedding is None or not np.array_equal(head, embedding):
    raise UserError(f"{where}: is another matrix than the embedding, to which its head is tied; set tied=False")


def _check_names(wanted: Mapping[str, _Wanted], found: Mapping[str, np.ndarray], style: Style, source: str) -> None:
  missing = [name for name in wanted if name not in found]
  extra = [name for name in found if name not in wanted]
  misshaped = [
    f"{name} {tuple(found[name].shape)}, not {there}"
    for name, one in wanted.items()
    if name in found and tuple(found[name].shape) != (there := _shape_there(one, style))
  ]
  parts = (("missing", missing), ("left over", extra), ("of another shape", misshaped))
  told = "; ".join(f"{len(names)} {what}: {some_names(names, _SHOWN)}" for what, names in parts if names)
  if told:
    raise UserError(
      f"{source}: does not fit this decoder in the names of {style.name}: {told}; give the configuration of "
      "this checkpoint"
    )


def _finite(array: np.ndarray, where: str) -> np.ndarray:
  if array.dtype.kind != "f" or not np.isfinite(array).all():
    raise UserError(f"{where} of type {array.dtype} holds values that are no finite numbers; download it again")
  return array


def _turned(one: _Wanted, style: Style) -> bool:
  match = _BLOCK.fullmatch(one.layer)
  return one.leaf == "kernel" and (match[2] if match else one.layer) not in style.as_here


def _shape_there(one: _Wanted, style: Style) -> tuple[int, ...]:
  return one.shape[::-1] if _turned(one, style) else one.shape


def _paired_heads(one: _Wanted, style: Style, config: DecoderConfig) -> int:
  """How many heads an array has whose rotary pairs lie otherwise there; 0 for none."""
  part = _BLOCK.fullmatch(one.layer)
  heads = {"query": config.heads, "key": config.groups}
  return heads.get(part[2], 0) if part and style.paired else 0


def _from_there(array: np.ndarray, one: _Wanted, style: Style, config: DecoderConfig) -> np.ndarray:
  heads = _paired_heads(one, style, config)
  if heads:  # rows (head, number of the pair, which of the pair) -> (head, which, number)
    array = array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
  return array.T if _turned(one, style) else array


def _to_there(array: np.ndarray, one: _Wanted, style: Style, config: DecoderConfig) -> np.ndarray:
  array = array.T if _turned(one, style) else array
  heads = _paired_heads(one, style, config)
  if heads:
    array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
  return np.ascontiguousarray(array)
