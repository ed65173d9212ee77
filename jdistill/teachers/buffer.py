"""The expert buffer on disk: one array file per expert, written once, checked when opened, read a segment at a time."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.files import atomic_write, read_json, sha256_file, to_jsonable, write_json

_MANIFEST = "manifest.json"


class ExpertBuffer:
  """Trajectories `[epochs + 1, parameters]` of several experts under one directory.

  Experts are added one after another and an expert that is there is never written again, so an interrupted recording
  goes on where it stopped. `manifest.json` names what determined the buffer and the checksum of every file.
  """

  def __init__(self, directory: str | os.PathLike, identity: Mapping[str, Any], *, epochs: int, size: int):
    """Opens a buffer, or prepares a new one.

    Args:
      directory: where it lies.
      identity: the part of the configuration that determines it.
      epochs: epochs of every expert.
      size: parameters of the network.

    Raises:
      UserError: the directory holds another buffer, or a file of it is missing or damaged.
    """
    self._directory = Path(directory)
    self._epochs, self._size = epochs, size
    self._arrays: dict[int, np.ndarray] = {}
    # as it will be read back: JSON has lists for tuples
    self._manifest = to_jsonable({"identity": identity, "epochs": epochs, "size": size, "experts": {}})
    path = self._directory / _MANIFEST
    if path.exists():
      found = read_json(path)
      for key in ("identity", "epochs", "size"):
        if not isinstance(found, dict) or found.get(key) != self._manifest[key]:
          raise UserError(
            f"expert buffer {self._directory}: its {key} is not that of this run (another network, data or recipe); "
            "delete the directory or choose another --artefacts"
          )
      self._manifest = found
      for name, entry in found["experts"].items():
        file = self._directory / name
        if not file.is_file() or sha256_file(file) != entry["sha256"]:
          raise UserError(f"expert buffer file {file} is missing or damaged: delete {self._directory} and run again")

  @staticmethod
  def _name(index: int) -> str:
    return f"expert_{index:04d}.npy"

  def __contains__(self, index: int) -> bool:
    return self._name(index) in self._manifest["experts"]

  def __len__(self) -> int:
    return len(self._manifest["experts"])

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
    file = self._directory / self._name(index)
    atomic_write(
      file, lambda stream: np.lib.format.write_array(stream, trajectory, allow_pickle=False), trajectory.nbytes
    )
    self._manifest["experts"][file.name] = {"sha256": sha256_file(file), **record}
    write_json(self._directory / _MANIFEST, self._manifest)

  def record(self, index: int) -> dict[str, Any]:
    """The figures kept with an expert."""
    return self._manifest["experts"][self._name(index)]

  def snapshot(self, index: int, epoch: int) -> np.ndarray:
    """Parameters `[P]` of one expert after `epoch` epochs; 0 is its initialisation and -1 the last."""
    if index not in self._arrays:
      # memory-mapped: a buffer of a hundred ConvNets is larger than many machines' memory
      self._arrays[index] = np.load(self._directory / self._name(index), mmap_mode="r", allow_pickle=False)
    return np.array(self._arrays[index][epoch])

  def segment(self, index: int, start: int, span: int) -> tuple[np.ndarray, np.ndarray]:
    """`(parameters at epoch start, parameters at epoch start + span)` of one expert."""
    if not 0 <= start <= start + span <= self._epochs:
      raise ValueError(f"segment [{start}, {start + span}] lies outside 0..{self._epochs}")
    return self.snapshot(index, start), self.snapshot(index, start + span)
