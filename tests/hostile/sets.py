"""Distilled sets that are damaged or hold something else, and arguments that `evaluate` cannot take."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jdistill
from jdistill.files import read_npz
from tests.hostile.case import Action, Case
from tests.hostile.damage import ANY

_FILE = "distilled.npz"


def _text(key: str, value: Any) -> Callable[[dict], dict]:
  return lambda arrays: arrays | {key: np.array(value if isinstance(value, str) else json.dumps(value))}


def _changed(key: str, change: Callable[[Any], Any]) -> Callable[[dict], dict]:
  return lambda arrays: arrays | {key: change(arrays[key])}


def _inside(key: str, **changes: Any) -> Callable[[dict], dict]:
  return lambda arrays: arrays | {key: np.array(json.dumps(json.loads(str(arrays[key])) | changes))}


def _without(key: str) -> Callable[[dict], dict]:
  return lambda arrays: {name: value for name, value in arrays.items() if name != key}


def _nan(array: np.ndarray) -> np.ndarray:
  return np.full_like(array, np.nan)


_KEYS = ("format_version", "images", "labels", "learned_lr", "class_names", "protocol", "provenance")
_CONTENTS: dict[str, Callable[[dict], dict]] = {
  **{f"without {key}": _without(key) for key in _KEYS},
  **{f"{key} is a word": _text(key, "abc") for key in _KEYS},
  **{f"{key} is a list": _changed(key, lambda array: np.array([1.5, 2.5])) for key in _KEYS},
  **{f"{key} of JSON: {value}": _text(key, value) for key in ("protocol", "provenance") for value in (3, [1], None)},
  "images with NaN": _changed("images", _nan),
  "labels with NaN": _changed("labels", _nan),
  "rate of NaN": _changed("learned_lr", _nan),
  "rate below 0": _changed("learned_lr", lambda lr: -lr),
  "fewer labels": _changed("labels", lambda labels: labels[:-1]),
  "more classes": _changed("labels", lambda labels: np.concatenate([labels, labels], axis=1)),
  "images of three axes": _changed("images", lambda images: images[..., 0]),
  "no images": lambda arrays: arrays | {"images": arrays["images"][:0], "labels": arrays["labels"][:0]},
  "class twice": _changed("class_names", lambda names: np.array(["a"] * len(names))),
  "one class": _changed("class_names", lambda names: names[:1]),
  "later format": _changed("format_version", lambda version: version + 1),
  "no epochs": _inside("protocol", epochs=0),
  "endless epochs": _inside("protocol", epochs=10**400),
  "word for epochs": _inside("protocol", epochs="abc"),
  "no batch": _inside("protocol", batch_size=0),
  "momentum of 2": _inside("protocol", momentum=2.0),
  "unknown augmentation": _inside("protocol", augment="flop"),
  "number for an augmentation": _inside("protocol", augment=3),
  "unknown network": _inside("protocol", model={"name": "nope"}),
  "network of a number": _inside("protocol", model=3),
  "network without a name": _inside("protocol", model={"widths": [3]}),
  "option of no network": _inside("protocol", model={"name": "mlp", "nope": 3}),
  "huge network": _inside("protocol", model={"name": "mlp", "widths": [10**12]}),
  "data set of a number": _inside("provenance", dataset=3),
  "data set without a name": _inside("provenance", dataset={}),
  "data set of another name": _inside("provenance", dataset={"name": "../x"}),
}


def _test(**changes: Any) -> dict[str, Any]:
  images, labels = np.zeros((4, 8, 8, 1), np.float32), np.arange(4)
  return {"test": (changes.get("images", images), changes.get("labels", labels))}


_ARGUMENTS: dict[str, tuple[dict[str, Any], tuple]] = {
  "test is a number": ({"test": 3}, ("test",)),
  "test is a word": ({"test": "ab"}, ("test",)),
  "test of images alone": ({"test": (np.zeros((4, 8, 8, 1)),)}, ("test",)),
  "test of three": ({"test": (1, 2, 3)}, ("test",)),
  "test is empty": (_test(images=np.zeros((0, 8, 8, 1)), labels=np.arange(0)), ("test",)),
  "test of another size": (_test(images=np.zeros((4, 9, 8, 1))), ("(9, 8, 1)",)),
  "test of three axes": (_test(images=np.zeros((4, 8, 8))), ("images",)),
  "test with NaN": (_test(images=np.full((4, 8, 8, 1), np.nan)), ("NaN",)),
  "test of words": (_test(images=np.full((4, 8, 8, 1), "x")), ("images",)),
  "test above 1": (_test(images=np.full((4, 8, 8, 1), 7.0)), ("images",)),
  "labels out of range": (_test(labels=np.array([0, 1, 2, 10])), ("test", "10")),
  "labels below 0": (_test(labels=np.array([0, 1, 2, -1])), ("test", "-1")),
  "labels of words": (_test(labels=np.array(["a"] * 4)), ("test",)),
  "labels with NaN": (_test(labels=np.full(4, np.nan)), ("test",)),
  "fewer labels": (_test(labels=np.arange(3)), ("test", "3")),
  "ragged labels": (_test(labels=[[1], [1, 2], [1], [1]]), ("test",)),
  "None for labels": (_test(labels=None), ("test",)),
  "unknown network": ({"model": "nope"}, ("nope",)),
  "number for a network": ({"model": 3}, ("3",)),
  "list for a network": ({"model": ["mlp"]}, ("mlp",)),
  "unknown option": ({"nope": 3}, ("nope",)),
  "wrong option": ({"widths": "abc"}, ("widths",)),
  "huge option": ({"widths": (10**12,)}, (("widths", "model"),)),
  **{
    f"{key}={value!r:.20}": ({key: value}, (key,))
    for key, values in {
      "seeds": (0, -1, 1.5, "abc", float("nan"), True, [1]),
      "epochs": (0, -1, 1.5, "abc", float("inf"), True, [1]),
      "lr": (0, -1.0, float("nan"), float("inf"), "abc", True, 10**400),
      "seed": (-1, 1.5, "abc", 2**64, True),
    }.items()
    for value in values
  },
}


def cases(prepared: Path) -> Iterator[Case]:
  """Damaged files of a result, archives of other content, then arguments."""
  result = prepared / "finished" / "datm" / "work" / "result"
  for name in (_FILE, "checksums.json"):
    for what, spoil in ANY.items():
      start = functools.partial(_damaged, result, name, spoil)
      yield Case(f"set/{name}/{what}", "set", start, ((name, "result", _FILE),))
  for what, change in _CONTENTS.items():
    key = next((key for key in (*_KEYS, "class", "rate", "label", "image") if key in what), "set")
    start = functools.partial(_rewritten, result, change)
    yield Case(f"set/content/{what}", "set", start, ((_FILE, key, "protocol", "provenance", "model"),))
  for what, (arguments, words) in _ARGUMENTS.items():
    yield Case(f"set/argument/{what}", "set", functools.partial(_evaluated, result, arguments), words)
  for path in ("", "/nowhere", "/dev/null", "a\0b", "x" * 300):
    start = functools.partial(_loaded, path)
    yield Case(f"set/path/{path[:20]!r}", "set", start, ((path[:20] or ".", "set"),))


def _use(path: Path | str, **arguments: Any) -> Action:
  def action() -> int:
    jdistill.load(path).evaluate(**{"seeds": 1, "epochs": 1, **arguments})
    return 0

  return action


def _loaded(path: str, place: Path) -> Action:
  del place
  return _use(path)


def _damaged(result: Path, name: str, spoil: Callable, place: Path) -> Action:
  shutil.copytree(result, place / "result")
  data = spoil((place / "result" / name).read_bytes())
  if data is None:
    (place / "result" / name).unlink()
  else:
    (place / "result" / name).write_bytes(data)
  return _use(place / "result")


def _rewritten(result: Path, change: Callable[[dict], dict], place: Path) -> Action:
  np.savez(place / _FILE, **change(read_npz(result / _FILE)))
  return _use(place / _FILE)


def _evaluated(result: Path, arguments: dict[str, Any], place: Path) -> Action:
  shutil.copytree(result, place / "result")
  return _use(place / "result", **arguments)
