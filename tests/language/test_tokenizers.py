"""Bytes as tokens, and chats."""

import re

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import byte_tokenizer, chat_text, chat_tokens

TEXTS = ["", "plain", "naïve 日本語 😀\r\n\t", "<|im_end|>", "a<|im_end|>b<|endoftext|>", "\0\x7f", "<|im_<|im_end|>"]
MESSAGES = [
  {"role": "user", "content": "Hi <|im_end|>"},
  {"role": "assistant", "content": "\n Hello."},
  {"role": "user", "content": "2?"},
]
# what the template inside SmolLM2-135M-Instruct's file gives: jinja2 3.1.6 with `messages` and `add_generation_prompt`
RENDERED = (
  "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
  "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n\n Hello.<|im_end|>\n"
  "<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(text, special):
  tokenizer = byte_tokenizer()
  ids = tokenizer.encode(text, special=special)
  assert ids.dtype == np.int32 and ids.ndim == 1
  assert tokenizer.decode(ids) == text


def test_ids_of_bytes_and_special_tokens():
  tokenizer = byte_tokenizer()
  assert tokenizer.size == 259
  assert tokenizer.special == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
  assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (256, 256, 256)
  assert tokenizer.encode("é<|im_end|>!", special=True).tolist() == [0xC3, 0xA9, 258, 33]
  assert tokenizer.encode("<|im_end|>").tolist() == list(b"<|im_end|>")
  assert tokenizer.decode([104, 258, 105], special=False) == "hi"
  assert tokenizer.decode([0xC3, 104]) == "\N{REPLACEMENT CHARACTER}h"


def test_special_tokens_of_ones_own():
  tokenizer = byte_tokenizer(("<a>", "<a><b>"))
  assert tokenizer.encode("<a><b><a>", special=True).tolist() == [257, 256]  # the longest name first
  assert tokenizer.eos is None
  assert byte_tokenizer(()).encode("<a>", special=True).tolist() == list(b"<a>")
  for names in (("a", "a"), ("",)):
    with pytest.raises(ValueError, match="special_tokens="):
      byte_tokenizer(names)


@pytest.mark.parametrize("ids", [[259], [-1], [0.5], [[1]], ["a"]])
def test_ids_that_are_none(ids):
  with pytest.raises(ValueError, match="bytes: ids"):
    byte_tokenizer().decode(ids)


def test_chat_is_what_smollm2s_template_gives():
  assert chat_text(MESSAGES, answer=True) == RENDERED
  own = [{"role": "system", "content": "Be brief."}, *MESSAGES]
  assert chat_text(own) == "<|im_start|>system\nBe brief.<|im_end|>\n" + "".join(
    RENDERED.partition("Face<|im_end|>\n")[2].rpartition("<|im_start|>")[:1]
  )
  assert chat_text(MESSAGES[:1], system=None).startswith("<|im_start|>user")


def test_tokens_of_a_chat_and_what_the_assistant_writes():
  tokenizer = byte_tokenizer()
  ids, written = chat_tokens(tokenizer, MESSAGES, answer=True)
  assert ids.shape == written.shape and written.dtype == bool
  assert tokenizer.decode(ids) == RENDERED
  assert tokenizer.decode(ids[written]) == "\n Hello.<|im_end|>"
  assert (ids == 258).sum() == 4 and (ids == 257).sum() == 5  # that in the user's text is text


@pytest.mark.parametrize(
  "messages, message",
  [
    ([], "messages: there are none"),
    ([{"role": "bot", "content": ""}], r"messages\[0\].role='bot': give one of system, user, assistant"),
    ([{"role": "user"}], r"messages\[0\].content='None': must be text"),
    ([MESSAGES[0], {"content": "x"}], r"messages\[1\].role='None'"),
  ],
)
def test_chats_that_are_none(messages, message):
  with pytest.raises(UserError, match=message):
    chat_text(messages)


def test_a_chat_needs_its_special_tokens():
  with pytest.raises(UserError, match=re.escape("bytes: has no special token <|im_start|> and <|im_end|>")):
    chat_tokens(byte_tokenizer(()), MESSAGES)
