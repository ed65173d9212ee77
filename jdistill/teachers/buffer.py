"""The expert buffer on disk: one array file per expert, written once, checked when opened, read a segment at a time."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jdistill.base import UserError
from jdistill.files import Damaged, atomic_write, read_record, sha256_file, to_jsonable, write_record

_MANIFEST = "manifest.json"


class ExpertBuffer:
  """Trajectories `[epochs + 1, parameters]` of several experts under one directory.

  Experts are added one after another and an expert that is there is never written again, so an interrupted recording
  goes on where it stopped. `manifest.json` names what determined the buffer and the checksum of every file. An expert
  whose file is gone or damaged is not in the buffer.

  Attributes:
    flaws: what was found to be gone or damaged when it was opened.
  """

  def __init__(self, directory: str | os.PathLike, identity: Mapping[str, Any], *, epochs: int, size: int):
    """Opens a buffer, or prepares a new one.

    Args:
      directory: where it lies.
      identity: the part of the configuration that determines it.
      epochs: epochs of every expert.
      size: parameters of the network.

    Raises:
      UserError: the directory holds another buffer.
    """
    self._directory = Path(directory)
    self._epochs, self._size = epochs, size
    self._arrays: dict[int, np.ndarray] = {}
    self.flaws: list[Damaged] = []
    # as it will be read back: JSON has lists for tuples
    self._manifest = to_jsonable({"identity": identity, "epochs": epochs, "size": size, "experts": {}})
    if self._directory.is_dir():
      self._open()

  def _open(self) -> None:
    try:
      found = read_record(self._directory / _MANIFEST)
    except Damaged as error:
      self.flaws += [error] if any(self._directory.glob("*.npy")) else []
    else:
      for key in ("identity", "epochs", "size"):
        if found.get(key) != self._manifest[key]:
          raise UserError(
            f"expert buffer {self._directory}: its {key} is not that of this run (another network, data or recipe); "
            "delete the directory or choose another --artefacts"
          )
      self._manifest = found
      for name, entry in list(found["experts"].items()):
        file = self._directory / name
        if not file.is_file() or sha256_file(file) != entry["sha256"]:
          self.flaws.append(Damaged(file, "is missing or damaged"))
          del found["experts"][name]

  @staticmethod
  def _name(index: int) -> str:
    return f"expert_{index:04d}.npy"

  def __contains__(self, index: int) -> bool:
    return self._name(index) in self._manifest["experts"]

  def __len__(self) -> int:
    return len(self._manifest["experts"])

  def file(self, index: int) -> Path:
    """Where an expert lies."""
    return self._directory / self._name(index)

  @property
  def epochs(self) -> int:
    return self._epochs

  def add(self, index: int, trajectory: np.ndarray, record: Mapping[str, Any]) -> None:
    """Writes one expert and then lists it, in this order: what is listed is whole.

    Args:
      index: its number.
      trajectory: `[epochs + 1, parameters]` float32.
      record: figures to keep with it, such as accuracies.
    """
    if trajectory.shape != (self._epochs + 1, self._size):
      raise ValueError(f"trajectory {trajectory.shape} is not [{self._epochs + 1}, {self._size}]")
    file = self.file(index)
    atomic_write(file, lambda stream: _write(stream, trajectory), trajectory.nbytes)
    self._manifest["experts"][file.name] = {"sha256": sha256_file(file), **record}
    write_record(self._directory / _MANIFEST, self._manifest)

  def record(self, index: int) -> dict[str, Any]:
    """The figures kept with an expert."""
    return self._manifest["experts"][self._name(index)]

  def snapshot(self, index: int, epoch: int) -> np.ndarray:
    """Parameters `[P]` of one expert after `epoch` epochs; 0 is its initialisation and -1 the last."""
    if index not in self._arrays:
      # memory-mapped: a buffer of a hundred ConvNets is larger than many machines' memory
      self._arrays[index] = np.load(self.file(index), mmap_mode="r", allow_pickle=False)
    return np.array(self._arrays[index][epoch])

  def segment(self, index: int, start: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """`(parameters at epoch start, parameters at epoch start + span)` of one expert."""
    if not 0 <= start <= start + span <= self._epochs:
      raise ValueError(f"segment [{start}, {start + span}] lies outside 0..{self._epochs}")
    return self.snapshot(index, start), self.snapshot(index, start + span)


def _write(stream: BinaryIO, array: np.ndarray) -> None:
  """The bytes of `np.save`, whose own way to a file does not tell why the disk refused."""
  array = np.ascontiguousarray(array)
  np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
  stream.write(array.data)
