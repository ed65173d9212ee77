"""Segmentation sets whose masks are no classes."""

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.archives import overrides
from tests.hostile.case import Action, Case, tiny


def _arrays() -> dict[str, Any]:
  rng = np.random.default_rng(1)
  arrays: dict[str, Any] = {}
  for part in ("train", "test"):
    arrays[f"{part}_images"] = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    arrays[f"{part}_masks"] = rng.integers(0, 3, (12, 8, 8), dtype=np.int64)
  return arrays


def _spoilt(key: str, value: Any) -> dict[str, Any]:
  arrays = _arrays()
  arrays[key][3, 2, 2] = value
  return arrays


_GOOD = _arrays()
_WRONG = {
  "mask above": (_spoilt("train_masks", 17), ("17",)),
  "mask above in the test": (_spoilt("test_masks", 17), ("test", "17")),
  "mask below": (_spoilt("train_masks", -1), ("-1",)),
  "mask of 2**31-1": (_spoilt("train_masks", 2**31 - 1), (str(2**31 - 1),)),
  "mask of 2**40": (_spoilt("test_masks", 2**40), (str(2**40),)),
  "masks are fractions": (_GOOD | {"train_masks": _GOOD["train_masks"] / 2}, ("train", "float64")),
  "masks are booleans": (_GOOD | {"train_masks": _GOOD["train_masks"] > 0}, ("train", "bool")),
  "masks are words": (_GOOD | {"train_masks": _GOOD["train_masks"].astype(str)}, ("train", "masks")),
  "masks of another size": (_GOOD | {"train_masks": _GOOD["train_masks"][:, :4]}, ("train", "(12, 4, 8)")),
  "masks with an axis more": (_GOOD | {"train_masks": _GOOD["train_masks"][..., None]}, ("train", "(12, 8, 8, 1)")),
  "fewer masks": (_GOOD | {"train_masks": _GOOD["train_masks"][:5]}, ("train", "(5, 8, 8)")),
  "gap in masks": (_GOOD | {"train_masks": _GOOD["train_masks"] // 2 * 2}, ("class 1",)),
  "all ignored": (_GOOD | {"train_masks": _GOOD["train_masks"] * 0 + 9}, ("ignore",)),
  "one class of masks": (_GOOD | {"train_masks": _GOOD["train_masks"] * 0}, ("class",)),
  "no masks": ({key: value for key, value in _GOOD.items() if key != "train_masks"}, ("train_masks",)),
  "images with NaN": (_GOOD | {"train_images": np.full((12, 8, 8, 3), np.nan)}, ("train", "NaN")),
  "validation without masks": (_GOOD | {"val_images": _GOOD["test_images"]}, ("val_masks",)),
}
_VALUES = ("-1", "3.5", "abc", "None", "1e400", "True")  # of `task.ignore`


def cases() -> Iterator[Case]:
  """Files first, then values of `task.ignore`."""
  for name, (arrays, words) in _WRONG.items():
    yield Case(f"map/{name}", "map", functools.partial(_start, arrays, ()), words)
  for value in _VALUES:
    start = functools.partial(
      _start, _GOOD, ("train_size=None", "test_size=None", "validation_size=2", f"task.ignore={value}")
    )
    yield Case(f"map/ignore is {value}", "map", start, ("task.ignore",))
  for count in ("0", "13", "12"):
    start = functools.partial(_start, _GOOD, (f"train_size={count}", f"validation_size={count}", "task.ignore=9"))
    yield Case(f"map/{count} to hold out and to train on", "map", start, (("validation_size", "train_size"),))


def _start(arrays: dict[str, Any], more: tuple[str, ...], place: Path) -> Action:
  file = io.BytesIO()
  np.savez(file, **arrays)
  (place / "set.npz").write_bytes(file.getvalue())
  return tiny("lad", place, f"dataset={place / 'set.npz'}", *(more or overrides("lad")))
