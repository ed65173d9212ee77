"""Distilled sets in the formats of others: a folder of PNG files per class, and PyTorch tensors."""

import importlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.export.artefact import hard_labels, validate
from jdistill.export.distilled_set import DistilledSet, whole
from jdistill.files import user_path, write_bytes
from jdistill.reporting.grids import save_png, to_uint8


def to_png_folder(
  directory: str | os.PathLike, pixels: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()
) -> list[Path]:
  """Writes one PNG per image into one folder per class, as image-folder loaders read them.

  Lossy: 8 bits per value, clipped to [0, 1], and of soft labels only the largest class is kept. Folders sort in the
  order of the classes and files in the order of the images.

  Args:
    directory: made if missing; may hold nothing but files of an earlier, same-shaped call.
    pixels: `[m, height, width, 1 or 3]` in [0, 1], preprocessing undone.
    labels: `[m]` classes or `[m, classes]` logits.
    class_names: become part of the folder names (`3_cat`); folders are plain numbers without.

  Returns:
    The files in the order of the images.

  Raises:
    UserError: shapes do not fit, there is no name for a class, or the directory holds other files.
  """
  directory, pixels, labels = user_path(directory, "directory"), np.asarray(pixels), np.asarray(labels)
  if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
    raise UserError(f"pixels have shape {pixels.shape}: PNG files need [m, height, width, 1 or 3]")
  if len(labels) != len(pixels):
    raise UserError(f"{len(pixels)} images have {len(labels)} labels: give one label per image")
  classes = hard_labels(labels)
  count = max(int(classes.max(initial=-1)) + 1, labels.shape[1] if labels.ndim == 2 else 0, len(class_names))
  if class_names and len(class_names) < count:
    raise UserError(f"class_names has {len(class_names)} entries for {count} classes: give one name per class")
  digits, places = len(str(max(count - 1, 0))), len(str(max(len(pixels) - 1, 0)))
  folders = [f"{label:0{digits}d}" + (f"_{_slug(class_names[label])}" if class_names else "") for label in range(count)]
  files = [directory / folders[label] / f"{index:0{places}d}.png" for index, label in enumerate(classes)]
  strange = sorted({path for path in directory.rglob("*") if path.is_file()} - set(files))
  if strange:
    raise UserError(f"{directory} holds other files ({strange[0].relative_to(directory)}): give an empty directory")
  for file, image in zip(files, to_uint8(pixels), strict=True):
    save_png(file, image)
  return files


def _slug(name: str) -> str:
  return re.sub(r"[^\w-]+", "-", name).strip("-") or "class"


def to_torch(path: str | os.PathLike, distilled: DistilledSet) -> None:
  """Writes a `.pt` file for `torch.load(path, weights_only=True)`: tensors and plain values only.

  The file holds a dict: `images` `[m, channels, height, width]` float32 in the preprocessed space, `labels` (logits
  float32, or classes int64), `learned_lr`, `class_names` and `preprocessing` (`kind`, and `mean`, `scale`, `inverse`,
  `vectors` as tensors). The vectors of `zca` are for images flattened with channels *last*, as before the
  transposition.

  Args:
    path: the file.
    distilled: the set.

  Raises:
    UserError: PyTorch is not installed, the set is not consistent, or the disk is full.
  """
  torch = _torch(path)
  distilled = whole(validate(distilled, "the distilled set"))
  preprocessing = {
    name: str(array) if name == "kind" else _tensor(torch, array) for name, array in distilled.preprocessing.items()
  }
  images, labels = _tensors(torch, distilled)
  rest = {"learned_lr": distilled.learned_lr, "class_names": list(distilled.class_names)}
  _save(torch, Path(path), {"images": images, "labels": labels, **rest, "preprocessing": preprocessing})


def to_mtt(directory: str | os.PathLike, distilled: DistilledSet) -> list[Path]:
  """Writes the three files that the evaluators of MTT (arXiv 2203.11932) and DATM (2310.05773) load.

  `images_best.pt` `[m, channels, height, width]` float32, preprocessed, `labels_best.pt` (logits float32, or
  classes int64) and `lr_best.pt` (a scalar). DATM's takes them by `--data_dir`, `--label_dir` and `--lr_dir`. Their
  whitening is this package's `zca` with the same data.

  Args:
    directory: made if missing.
    distilled: the set.

  Returns:
    The three paths.

  Raises:
    UserError: PyTorch is not installed, the set is not consistent, or the disk is full.
  """
  torch = _torch(directory)
  distilled = whole(validate(distilled, "the distilled set"))
  images, labels = _tensors(torch, distilled)
  lr = _tensor(torch, np.float32(distilled.learned_lr))
  paths = [Path(directory) / f"{name}_best.pt" for name in ("images", "labels", "lr")]
  for path, value in zip(paths, (images, labels, lr), strict=True):
    _save(torch, path, value)
  return paths


def _torch(path: str | os.PathLike) -> Any:
  try:
    return importlib.import_module("torch")
  except ImportError as error:
    raise UserError(f"{path}: writing .pt files needs PyTorch: pip install torch, or use the .npz") from error


def _tensor(torch: Any, array: np.ndarray) -> Any:
  return torch.from_numpy(np.array(array, order="C"))  # a writable copy of its own, as PyTorch asks for


def _tensors(torch: Any, distilled: DistilledSet) -> tuple[Any, Any]:
  """Images with channels first, and labels."""
  soft = distilled.labels.ndim == 2
  labels = distilled.labels if soft else distilled.labels.astype(np.int64)
  return _tensor(torch, distilled.images.transpose(0, 3, 1, 2)), _tensor(torch, labels)


def _save(torch: Any, path: Path, value: Any) -> None:
  file = io.BytesIO()
  torch.save(value, file)
  write_bytes(user_path(path, "path"), file.getvalue())
