"""Checkpoints of language models as configurations name them: `"smollm2"`, a `.gguf` file, or a directory."""

import functools
import hashlib
import os
from pathlib import Path

from jdistill.base import UserError
from jdistill.files import read_gguf, sha256_file, user_path
from jdistill.language import Tokenizer, bpe_from_gguf, byte_tokenizer
from jdistill.pretrained.language import (
  PretrainedLanguageModel,
  directory_tokenizer,
  json_tokenizer,
  load_language_model,
  smollm2_file,
)

BYTES, SMOLLM2 = "bytes", "smollm2"
_GGUF, _JSON = ".gguf", ".json"


def is_language_checkpoint(name: str) -> bool:
  """Whether a configuration names a language model, and not a file of weights of an image network."""
  return name == SMOLLM2 or name.lower().endswith(_GGUF) or os.path.isdir(os.path.expanduser(name))


def checkpoint_path(name: str, key: str) -> Path:
  """Where a checkpoint lies.

  Args:
    name: `"smollm2"`, FILE.gguf or a directory.
    key: of the configuration, for messages.

  Raises:
    UserError: it is not there, or the package that has SmolLM2 is not installed.
  """
  if name == SMOLLM2:
    try:
      return smollm2_file()
    except UserError as error:
      raise UserError(f"{key}={name!r}: {error}") from error
  path = user_path(name, key)
  if not path.exists():
    raise UserError(f"{key}={name!r}: no such file; give 'smollm2', FILE.gguf, or a directory with config.json")
  return path


def load_checkpoint(name: str, key: str) -> PretrainedLanguageModel:
  """A checkpoint in float32, with its tokeniser where it has one; the last one stays in memory.

  Raises:
    UserError: as `checkpoint_path` and `load_language_model`.
  """
  path = checkpoint_path(name, key)
  try:
    return _loaded(path, _state(path))
  except UserError as error:
    raise UserError(f"{key}: {error}") from error


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, state: tuple) -> PretrainedLanguageModel:
  del state
  return load_language_model(path)


def checkpoint_digest(name: str, key: str) -> str:
  """A hash of all files of a checkpoint; errors are those of `checkpoint_path`."""
  path = checkpoint_path(name, key)
  return _digest(path, _state(path))


@functools.lru_cache(maxsize=16)
def _digest(path: Path, state: tuple) -> str:
  del state
  if path.is_file():
    return sha256_file(path)
  digests = [f"{file.name} {sha256_file(file)}" for file in _files(path)]
  return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
  return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> tuple:
  """Changes when a file does."""
  return tuple((file.name, os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in _files(path))


def load_tokenizer(name: str, key: str) -> Tokenizer:
  """A tokeniser as a configuration names it.

  Args:
    name: `"bytes"`, `"smollm2"`, a `tokenizer.json`, a `.gguf` file, or a directory that has a `tokenizer.json`.
    key: of the configuration, for messages.

  Returns:
    `Tokenizer`.

  Raises:
    UserError: none of these, a file that is missing or damaged, or the package `tokenizers` is not installed.
  """
  if name == BYTES:
    return byte_tokenizer()
  path = checkpoint_path(name, key) if name == SMOLLM2 else user_path(name, key)
  if name != SMOLLM2 and not path.is_dir() and path.suffix.lower() not in (_GGUF, _JSON):
    raise UserError(
      f"{key}={name!r}: is no tokeniser; give 'bytes', 'smollm2', a tokenizer.json, FILE.gguf, or a directory with one"
    )
  try:
    return _tokenizer(path)
  except UserError as error:
    raise UserError(f"{key}: {error}") from error


def _tokenizer(path: Path) -> Tokenizer:
  if path.is_dir():
    found = directory_tokenizer(path)
    if found is None:
      raise UserError(f"{path}: has no tokenizer.json; give a directory or a file that has one")
    return found
  if not path.is_file():
    raise UserError(f"{path}: no such file")
  if path.suffix.lower() == _GGUF:
    return bpe_from_gguf(read_gguf(path, arrays=False).metadata, source=str(path))
  return json_tokenizer(path)
