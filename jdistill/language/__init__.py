"""Text for language models: tokenisers, chats, packed rows, sampling, and checks before one teaches another."""

from jdistill.language.bpe import bpe_from_gguf, bpe_from_json, train_bpe
from jdistill.language.chat import chat_text, chat_tokens
from jdistill.language.generate import Samples, generate, with_prompts
from jdistill.language.mixture import log_mixture, mixture
from jdistill.language.packing import Packed, join, next_tokens, pack, pad
from jdistill.language.preflight import Preflight, check_same_tokenizer, perplexity, preflight
from jdistill.language.sampling import restrict, sample
from jdistill.language.tokenizers import Tokenizer, byte_tokenizer
from jdistill.models.decoder_layers import Rows

__all__ = [
  "Packed",
  "Preflight",
  "Rows",
  "Samples",
  "Tokenizer",
  "bpe_from_gguf",
  "bpe_from_json",
  "byte_tokenizer",
  "chat_text",
  "chat_tokens",
  "check_same_tokenizer",
  "generate",
  "join",
  "log_mixture",
  "mixture",
  "next_tokens",
  "pack",
  "pad",
  "perplexity",
  "preflight",
  "restrict",
  "sample",
  "train_bpe",
  "with_prompts",
]
