"""Checkpoints by hand, with the shapes and conventions of their libraries, beside float64 NumPy; and back again."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpy_checkpoints as reference
import pytest

from jdistill.base import UserError
from jdistill.models import DecoderConfig, language_model
from jdistill.models.language_configs import decoder_config, decoder_config_of_gguf, hugging_face_config
from jdistill.models.language_weights import GGUF_STYLES, decoder_from_arrays, decoder_to_arrays, style_of

V, D, DEPTH, HEADS, KV, SIZE, F, CONTEXT = 11, 12, 2, 4, 2, 6, 10, 9
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6])
LLAMA_JSON = {
  "model_type": "llama", "vocab_size": V, "hidden_size": D, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
  "num_key_value_heads": KV, "head_dim": SIZE, "intermediate_size": F, "max_position_embeddings": CONTEXT,
  "rope_theta": 500.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True, "rope_scaling": None,
}  # fmt: skip
QWEN2_JSON = LLAMA_JSON | {"model_type": "qwen2", "tie_word_embeddings": False, "use_sliding_window": False}
GPT2_JSON = {
  "model_type": "gpt2", "vocab_size": V, "n_embd": D, "n_layer": DEPTH, "n_head": HEADS, "n_positions": CONTEXT,
  "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
}  # fmt: skip
LLAMA_GGUF = {
  "general.architecture": "llama", "llama.block_count": DEPTH, "llama.embedding_length": D,
  "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV, "llama.feed_forward_length": F,
  "llama.context_length": CONTEXT, "llama.rope.freq_base": 500.0, "llama.rope.dimension_count": SIZE,
  "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
}  # fmt: skip


def drawn(shapes, seed=0):
  rng = np.random.default_rng(seed)
  scale = {name: 1.0 if "norm" in name or "ln_" in name else 0.0 for name in shapes}
  return {name: (scale[name] + 0.4 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def llama_shapes(names, *, tied=True, biases=()):
  """Shapes of a Llama's file, `[out, in]`."""
  found = {names["embed"]: (V, D), names["norm"]: (D,)} | ({} if tied else {names["head"]: (V, D)})
  parts = {
    "norm0": (D,), "norm1": (D,), "q": (HEADS * SIZE, D), "k": (KV * SIZE, D), "v": (KV * SIZE, D),
    "o": (D, HEADS * SIZE), "gate": (F, D), "up": (F, D), "down": (D, F),
  }  # fmt: skip
  for number in range(DEPTH):
    block = names["block"].format(number)
    found |= {f"{block}{names[part]}.weight": shape for part, shape in parts.items()}
    found |= {f"{block}{names[part]}.bias": parts[part][:1] for part in biases}
  return found


def gpt2_shapes(prefix="transformer."):
  found = {"wte.weight": (V, D), "wpe.weight": (CONTEXT, D), "ln_f.weight": (D,), "ln_f.bias": (D,)}
  affine = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D)}
  for number in range(DEPTH):
    for name, shape in {**affine, "ln_1": (D,), "ln_2": (D,)}.items():
      found |= {f"h.{number}.{name}.weight": shape, f"h.{number}.{name}.bias": shape[-1:]}
  return {prefix + name: shape for name, shape in found.items()}


def logits(config, params):
  return np.asarray(language_model(config).apply(params, jnp.asarray(TOKENS)[None]).logits[0])


def llama_logits(arrays, names):
  return reference.llama(arrays, TOKENS, names=names, depth=DEPTH, heads=HEADS, kv_heads=KV, theta=500.0, epsilon=1e-5)


def close(ours, theirs):
  """float32 beside float64."""
  np.testing.assert_allclose(ours, theirs, atol=3e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
  "description, options",
  [
    (LLAMA_JSON, {}),
    (LLAMA_JSON | {"tie_word_embeddings": False}, {"tied": False}),
    (QWEN2_JSON, {"tied": False, "biases": "qkv"}),
    (LLAMA_JSON | {"attention_bias": True, "mlp_bias": True}, {"biases": ("q", "k", "v", "o", "gate", "up", "down")}),
  ],
)
def test_llama_and_qwen2_of_hugging_face(description, options):
  arrays = drawn(llama_shapes(reference.LLAMA, **options))
  config = decoder_config(description)
  params = decoder_from_arrays(config, arrays)
  close(logits(config, params), llama_logits(arrays, reference.LLAMA))
  again = decoder_to_arrays(config, params)
  assert again.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(again[name], array)
    assert again[name].flags.c_contiguous


