"""Files of pretrained weights: no whole safetensors, tensors that do not fit, and pickles that would run something."""

import functools
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill import models
from jdistill.models import weights as names
from tests.hostile.case import Action, Case, Words, config_of, python

_NETWORK = {"name": "vit", "patch": 4, "dim": 4, "depth": 1, "heads": 1}
_SOME = "blocks.0.attn.qkv.weight"  # a head that does not fit is no mistake: a new one takes its place
_RAN = "ran"  # what a pickle that is run would leave in the directory


@functools.cache
def _tensors() -> Mapping[str, np.ndarray]:
  """Weights of a small network in timm's names."""
  options = {key: value for key, value in _NETWORK.items() if key != "name"}
  network = models.build("vit", num_classes=10, image_shape=(8, 8, 1), **options)
  wanted = names._wanted(names.LAYOUTS[1], jax.eval_shape(lambda: network.init(jax.random.key(0))))
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=names._shape_there(one)).astype(np.float32) for name, one in wanted.items()}


def _safetensors(tensors: Mapping[str, np.ndarray], **entries: Any) -> bytes:
  """A file of float32 tensors, with other entries in its header."""
  header, raw = {}, b""
  for name, array in tensors.items():
    ends = [len(raw), len(raw) + array.nbytes]
    header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": ends}
    raw += array.tobytes()
  return _with_header(json.dumps(header | entries).encode(), raw)


def _with_header(text: bytes, raw: bytes = b"") -> bytes:
  return struct.pack("<Q", len(text)) + text + raw


def _but(**changes: Any) -> bytes:
  """The tensors with others in their place; `None` leaves one out."""
  own = {name.replace("__", "."): value for name, value in changes.items()}
  return _safetensors({name: array for name, array in {**_tensors(), **own}.items() if array is not None})


def _files() -> dict[str, tuple[bytes, Words]]:
  """Files by what is wrong with them, and what the message must contain beside the file."""
  whole = _but()
  entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
  some = _SOME.replace(".", "__")
  nan = np.full_like(_tensors()[_SOME], np.nan)
  return {
    "empty file": (b"", ()),
    "text": (b"these are no weights", ()),
    "half": (whole[: len(whole) // 2], ()),
    "all but the last byte": (whole[:-1], ()),
    "one byte more": (whole + b"x", ()),
    "a header of 1e18 bytes": (struct.pack("<Q", 10**18) + whole[8:], ()),
    "a header that is a list": (_with_header(b"[1, 2]"), ()),
    "a header that is no JSON": (_with_header(b"{" * 20), ()),
    "a deep header": (_with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), ()),
    "an entry that is a number": (_safetensors({}, a=3), ()),
    "an unknown type": (_safetensors({}, a=entry | {"dtype": "Q7"}), ()),
    "a negative shape": (_safetensors({}, a=entry | {"shape": [-2, -2]}), ()),
    "an endless shape": (_safetensors({}, a=entry | {"shape": [10**400]}), ()),
    "a large shape": (_safetensors({}, a=entry | {"shape": [10**12]}), ()),
    "offsets before the file": (_safetensors({}, a=entry | {"data_offsets": [-16, 0]}), ()),
    "words for offsets": (_safetensors({}, a=entry | {"data_offsets": ["0", "16"]}), ()),
    "bytes of two arrays": (_safetensors({"b": np.ones((2, 2), np.float32)}, a=entry), ()),
    "no arrays": (_safetensors({}), ()),
    "an array less": (_but(**{some: None}), (_SOME,)),
    "an array more": (_but(surprise=np.ones(3, np.float32)), ("surprise",)),
    "an array of another shape": (_but(**{some: _tensors()[_SOME][:, :2]}), (_SOME,)),
    "an array of NaN": (_but(**{some: nan}), (("finite", "NaN"),)),
    "names of another network": (_safetensors({"conv1.weight": np.ones((3, 3), np.float32)}), ("conv1.weight",)),
  }


class _Runs:
  """An object whose pickle runs a command."""

  def __init__(self, command: str):
    self._command = command

  def __reduce__(self):
    return os.system, (self._command,)


def _torch(data: bytes) -> bytes:
  """A file in the form of `torch.save` around a pickle."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("archive/data.pkl", data)
    archive.writestr("archive/version", b"3\n")
  return file.getvalue()


def _pickles(place: Path) -> dict[str, bytes]:
  """Files of PyTorch that are none, or would do something when they are read."""
  runs = pickle.dumps({"a": _Runs(f"touch {place / _RAN}")})
  return {
    "a pickle that runs a command": _torch(runs),
    "the same in the old form": runs,
    "a pickle of numbers": _torch(pickle.dumps({"a": 1.0})),
    "a pickle of a class": _torch(pickle.dumps(Path("x"))),
    "a pickle that ends early": _torch(pickle.dumps({"a": list(range(100))})[:-30]),
    "an endless tuple": _torch(b"\x80\x02" + b"(" * 200_000 + b"."),
    "no pickle in the archive": _torch(b""),
    "an archive of something else": b"PK\x03\x04" + b"\x00" * 40,
    "text": b"weights",
    "an empty file": b"",
  }


def cases() -> Iterator[Case]:
  """Every file as the weights of a teacher."""
  for name, (_, words) in _files().items():
    yield _case(f"weights/safetensors/{name}", functools.partial(_start, name, "w.safetensors"), words)
  for name in _pickles(Path()):
    yield _case(f"weights/torch/{name}", functools.partial(_start, name, "w.pth"), ())
  for name, file in {"no such file": "absent.pth", "a directory": ".", "an unknown suffix": "w.weights"}.items():
    yield _case(f"weights/path/{name}", functools.partial(_start, name, file), ())


def _case(name: str, start, words: Words) -> Case:
  return Case(name, "weights", start, ("teachers.weights", *words))


def _start(name: str, file: str, place: Path) -> Action:
  path = place / file
  if file == "w.safetensors":
    path.write_bytes(_files()[name][0])
  if file == "w.pth":
    path.write_bytes(_pickles(place)[name])
  if file == "w.weights":
    path.write_bytes(_but())
  config = config_of("kd")
  config.pop("tune", None)
  config |= {"teacher": dict(_NETWORK), "committee": {}}
  config["teachers"] = dict(config.get("teachers") or {}) | {"weights": str(path)}
  return python(config, place)
