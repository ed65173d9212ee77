"""The configuration of a checkpoint, `config.json` or the metadata of a GGUF file, as that of a `Decoder`, and back."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.models.decoder_config import GPT2 as GPT2_VARIANT
from jdistill.models.decoder_config import DecoderConfig
from jdistill.models.language_weights import GGUF_STYLES, GPT2, style_of

_MOST = {"depth": 1000, "heads": 65536}  # what no model has; a claim beyond it is a mistake
_LARGEST = 1 << 31
_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # three names of one formula
_LLAMA_KEYS = {
  "num_classes": "vocab_size", "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
  "hidden": "intermediate_size", "context": "max_position_embeddings",
}  # fmt: skip
_GPT2_KEYS = {
  "num_classes": "vocab_size", "width": "n_embd", "depth": "n_layer", "heads": "n_head", "context": "n_positions",
}  # fmt: skip
_GGUF_KEYS = {
  "width": "embedding_length", "depth": "block_count", "heads": "attention.head_count",
  "hidden": "feed_forward_length", "context": "context_length",
}  # fmt: skip
# what changes the function that is computed, by kind of model: keys and the values that are understood
_LLAMA_PLAIN = {
  "hidden_act": ("silu", "swish"), "partial_rotary_factor": (None, 1, 1.0), "quantization_config": (None,),
  "use_sliding_window": (None, False),
}  # fmt: skip
_GPT2_PLAIN = {
  "activation_function": _TANH, "scale_attn_weights": (None, True), "scale_attn_by_inverse_layer_idx": (None, False),
  "add_cross_attention": (None, False), "quantization_config": (None,),
}  # fmt: skip
_SHARED = {"positions": "rope", "norm": "rms", "mlp": "swiglu"}
_HUGGING_FACE = ("llama", "mistral", "qwen2", "gpt2")


def decoder_config(config: Mapping[str, Any], *, source: str = "config.json") -> DecoderConfig:
  """The decoder that a `config.json` of Hugging Face describes.

  Args:
    config: of a Llama (SmolLM2 is one), Mistral, Qwen2 or GPT-2.
    source: what messages call it.

  Raises:
    UserError: another kind of model, a key that is missing or has a value that no decoder here has (scaled rotary
      positions, sliding windows, another activation, quantised weights): each is named.
  """
  kind = config.get("model_type")
  if kind not in _HUGGING_FACE:
    raise UserError(f"{source}: model_type={_short(kind)}: is no decoder that is read; give {', '.join(_HUGGING_FACE)}")
  if kind == "gpt2":
    return _gpt2(config, source)
  _check_plain(config, _LLAMA_PLAIN, source)
  if kind == "mistral":
    _check_plain(config, {"sliding_window": (None,)}, source)
  sizes = {name: _count(config, key, source, most=_MOST.get(name)) for name, key in _LLAMA_KEYS.items()}
  return _decoder(
    source,
    **sizes,
    **_SHARED,
    kv_heads=_kv_heads(config.get("num_key_value_heads") or sizes["heads"], sizes["heads"], source),
    head_size=_head_size(config.get("head_dim"), sizes, source),
    theta=_theta(config, source),
    epsilon=_number(config, "rms_norm_eps", source, 1e-6),
    bias=_bias(config, kind, source),
    tied=_flag(config, "tie_word_embeddings", source, False),
  )


def decoder_config_of_gguf(
  metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, source: str = "the .gguf file"
) -> DecoderConfig:
  """The decoder that the metadata of a GGUF file describe.

  Args:
    metadata, arrays: of the file; the arrays give the size of the vocabulary, whether the head is tied, and biases.
    source: what messages call it.

  Raises:
    UserError: another architecture than `llama`, `qwen2` or `gpt2`, or a key that is missing or not understood.
  """
  kind = metadata.get("general.architecture")
  if kind not in GGUF_STYLES:
    raise UserError(
      f"{source}: general.architecture={_short(kind)}: is none that is read; give {', '.join(GGUF_STYLES)}"
    )
  own = {key.removeprefix(f"{kind}."): value for key, value in metadata.items() if key.startswith(f"{kind}.")}
  plain = {"rope.scaling.type": (None, "none"), "expert_count": (None, 0), "attention.sliding_window": (None,)}
  _check_plain(own, plain, source)
  sizes = {name: _count(own, key, source, most=_MOST.get(name)) for name, key in _GGUF_KEYS.items()}
  sizes["num_classes"] = _rows(arrays, source)
  tied = "output.weight" not in arrays or np.array_equal(arrays["output.weight"], arrays["token_embd.weight"])
  if kind == "gpt2":
    return _decoder(
      source, **sizes, **GPT2_VARIANT, epsilon=_decimal(own, "attention.layer_norm_epsilon", source), tied=tied
    )
  size = _head_size(own.get("attention.key_length", own.get("rope.dimension_count")), sizes, source)
  if own.get("rope.dimension_count", size) != size:
    raise UserError(f"{source}: rope.dimension_count={own['rope.dimension_count']}: is not the head size {size}")
  named = "all" if "blk.0.ffn_up.bias" in arrays else "qkv" if "blk.0.attn_q.bias" in arrays else "none"
  return _decoder(
    source,
    **sizes,
    **_SHARED,
    kv_heads=_kv_heads(own.get("attention.head_count_kv", sizes["heads"]), sizes["heads"], source),
    head_size=size,
    theta=_decimal(own, "rope.freq_base", source, 10_000.0),
    epsilon=_decimal(own, "attention.layer_norm_rms_epsilon", source),
    bias=named,
    tied=tied,
  )


def hugging_face_config(
  config: DecoderConfig, *, bos: int | None = None, eos: int | None = None, pad: int | None = None
) -> dict[str, Any]:
  """The `config.json` with which `transformers` reads a decoder's arrays, the inverse of `decoder_config`.

  Args:
    config: of the decoder.
    bos, eos, pad: ids of special tokens.

  Raises:
    UserError: no library has this variant.
  """
  ends = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad, "tie_word_embeddings": config.tied}
  if style_of(config) is GPT2:
    sizes = {key: getattr(config, name) for name, key in _GPT2_KEYS.items()}
    own = {"n_inner": config.units, "layer_norm_epsilon": config.epsilon, "activation_function": "gelu_new"}
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **sizes, **own, **ends}
  qwen = config.bias == "qkv"
  sizes = {key: getattr(config, name) for name, key in _LLAMA_KEYS.items()} | {"intermediate_size": config.units}
  return {
    "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
    "model_type": "qwen2" if qwen else "llama",
    **sizes,
    "num_key_value_heads": config.groups,
    "head_dim": config.size,
    "hidden_act": "silu",
    "rms_norm_eps": config.epsilon,
    "rope_theta": config.theta,
    "rope_parameters": {"rope_type": "default", "rope_theta": config.theta},
    **({"use_sliding_window": False} if qwen else dict.fromkeys(("attention_bias", "mlp_bias"), config.bias == "all")),
    **ends,
  }


def _gpt2(config: Mapping[str, Any], source: str) -> DecoderConfig:
  _check_plain({"activation_function": "gelu_new", **config}, _GPT2_PLAIN, source)
  sizes = {name: _count(config, key, source, most=_MOST.get(name)) for name, key in _GPT2_KEYS.items()}
  hidden = 4 * sizes["width"] if config.get("n_inner") is None else _count(config, "n_inner", source)
  return _decoder(
    source,
    **sizes,
    **GPT2_VARIANT,
    hidden=hidden,
    head_size=_head_size(None, sizes, source),
    epsilon=_number(config, "layer_norm_epsilon", source, 1e-5),
    tied=_flag(config, "tie_word_embeddings", source, True),
  )


def _decoder(source: str, **fields: Any) -> DecoderConfig:
  try:
    return DecoderConfig(**fields)
  except UserError as error:
    raise UserError(f"{source}: {error}") from error


def _short(value: Any) -> str:
  return repr(value)[:60]


def _check_plain(config: Mapping[str, Any], plain: Mapping[str, Collection], source: str) -> None:
  for key, understood in plain.items():
    value = config.get(key)
    if not any(type(value) is type(one) and value == one for one in understood):
      raise UserError(f"{source}: {key}={_short(value)}: is not supported; {_or(understood)} is")


def _or(values: Collection) -> str:
  return " or ".join("nothing" if one is None else repr(one) for one in values)


def _count(config: Mapping[str, Any], key: str, source: str, *, most: int | None = None) -> int:
  value, most = config.get(key), most or _LARGEST
  if type(value) is not int or not 1 <= value <= most:
    raise UserError(f"{source}: {key}={_short(value)}: must be a whole number from 1 to {most}")
  return value


def _number(config: Mapping[str, Any], key: str, source: str, default: float | None = None) -> float:
  value = config.get(key, default)
  if type(value) not in (int, float) or not 0 < value < float("inf"):
    raise UserError(f"{source}: {key}={_short(value)}: must be a number above 0")
  return float(value)


def _decimal(config: Mapping[str, Any], key: str, source: str, default: float | None = None) -> float:
  """A number that a file holds as float32, as the shortest decimal number that is it: 1e-5, not 9.99999974e-6."""
  return float(str(np.float32(_number(config, key, source, default))))


def _flag(config: Mapping[str, Any], key: str, source: str, default: bool) -> bool:
  value = config.get(key, default)
  if type(value) is not bool:
    raise UserError(f"{source}: {key}={_short(value)}: must be true or false")
  return value


def _kv_heads(value: Any, heads: int, source: str) -> int:
  if type(value) is not int or value < 1 or heads % value:
    raise UserError(f"{source}: {_short(value)} heads of keys and values: must be a divisor of the {heads} heads")
  return value


def _head_size(value: Any, sizes: Mapping[str, int], source: str) -> int:
  heads, width = sizes["heads"], sizes["width"]
  if value is None and width % heads:
    raise UserError(f"{source}: width {width} is not divisible by its {heads} heads, and no size of a head is given")
  value = width // heads if value is None else value
  if type(value) is not int or not 1 <= value <= _LARGEST:
    raise UserError(f"{source}: a head of size {_short(value)}: must be a whole number above 0")
  return value


def _theta(config: Mapping[str, Any], source: str) -> float:
  """The base of the rotary frequencies, where nothing else is done to them."""
  found = config.get("rope_parameters") or {}
  scaling = config.get("rope_scaling") or {}
  for key, value in (("rope_parameters", found), ("rope_scaling", scaling)):
    kind = value.get("rope_type", value.get("type", "default")) if isinstance(value, Mapping) else value
    if kind != "default":
      raise UserError(f"{source}: {key}={_short(kind)}: scaled rotary positions are not supported; only 'default' is")
  return _number({"rope_theta": found.get("rope_theta", config.get("rope_theta", 10_000.0))}, "rope_theta", source)


def _bias(config: Mapping[str, Any], kind: str, source: str) -> str:
  if kind == "qwen2":
    return "qkv"
  attention, mlp = (_flag(config, key, source, False) for key in ("attention_bias", "mlp_bias"))
  if attention != mlp:
    raise UserError(f"{source}: attention_bias={attention} with mlp_bias={mlp}: is not supported; both or none is")
  return "all" if attention else "none"


def _rows(arrays: Mapping[str, np.ndarray], source: str) -> int:
  embedding = arrays.get("token_embd.weight")
  if embedding is None or embedding.ndim != 2:
    raise UserError(f"{source}: has no matrix token_embd.weight, so it is no whole language model; download it again")
  return embedding.shape[0]