def test_gguf_pairs_neighbours_in_llama_and_not_in_qwen2():
  """The same file read as either differs; each is what its library computes."""
  config = decoder_config_of_gguf(LLAMA_GGUF, {"token_embd.weight": np.zeros((V, D))})
  arrays = drawn(llama_shapes(reference.GGUF))
  params = decoder_from_arrays(config, arrays, style=GGUF_STYLES["llama"])
  close(logits(config, params), llama_logits(arrays, reference.GGUF))
  halves = reference.GGUF | {"rotate": reference.rotated_halves}
  other = decoder_from_arrays(config, arrays, style=GGUF_STYLES["qwen2"])
  close(logits(config, other), llama_logits(arrays, halves))
  assert np.abs(logits(config, params) - logits(config, other)).max() > 0.01
  again = decoder_to_arrays(config, params, style=GGUF_STYLES["llama"])
  assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_rows_of_a_query_in_gguf_by_hand():
  """Two heads of four: (0, 1) and (2, 3) are the pairs there, (0, 2) and (1, 3) here; llama.cpp's `permute`."""
  config = DecoderConfig(num_classes=3, width=8, depth=1, heads=2, kv_heads=1, head_size=4, hidden=2)
  arrays = decoder_to_arrays(config, language_model(config).init(jax.random.key(0)).params, style=GGUF_STYLES["llama"])
  arrays["blk.0.attn_q.weight"] = np.repeat(np.arange(8, dtype=np.float32)[:, None], 8, axis=1)
  params = decoder_from_arrays(config, arrays, style=GGUF_STYLES["llama"])
  assert params["block0_query"]["kernel"][0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
  theirs = arrays["blk.0.attn_q.weight"][:, 0]
  permuted = params["block0_query"]["kernel"].T.reshape(2, 2, 2, 8).swapaxes(1, 2).reshape(8, 8)[:, 0]
  assert permuted.tolist() == theirs.tolist()


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2_of_hugging_face(prefix):
  arrays = drawn(gpt2_shapes(prefix))
  config = decoder_config(GPT2_JSON)
  mask = {f"{prefix}h.0.attn.bias": np.ones((1, 1, 9, 9), np.uint8), f"{prefix}h.0.attn.masked_bias": np.float32(-1e4)}
  params = decoder_from_arrays(config, arrays | mask | {"lm_head.weight": arrays[f"{prefix}wte.weight"]})
  close(logits(config, params), reference.gpt2(arrays, TOKENS, depth=DEPTH, heads=HEADS, epsilon=1e-5))
  again = decoder_to_arrays(config, params)
  assert set(again) == set(gpt2_shapes())
  for name, array in arrays.items():
    np.testing.assert_array_equal(again[f"transformer.{name.removeprefix('transformer.')}"], array)


def test_gpt2_in_gguf_is_transposed():
  arrays = drawn(gpt2_shapes(""))
  names = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "ln_1": "attn_norm",
    "ln_2": "ffn_norm", "h.": "blk.",
  }  # fmt: skip
  renamed = {}
  for name, array in arrays.items():
    turned = array.ndim == 2 and name.startswith("h.")
    for old, new in names.items():
      name = name.replace(old, new)
    renamed[name] = array.T if turned else array
  metadata = {
    "general.architecture": "gpt2", "gpt2.block_count": DEPTH, "gpt2.embedding_length": D,
    "gpt2.attention.head_count": HEADS, "gpt2.feed_forward_length": 4 * D, "gpt2.context_length": CONTEXT,
    "gpt2.attention.layer_norm_epsilon": float(np.float32(1e-5)),
  }  # fmt: skip
  config = decoder_config_of_gguf(metadata, renamed)
  assert config == dataclasses.replace(decoder_config(GPT2_JSON), head_size=0)
  params = decoder_from_arrays(config, renamed, style=GGUF_STYLES["gpt2"])
  close(logits(config, params), reference.gpt2(arrays, TOKENS, depth=DEPTH, heads=HEADS, epsilon=1e-5))


