"""Byte-level byte-pair encodings by the package `tokenizers`: a checkpoint's own, or one trained on a text."""

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.language.tokenizers import END, SPECIAL_TOKENS, Tokenizer, checked_ids

_KINDS = (3, 4)  # of tokens in GGUF: special ones, and text that is one token wherever it stands
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names of how text is cut before merges: digits one by one; a pattern before GPT-2's bytes; form of Unicode
_DIGITS, _GPT2 = ("smollm",), ("gpt-2",)
_PATTERNS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _LLAMA3.replace("{1,3}", "")}
_COMPOSED = {"qwen2"}
PRE_TOKENIZERS = (*_DIGITS, *_GPT2, *_PATTERNS)


def bpe_from_gguf(metadata: Mapping[str, Any], *, source: str = "the .gguf file") -> Tokenizer:
  """The tokeniser inside a GGUF file.

  SmolLM2's cuts text at every digit, then as GPT-2 does, and merges bytes. A byte that the vocabulary has no token for
  (21 of 256 in SmolLM2's: bytes that UTF-8 hardly ever has, and some control characters) is left out, as by the
  original.

  Args:
    metadata: of the file: `tokenizer.ggml.model` is `"gpt2"`, and `tokenizer.ggml.pre` is one of `PRE_TOKENIZERS`.
    source: what messages call it.

  Returns:
    `Tokenizer` without padded rows.

  Raises:
    UserError: the package `tokenizers` is missing, or the metadata have no byte-level vocabulary, another way of
      cutting text, or parts that contradict each other.
  """
  package = _package()
  kind = metadata.get("tokenizer.ggml.model")
  if not isinstance(kind, str) or kind != "gpt2":
    raise UserError(f"{source}: tokenizer.ggml.model={_short(kind)}: only 'gpt2', a byte-level BPE, is read")
  names, merges = _lists(metadata, source)
  kinds = metadata.get("tokenizer.ggml.token_type")
  if kinds is None:
    kinds = np.ones(len(names), np.int32)
  if np.shape(kinds) != (len(names),):
    raise UserError(f"{source}: tokenizer.ggml.token_type has another length than the {len(names)} tokens")
  special, whole = ([name for name, own in zip(names, kinds, strict=True) if own == one] for one in _KINDS)
  pre = metadata.get("tokenizer.ggml.pre")
  built = _built(package, {name: number for number, name in enumerate(names)}, merges, pre, source)
  built.add_tokens([package.AddedToken(name, normalized=False) for name in whole])
  roles = {
    role: _role(metadata, f"tokenizer.ggml.{key}_token_id", len(names), source)
    for role, key in {"bos": "bos", "eos": "eos", "pad": "padding"}.items()
  }
  template = metadata.get("tokenizer.chat_template", "")
  return _tokenizer(package, built, special, source, **roles, template=template if isinstance(template, str) else "")


def bpe_from_json(text: str, config: Mapping[str, Any] | None = None, *, source: str = "tokenizer.json") -> Tokenizer:
  """The tokeniser of a `tokenizer.json`, as the package `tokenizers` and Hugging Face's models have it.

  Args:
    text: of the file.
    config: of the `tokenizer_config.json` beside it, for `bos_token`, `eos_token`, `pad_token` and `chat_template`.
    source: what messages call it.

  Raises:
    UserError: the package is missing, or the text is no such file.
  """
  package = _package()
  try:
    built = package.Tokenizer.from_str(text)
  except Exception as error:  # the package raises plain `Exception` from Rust
    raise UserError(f"{source}: is no tokenizer.json ({_short(str(error))}); download it again") from error
  special = [one.content for one in built.get_added_tokens_decoder().values() if one.special]
  config = config or {}
  roles = {}
  for role in ("bos", "eos", "pad"):
    named = config.get(f"{role}_token")
    named = named.get("content") if isinstance(named, Mapping) else named
    roles[role] = built.token_to_id(named) if isinstance(named, str) else None
    if named is not None and roles[role] is None:
      raise UserError(f"{source}: {role}_token={_short(named)} of its config is no token of it")
  template = config.get("chat_template", "")
  return _tokenizer(package, built, special, source, **roles, template=template if isinstance(template, str) else "")


def train_bpe(
  texts: Iterable[str], size: int, *, special_tokens: Sequence[str] = SPECIAL_TOKENS, pre: str = "smollm"
) -> Tokenizer:
  """A byte-level encoding of `size` tokens, learned from texts; all 256 bytes are among them.

  Args:
    texts: what merges are counted in.
    size: how many tokens at most, special ones included.
    special_tokens: the first ids. `<|endoftext|>`, where it is there, begins, ends and fills up.
    pre: of `PRE_TOKENIZERS`.

  Raises:
    ValueError: a size that bytes and special tokens do not fit into.
    UserError: the package `tokenizers` is missing.
  """
  package = _package()
  least = 256 + len(special_tokens)
  if size < least:
    raise ValueError(f"train_bpe: size={size} has no place for 256 bytes and {len(special_tokens)} special tokens")
  built = _frame(package, package.models.BPE(), pre, "train_bpe")
  alphabet = package.pre_tokenizers.ByteLevel.alphabet()
  trainer = package.trainers.BpeTrainer(
    vocab_size=size, special_tokens=list(special_tokens), initial_alphabet=alphabet, show_progress=False
  )
  built.train_from_iterator(texts, trainer)
  end = built.token_to_id(END) if END in special_tokens else None
  return _tokenizer(package, built, special_tokens, f"BPE of {size}", end, end, end, "")


