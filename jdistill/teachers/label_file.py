"""Files of labels: arrays, words that say what they belong to, and a checksum over all of it, in one `.npz`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jdistill.base import UserError
from jdistill.files import read_npz, sha256_arrays, write_npz

_CHECKSUM = "sha256"


def save_labels(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], words: Mapping[str, str]) -> None:
  """Writes arrays and words; no name may be given twice, nor be `sha256`."""
  whole = dict(arrays) | {name: _bytes(word) for name, word in words.items()}
  write_npz(Path(path), whole | {_CHECKSUM: _bytes(sha256_arrays(whole))})


def load_labels(
  path: str | os.PathLike, what: str, arrays: Sequence[str], words: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """What `save_labels` wrote: all arrays, and the words that are asked for.

  Args:
    path: where they lie.
    what: should be there, in words.
    arrays, words: names that have to be there.

  Raises:
    UserError: the file is missing, damaged, edited, or holds something else.
  """
  found = read_npz(Path(path))
  if missing := {*arrays, *words, _CHECKSUM} - found.keys():
    raise UserError(f"{path}: holds no {what} ({', '.join(sorted(missing))} missing); record them again")
  digest = bytes(found.pop(_CHECKSUM)).decode(errors="replace")
  if sha256_arrays(found) != digest:
    raise UserError(f"{path}: damaged or edited (its checksum differs); record the labels again")
  return found, {name: bytes(found.pop(name)).decode() for name in words}


def _bytes(word: str) -> np.ndarray:
  return np.frombuffer(word.encode(), np.uint8)
