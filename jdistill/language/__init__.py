"""Language: tokenisers, chats, and checks before one model teaches another."""

from jdistill.language.bpe import bpe_from_gguf, bpe_from_json, tokenizer_json, train_bpe
from jdistill.language.chat import chat_text, chat_tokens
from jdistill.language.preflight import Preflight, check_same_tokenizer, perplexity, preflight
from jdistill.language.tokenizers import Tokenizer, byte_tokenizer

__all__ = [
  "Preflight",
  "Tokenizer",
  "bpe_from_gguf",
  "bpe_from_json",
  "byte_tokenizer",
  "chat_text",
  "chat_tokens",
  "check_same_tokenizer",
  "perplexity",
  "preflight",
  "tokenizer_json",
  "train_bpe",
]