def _package() -> ModuleType:
  try:
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.normalizers
    import tokenizers.pre_tokenizers
    import tokenizers.trainers
  except ImportError as error:
    raise UserError(
      "tokenizers: is not installed, and byte-pair encodings need it; pip install 'jdistill[lm]', or take bytes"
    ) from error
  return tokenizers


def _short(value: Any) -> str:
  """A value of a file for a message: one line, and not all of it."""
  return repr(value)[:60]


def _lists(metadata: Mapping[str, Any], source: str) -> tuple[list[str], list[tuple[str, str]]]:
  """Tokens in the order of their ids, and pairs that are merged, the first ones first."""
  found = []
  for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
    value = metadata.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
      raise UserError(f"{source}: has no list {key}, so its tokeniser cannot be made; take a file with its tokeniser")
    found.append(value)
  names = found[0]
  if len(set(names)) < len(names):
    raise UserError(f"{source}: tokenizer.ggml.tokens names {len(names) - len(set(names))} tokens twice")
  merges = [tuple(one.split(" ")) for one in found[1]]
  wrong = [one for one in merges if len(one) != 2]
  if wrong:
    raise UserError(f"{source}: tokenizer.ggml.merges has {_short(' '.join(wrong[0]))}, which is no pair")
  return names, merges


def _role(metadata: Mapping[str, Any], key: str, size: int, source: str) -> int | None:
  value = metadata.get(key)
  if value is not None and (type(value) is not int or not 0 <= value < size):
    raise UserError(f"{source}: {key}={_short(value)} is no id of its {size} tokens")
  return value


def _built(package: ModuleType, vocabulary: dict[str, int], merges: list, pre: Any, source: str):
  """The package's own tokeniser."""
  try:
    # tokens that are whole words of the text need no merges in Llama 3's
    model = package.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in ("llama-bpe", "llama3"))
  except Exception as error:  # the package raises plain `Exception` from Rust
    raise UserError(f"{source}: its merges do not fit its tokens ({_short(str(error))}); download it again") from error
  return _frame(package, model, pre, source)


def _frame(package: ModuleType, model: Any, pre: Any, source: str):
  """A model with what comes before and after it."""
  cutters = package.pre_tokenizers
  steps = {
    **{name: [cutters.Digits(individual_digits=True), _bytes(cutters, True)] for name in _DIGITS},
    **{name: [_bytes(cutters, True)] for name in _GPT2},
    **{
      name: [cutters.Split(package.Regex(pattern), "isolated"), _bytes(cutters, False)]
      for name, pattern in _PATTERNS.items()
    },
  }
  if not isinstance(pre, str) or pre not in steps:
    raise UserError(f"{source}: cuts text as {_short(pre)} does, and {', '.join(PRE_TOKENIZERS)} are known")
  built = package.Tokenizer(model)
  built.pre_tokenizer = cutters.Sequence(steps[pre])
  built.decoder = package.decoders.ByteLevel()
  if pre in _COMPOSED:
    built.normalizer = package.normalizers.NFC()
  return built


def _bytes(cutters: ModuleType, pattern: bool):
  """Bytes written as characters, after GPT-2's pattern or alone."""
  return cutters.ByteLevel(add_prefix_space=False, use_regex=pattern)


def _tokenizer(
  package: ModuleType,
  built: Any,
  special: Sequence[str],
  name: str,
  bos: int | None,
  eos: int | None,
  pad: int | None,
  template: str,
) -> Tokenizer:
  built.add_special_tokens([package.AddedToken(one, special=True, normalized=False) for one in special])
  plain = package.Tokenizer.from_str(built.to_str())
  plain.encode_special_tokens = True  # their names are text like any other
  ids = {one: built.token_to_id(one) for one in special}
  size = built.get_vocab_size(with_added_tokens=True)

  def encode(text: str, *, special: bool = False) -> np.ndarray:
    return np.array((built if special else plain).encode(text, add_special_tokens=False).ids, np.int32)

  def decode(tokens, *, special: bool = True) -> str:
    return built.decode(checked_ids(name, tokens, size), skip_special_tokens=not special)

  token_bytes = functools.partial(_token_bytes, package, built, frozenset(special))
  return Tokenizer(name, encode, decode, size, ids, bos, eos, pad, template, built.to_str, token_bytes)


def _token_bytes(package: ModuleType, built: Any, special: Collection[str]) -> np.ndarray:
  """How many bytes of text each token stands for: characters of a byte-level name, else those of its name."""
  size = built.get_vocab_size(with_added_tokens=True)
  added = {number: token.content for number, token in built.get_added_tokens_decoder().items()}
  bytewise = isinstance(built.decoder, package.decoders.ByteLevel)
  found = np.zeros(size, np.int64)
  for number in range(size):
    name = added.get(number, built.id_to_token(number))
    if name is None or name in special:
      continue
    if number not in added and bytewise:
      found[number] = len(name)  # a character stands for a byte
    else:  # a mark of a word's beginning is a space; "<0x0A>" is one byte
      one = number not in added and re.fullmatch(r"<0x[0-9A-F]{2}>", name)
      found[number] = 1 if one else len(name.replace("\u2581", " ").encode())
  return found