@pytest.mark.parametrize("description", [LLAMA_JSON, QWEN2_JSON, GPT2_JSON, LLAMA_JSON | {"mlp_bias": False}])
def test_configurations_come_back(description):
  config = decoder_config(description)
  written = json.loads(json.dumps(hugging_face_config(config, bos=1, eos=2)))
  assert decoder_config(written) == config
  assert {key: written[key] for key in description.keys() & written.keys()} == {
    key: value for key, value in description.items() if key in written
  }
  assert (written["bos_token_id"], written["eos_token_id"]) == (1, 2)


def test_what_a_configuration_says():
  config = decoder_config(LLAMA_JSON)
  assert (config.num_classes, config.width, config.depth, config.heads, config.groups) == (V, D, DEPTH, HEADS, KV)
  assert (config.size, config.units, config.context, config.theta, config.epsilon) == (SIZE, F, CONTEXT, 500.0, 1e-5)
  assert decoder_config_of_gguf(LLAMA_GGUF, {"token_embd.weight": np.zeros((V, D))}) == config
  newer = {key: value for key, value in LLAMA_JSON.items() if key not in ("rope_theta", "head_dim")}
  newer |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "hidden_size": HEADS * SIZE}
  assert decoder_config(newer) == dataclasses.replace(config, width=HEADS * SIZE)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"model_type": "mamba"}, "model_type='mamba': is no decoder that is read; give llama, mistral, qwen2, gpt2"),
    ({"model_type": None}, "model_type=None"),
    ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window=4096: is not supported; nothing is"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window=True: is not supported"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling='llama3': scaled rotary positions"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling='linear'"),
    ({"rope_scaling": 3}, "rope_scaling=3"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters='yarn'"),
    ({"rope_theta": -1}, "rope_theta=-1: must be a number above 0"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu': is not supported; 'silu' or 'swish' is"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}: is not supported; nothing is"),
    ({"attention_bias": True}, "attention_bias=True with mlp_bias=False: is not supported; both or none is"),
    ({"attention_bias": 1}, "attention_bias=1: must be true or false"),
    ({"hidden_size": None}, "hidden_size=None: must be a whole number from 1 to"),
    ({"hidden_size": "12"}, "hidden_size='12': must be a whole number"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000: must be a whole number from 1 to 1000"),
    ({"num_key_value_heads": 3}, "3 heads of keys and values: must be a divisor of the 4 heads"),
    ({"head_dim": 3}, "head_size: 3 is odd"),
    ({"head_dim": None, "num_attention_heads": 5, "num_key_value_heads": 5}, "width 12 is not divisible by its 5"),
    ({"head_dim": "6"}, "a head of size '6'"),
    ({"rms_norm_eps": 0}, "rms_norm_eps=0: must be a number above 0"),
    (GPT2_JSON | {"activation_function": "gelu"}, "activation_function='gelu': is not supported; 'gelu_new' or"),
    (GPT2_JSON | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    (GPT2_JSON | {"n_inner": 0}, "n_inner=0: must be a whole number"),
  ],
)
def test_configurations_that_no_decoder_has(changes, message):
  with pytest.raises(UserError) as caught:
    decoder_config(LLAMA_JSON | changes, source="x/config.json")
  assert message in str(caught.value) and str(caught.value).startswith("x/config.json: ")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"general.architecture": "bert"}, "general.architecture='bert': is none that is read; give llama, qwen2, gpt2"),
    ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type='yarn': is not supported; nothing or 'none' is"),
    ({"llama.expert_count": 8}, "expert_count=8"),
    ({"llama.attention.head_count_kv": np.int32([2, 2])}, "heads of keys and values: must be a divisor"),
    ({"llama.block_count": None}, "block_count=None"),
    (
      {"llama.rope.dimension_count": 4, "llama.attention.key_length": 6},
      "rope.dimension_count=4: is not the head size",
    ),
    ({"llama.rope.freq_base": "x"}, "rope.freq_base='x'"),
  ],
)
def test_metadata_that_no_decoder_has(changes, message):
  with pytest.raises(UserError) as caught:
    decoder_config_of_gguf(LLAMA_GGUF | changes, {"token_embd.weight": np.zeros((V, D))}, source="x.gguf")
  assert message in str(caught.value) and str(caught.value).startswith("x.gguf: ")
  with pytest.raises(UserError, match=r"x\.gguf: has no matrix token_embd\.weight"):
    decoder_config_of_gguf(LLAMA_GGUF, {}, source="x.gguf")


