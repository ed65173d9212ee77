"""Byte-level encodings: trained, from GGUF metadata, and from `tokenizer.json`."""

import json
import sys

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import bpe_from_gguf, bpe_from_json, byte_tokenizer, chat_tokens, train_bpe

TEXTS = ["", "the cat", " the  the\n\nthe cat's 2026 hats ", "naïve 日本語 😀\r\n\t", "<|im_end|>", "½ 12 ③", "\0\x7f"]
CORPUS = ["the cat and the hat sat on the mat, and the cat's hat was the best of 2026 hats"] * 5


@pytest.fixture(scope="module")
def trained():
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  return train_bpe(CORPUS, 300)


def alphabet():
  """GPT-2's character of every byte: printable ones stand for themselves, and others from U+0100 on."""
  kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
  moved = iter(range(256, 512))
  return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def metadata(**changes):
  """Three special tokens, all bytes, and three merges."""
  tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet(), "th", "the", "Ġthe", "<own>", "12"]
  kinds = np.int32([3] * 3 + [1] * 259 + [4, 1])
  own = {
    "model": "gpt2", "pre": "smollm", "tokens": tokens, "token_type": kinds, "bos_token_id": 1, "eos_token_id": 2,
    "padding_token_id": 2, "merges": ["t h", "th e", "Ġ the", "1 2"],
  } | changes  # fmt: skip
  found = {f"tokenizer.ggml.{key}": value for key, value in own.items() if value is not None}
  return found | {"tokenizer.chat_template": "{{ 1 }}"}


def bytes_of(text):
  """Ids of bytes in `metadata()`."""
  return [3 + byte for byte in text.encode()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [False, True])
def test_every_text_comes_back(trained, text, special):
  ids = trained.encode(text, special=special)
  assert ids.dtype == np.int32 and trained.decode(ids) == text


def test_training_merges_what_is_frequent(trained):
  assert trained.size <= 300
  assert len(trained.encode(" the")) == 1 < len(trained.encode(" zebra"))
  assert list(trained.special) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  assert (trained.bos, trained.eos, trained.pad) == (0, 0, 0)
  assert [len(trained.encode(text)) for text in ("2026", "③½")] == [4, 5]  # digits one by one, others their bytes
  again = train_bpe(CORPUS, 300)
  assert again.encode(CORPUS[0]).tolist() == trained.encode(CORPUS[0]).tolist()
  with pytest.raises(ValueError, match="size=258 has no place for 256 bytes and 3 special tokens"):
    train_bpe(CORPUS, 258)


def test_gguf_metadata_by_hand():
  """Merges, digits one by one, and names of special tokens that are text unless asked for."""
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  found = bpe_from_gguf(metadata())
  the, space_the, own = 260, 261, 262
  assert found.size == 264 and found.special == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
  assert (found.bos, found.eos, found.pad, found.chat_template) == (1, 2, 2, "{{ 1 }}")
  assert found.encode("the the").tolist() == [the, space_the]
  assert found.encode("tha 12").tolist() == [259, *bytes_of("a 12")]
  assert found.encode("a<|im_end|>").tolist() == bytes_of("a<|im_end|>")
  assert found.encode("a<|im_end|>", special=True).tolist() == [*bytes_of("a"), 2]
  assert found.encode("a<own>b").tolist() == [*bytes_of("a"), own, *bytes_of("b")]
  assert found.decode([1, the, 2], special=False) == "the"
  assert bpe_from_gguf(metadata(pre="gpt-2")).encode("12").tolist() == [263]  # GPT-2 keeps digits together


