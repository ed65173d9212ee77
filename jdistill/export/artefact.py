"""The distilled set on disk: images, labels, learned rate, preprocessing, protocol and provenance in one directory."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.data import preprocess
from jdistill.export.card import card
from jdistill.export.distilled_set import DistilledSet, artefact_sha256, whole
from jdistill.files import (
  CHECKSUMS,
  read_npz,
  to_jsonable,
  user_path,
  verify_checksums,
  write_checksums,
  write_npz,
  write_text,
)
from jdistill.reporting.grids import can_be_shown, image_grid, save_png

ARRAYS, PICTURE, CARD = "distilled.npz", "images.png", "README.md"
FILES = (ARRAYS, CARD, PICTURE)
FORMAT_VERSION = 2
_PREFIX = "preprocessing/"
_REQUIRED = ("format_version", "images", "labels", "learned_lr", "class_names", "protocol", "provenance")
_MOST_SHOWN = 1000  # images on the PNG; more make a file that no viewer likes


def save(directory: str | os.PathLike, distilled: DistilledSet, *, pixels: np.ndarray | None = None) -> str:
  """Writes `distilled.npz`, `README.md`, `images.png` of pixels that can be shown, and last `checksums.json`.

  The same set gives the same bytes, so writing it twice is safe. An interrupted call leaves a directory that `load`
  refuses.

  Args:
    directory: made if missing; files of an earlier set in it are replaced.
    distilled: the set; tuples in `protocol` and `provenance` come back as lists.
    pixels: `[m, height, width, channels]` in [0, 1], the images with the preprocessing undone; with compensators, all
      images that the set stands for (`whole`).

  Returns:
    `artefact_sha256` of the set.

  Raises:
    UserError: the parts do not fit together, values are not finite, or the disk is full.
  """
  directory = user_path(directory, "directory")
  distilled = validate(distilled, "the distilled set")
  shown = whole(distilled)
  if pixels is not None and np.shape(pixels) != shown.images.shape:
    raise UserError(f"pixels have shape {np.shape(pixels)} and images {shown.images.shape}: give one per image")
  digest = artefact_sha256(distilled.images, distilled.labels, distilled.learned_lr, distilled.compensators)
  arrays = {
    "format_version": np.int32(FORMAT_VERSION),
    "images": distilled.images,
    "labels": distilled.labels,
    "learned_lr": np.float64(distilled.learned_lr),
    "class_names": np.array(distilled.class_names, dtype=np.str_),
    "protocol": _to_text(distilled.protocol),
    "provenance": _to_text(distilled.provenance),
    **{_PREFIX + name: array for name, array in distilled.preprocessing.items()},
  }
  if not isinstance(distilled.compensators, tuple):
    arrays["compensators"] = distilled.compensators
  visible = pixels is not None and can_be_shown(pixels)
  picture = _picture(np.asarray(pixels), shown) if visible else None  # may refuse, so before any file
  names = [ARRAYS, CARD]
  write_npz(directory / ARRAYS, arrays)
  if picture is None:
    (directory / PICTURE).unlink(missing_ok=True)  # it would show an earlier set
  else:
    save_png(directory / PICTURE, picture)
    names.append(PICTURE)
  write_text(directory / CARD, card(distilled, digest, None if picture is None else PICTURE))
  write_checksums(directory, names)
  return digest


def load(path: str | os.PathLike) -> DistilledSet:
  """Reads a distilled set after checking its checksum.

  Args:
    path: the directory that `save` wrote, or its `distilled.npz`. A single `.npz` that was copied away from its
      `checksums.json` is read too, protected by the CRCs it contains.

  Raises:
    UserError: the path is missing, the directory was not finished, or the file is damaged or not a distilled set.
  """
  path = user_path(path, "path")
  if not path.exists():
    raise UserError(f"{path} does not exist: give the directory of a distilled set, or its {ARRAYS}")
  file = path / ARRAYS if path.is_dir() else path
  if path.is_dir() and not file.exists():
    raise UserError(f"{path} holds no {ARRAYS}: give the directory that the export wrote")
  if path.is_dir() or (file.name == ARRAYS and file.with_name(CHECKSUMS).exists()):
    verify_checksums(file.parent, [ARRAYS])
  try:
    arrays = read_npz(file)
  except UserError as error:
    raise UserError(f"{file} is no distilled set, or is damaged: give a {ARRAYS} that the export wrote") from error
  missing = [name for name in _REQUIRED if name not in arrays]
  if missing:
    raise UserError(f"{file} is not a distilled set: it has no {', '.join(missing)}; give a file that the export wrote")
  version = arrays["format_version"]
  if version.shape != () or version != FORMAT_VERSION:
    raise UserError(
      f"{file} has format_version {version} and this jdistill reads {FORMAT_VERSION}: update jdistill, or export "
      "the set again if it is the older of the two"
    )
  if arrays["learned_lr"].shape != () or arrays["learned_lr"].dtype.kind != "f" or arrays["class_names"].ndim != 1:
    raise UserError(f"{file} is not a distilled set: learned_lr or class_names have a wrong shape; export it again")
  distilled = DistilledSet(
    images=arrays["images"],
    labels=arrays["labels"],
    learned_lr=float(arrays["learned_lr"]),
    preprocessing={name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)},
    class_names=tuple(str(name) for name in arrays["class_names"]),
    protocol=_from_text(file, arrays, "protocol"),
    provenance=_from_text(file, arrays, "provenance"),
    compensators=arrays.get("compensators", ()),
  )
  return validate(distilled, str(file))


def validate(distilled: DistilledSet, source: str) -> DistilledSet:
  """Checks shapes, dtypes and values against each other.

  Args:
    distilled: a set whose arrays may also be JAX arrays.
    source: what messages call it.

  Returns:
    The same set with NumPy arrays and a Python learning rate.

  Raises:
    UserError: the first thing that does not fit.
  """
  images, labels = np.asarray(distilled.images), np.asarray(distilled.labels)
  if images.ndim != 4 or images.dtype != np.float32 or images.size == 0:
    raise UserError(f"{source}: images are {images.dtype} {images.shape}: they must be float32 [m, height, width, C]")
  soft = labels.ndim == 2 and labels.dtype == np.float32
  if not soft and not (labels.ndim == 1 and labels.dtype == np.int32):
    raise UserError(
      f"{source}: labels are {labels.dtype} {labels.shape}: they must be float32 [m, classes] or int32 [m]"
    )
  if len(labels) != len(images):
    raise UserError(f"{source}: {len(images)} images have {len(labels)} labels: give one label per image")
  learned_lr = float(distilled.learned_lr)
  for name, array in (("images", images), ("labels", labels), ("learned_lr", np.asarray(learned_lr))):
    broken = int(np.count_nonzero(~np.isfinite(array)))
    if broken:
      raise UserError(f"{source}: {name} holds {broken} values that are not finite: the run diverged, lower its rates")
  if learned_lr <= 0:
    raise UserError(f"{source}: learned_lr={learned_lr:.6g}: must be above 0; the run diverged, lower its rates")
  names = tuple(str(name) for name in distilled.class_names)
  if len(set(names)) < len(names):
    raise UserError(f"{source}: class_names names a class twice; give one distinct name per class")
  if soft and names and labels.shape[1] != len(names):
    raise UserError(f"{source}: labels have {labels.shape[1]} classes and class_names {len(names)}: give as many")
  if not soft and (labels.min() < 0 or (names and labels.max() >= len(names))):
    raise UserError(f"{source}: labels run from {labels.min()} to {labels.max()} for {len(names)} class_names")
  _check_preprocessing(distilled.preprocessing, images, source)
  compensators = distilled.compensators
  if not isinstance(compensators, tuple):
    compensators = _checked_compensators(np.asarray(compensators), images, distilled, source)
  return distilled._replace(
    images=images,
    compensators=compensators,
    labels=labels,
    learned_lr=learned_lr,
    preprocessing={name: np.asarray(array) for name, array in distilled.preprocessing.items()},
    class_names=names,
  )


def _checked_compensators(found: np.ndarray, images: np.ndarray, distilled: DistilledSet, source: str) -> np.ndarray:
  if found.ndim != 5 or found.dtype != np.float32 or found.shape[2:] != images.shape[1:] or found.size == 0:
    raise UserError(
      f"{source}: compensators are {found.dtype} {found.shape}: they must be float32 [slices, per slice, "
      f"{', '.join(map(str, images.shape[1:]))}]"
    )
  if len(images) % len(found):
    raise UserError(
      f"{source}: {len(images)} images do not lie in {len(found)} slices of compensators; export it again"
    )
  if not np.isfinite(found).all():
    raise UserError(f"{source}: compensators hold values that are not finite: the run diverged, lower its rates")
  if str(distilled.preprocessing["kind"]) == "zca":
    raise UserError(f"{source}: compensators need pixels with a range, and preprocessing='zca' has none; use 'channel'")
  return found


def _check_preprocessing(arrays: Mapping[str, np.ndarray], images: np.ndarray, source: str) -> None:
  try:
    preprocess.invert(preprocess.from_arrays(arrays), images[:1])
  except UserError as error:
    raise UserError(f"{source}: {error}") from error


def hard_labels(labels: np.ndarray) -> np.ndarray:
  """Returns the class of each image, `[m]`: the label itself, or the largest of its logits `[m, classes]`."""
  labels = np.asarray(labels)
  return labels.argmax(axis=1) if labels.ndim == 2 else labels


def _picture(pixels: np.ndarray, distilled: DistilledSet) -> np.ndarray:
  classes = hard_labels(distilled.labels)
  count = distilled.labels.shape[1] if distilled.labels.ndim == 2 else len(np.unique(classes))
  if len(pixels) > _MOST_SHOWN:  # the first of each class, in the order they have
    most = max(1, _MOST_SHOWN // count)
    kept = np.sort(np.concatenate([np.flatnonzero(classes == label)[:most] for label in np.unique(classes)]))
    pixels = pixels[kept[:_MOST_SHOWN]]
  ipc = math.ceil(len(pixels) / count)
  return image_grid(pixels, ipc if 2 <= ipc <= 20 else 10 if ipc < 2 else 20)


def _to_text(value: Mapping[str, Any]) -> np.ndarray:
  return np.array(json.dumps(to_jsonable(value), sort_keys=True, ensure_ascii=False))


def _from_text(file: Path, arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
  try:
    value = json.loads(str(arrays[name]))
  except ValueError as error:
    raise UserError(f"{file} is not a distilled set: {name} is not JSON; export it again") from error
  if not isinstance(value, dict):
    raise UserError(f"{file} is not a distilled set: {name} is not a mapping; export it again")
  return value