def test_missing_and_extra_arrays_are_listed():
  arrays = drawn(llama_shapes(reference.LLAMA))
  config = decoder_config(LLAMA_JSON)
  changed = {name: array for name, array in arrays.items() if "layers.1.self_attn.k_proj" not in name}
  changed["model.layers.0.self_attn.q_norm.weight"] = np.ones(SIZE, np.float32)
  changed["model.norm.weight"] = np.ones(D + 1, np.float32)
  with pytest.raises(UserError) as caught:
    decoder_from_arrays(config, changed, source="x.safetensors")
  text = str(caught.value)
  assert text.startswith("x.safetensors: does not fit this decoder in the names of Hugging Face's Llama: ")
  assert "1 missing: model.layers.1.self_attn.k_proj.weight; " in text
  assert "1 left over: model.layers.0.self_attn.q_norm.weight; " in text
  assert "1 of another shape: model.norm.weight (13,), not (12,); " in text
  with pytest.raises(UserError, match=r"1 left over: line\\nbreak;") as caught:
    decoder_from_arrays(config, arrays | {"line\nbreak": np.ones(3, np.float32)})
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match=r"20 missing: .* and 12 more"):
    decoder_from_arrays(config, {})


def test_arrays_that_are_no_numbers():
  arrays, config = drawn(llama_shapes(reference.LLAMA)), decoder_config(LLAMA_JSON)
  name = "model.layers.0.mlp.up_proj.weight"
  for wrong in (np.full((F, D), np.nan, np.float32), np.ones((F, D), np.int32)):
    with pytest.raises(UserError, match=rf"x: {name} of type .* no finite numbers"):
      decoder_from_arrays(config, arrays | {name: wrong}, source="x")
  with pytest.raises(UserError, match=r"x: lm_head.weight: is another matrix than the embedding"):
    decoder_from_arrays(config, arrays | {"lm_head.weight": np.ones((V, D), np.float32)}, source="x")


def test_variants_without_a_library():
  gpt2 = decoder_config(GPT2_JSON)
  for changes in ({"norm": "rms"}, {"fused": False}, {"bias": "none"}, {"kv_heads": 2}):
    with pytest.raises(UserError, match=r"are neither Llama's, Qwen2's nor GPT-2's"):
      style_of(dataclasses.replace(gpt2, **changes))
  with pytest.raises(UserError, match="GGUF has no name for"):
    decoder_to_arrays(gpt2, {}, style=GGUF_STYLES["llama"]._replace(parts={}))


def test_parameters_of_another_tree():
  config = decoder_config(LLAMA_JSON)
  params = language_model(config).init(jax.random.key(0)).params
  with pytest.raises(ValueError, match=r"embed/kernel has the shape \(3, 12\), not \(11, 12\)"):
    decoder_to_arrays(config, params | {"embed": {"kernel": np.zeros((3, 12))}})
  with pytest.raises(ValueError, match="21 arrays, and 20 belong"):
    decoder_to_arrays(config, params | {"head": {"kernel": np.zeros((D, V))}})


def test_parameters_in_bfloat16():
  arrays, config = drawn(llama_shapes(reference.LLAMA)), decoder_config(LLAMA_JSON)
  params = decoder_from_arrays(config, arrays, dtype=jnp.bfloat16)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}
  written = decoder_to_arrays(config, params)["model.norm.weight"]
  assert written.dtype.name == "bfloat16"
  np.testing.assert_allclose(written.astype(np.float32), arrays["model.norm.weight"], rtol=2**-8)