@pytest.mark.parametrize(
  "pre, numbers, others", [("smollm", 7, 2), ("gpt-2", 1, 1), ("qwen2", 7, 2), ("llama-bpe", 3, 2)]
)
def test_digits_are_cut_as_each_family_does(pre, numbers, others):
  """Seven digits behind a space: one by one (the space apart), all with the space, one by one, and in threes."""
  package = pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  whole = json.loads(bpe_from_gguf(metadata(pre=pre)).to_json())
  cutter = package.Tokenizer.from_str(json.dumps(whole)).pre_tokenizer
  found = [piece for piece, _ in cutter.pre_tokenize_str("a 1234567")]
  own = [piece for piece in found if any(character.isdigit() for character in piece)]
  assert (len(own), len(found) - len(own)) == (numbers, others)
  assert "".join(found) == "aĠ1234567"


def test_bytes_without_a_token_are_left_out():
  """As by the original: SmolLM2's vocabulary has no token for 21 bytes."""
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  tokens = [token for token in metadata()["tokenizer.ggml.tokens"] if token != alphabet()[4]]
  found = bpe_from_gguf(metadata(tokens=tokens, token_type=None))
  assert found.decode(found.encode("a\x04b")) == "ab"


def test_json_gives_the_same_ids(trained):
  text = trained.to_json()
  config = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}, "chat_template": "x"}
  found = bpe_from_json(text, config)
  for one in TEXTS:
    for special in (False, True):
      np.testing.assert_array_equal(found.encode(one, special=special), trained.encode(one, special=special))
  assert (found.special, found.size) == (trained.special, trained.size)
  assert (found.bos, found.eos, found.pad, found.chat_template) == (None, 2, 0, "x")
  assert byte_tokenizer().to_json is None


def test_chats(trained):
  ids, written = chat_tokens(trained, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the <"}])
  assert trained.decode(ids[written]) == "the <<|im_end|>"


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"model": "llama"}, "tokenizer.ggml.model='llama': only 'gpt2', a byte-level BPE, is read"),
    ({"model": None}, "tokenizer.ggml.model=None"),
    ({"pre": "tekken"}, "cuts text as 'tekken' does, and smollm, gpt-2, llama-bpe, llama3, qwen2 are known"),
    ({"pre": None}, "cuts text as None does"),
    ({"pre": 3}, "cuts text as 3 does"),
    ({"tokens": None}, "has no list tokenizer.ggml.tokens"),
    ({"tokens": [1, 2]}, "has no list tokenizer.ggml.tokens"),
    ({"merges": []}, "has no list tokenizer.ggml.merges"),
    ({"tokens": ["a", "a"], "token_type": None}, "tokenizer.ggml.tokens names 1 tokens twice"),
    ({"token_type": np.int32([1])}, "tokenizer.ggml.token_type has another length than the 264 tokens"),
    ({"merges": ["t h e"]}, "tokenizer.ggml.merges has 't h e', which is no pair"),
    ({"merges": ["q z"]}, "its merges do not fit its tokens"),
    ({"eos_token_id": 264}, "tokenizer.ggml.eos_token_id=264 is no id of its 264 tokens"),
    ({"bos_token_id": -1}, "tokenizer.ggml.bos_token_id=-1"),
    ({"padding_token_id": "0"}, "tokenizer.ggml.padding_token_id='0'"),
  ],
)
def test_metadata_that_are_no_tokeniser(changes, message):
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  with pytest.raises(UserError, match=message) as caught:
    bpe_from_gguf(metadata(**changes), source="x.gguf")
  assert str(caught.value).startswith("x.gguf: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{" * 1000, '{"model": {"type": "BPE"}}', "\0"])
def test_text_that_is_no_tokenizer_json(text):
  pytest.importorskip("tokenizers", reason="the extra 'lm' is not installed")
  with pytest.raises(UserError, match=r"x\.json: is no tokenizer\.json") as caught:
    bpe_from_json(text, source="x.json")
  assert "\n" not in str(caught.value)


def test_a_config_that_names_no_token(trained):
  with pytest.raises(UserError, match=r"tokenizer\.json: eos_token='<end>' of its config is no token of it"):
    bpe_from_json(trained.to_json(), {"eos_token": "<end>"})


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(UserError, match=r"tokenizers: is not installed.*pip install 'jdistill\[lm\]'"):
    bpe_from_gguf(metadata())
