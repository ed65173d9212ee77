"""Tensors of a `.pth` or `.pt` file of PyTorch, read without running anything that is in it.

Such a file holds a pickle, a small program. Here it is not run: its instructions are read one by one, and those that a
table of tensors needs are followed on plain values. All others, and every name but those of tensors and ordered
dictionaries, are refused.
"""

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.files.archives import DAMAGE
from jdistill.files.atomic import must_exist
from jdistill.files.safetensors_file import bfloat16_to_float32

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files written before PyTorch 1.6
_STORAGES = {
  "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8",
  "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ADMITTED = {_DICT, _TENSOR, _PARAMETER} | {f"torch {name}" for name in _STORAGES}
_TABLES = ("state_dict", "model", "state_dict_ema", "model_ema")  # where checkpoints of trainings keep their tensors


class _Name(NamedTuple):
  """An admitted global name, which is never looked up."""

  text: str


class _Storage(NamedTuple):
  """The numbers behind some tensors: a type of `_STORAGES`, the key under which they lie, and how many there are."""

  kind: str
  key: str
  count: int


class _View(NamedTuple):
  """A tensor as a view of a storage."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a table of parameters that `torch.save` wrote.

  Both forms are known: the zip archive of PyTorch 1.6 and later, and the stream of earlier releases. Of a checkpoint
  that keeps its table under `"state_dict"` or `"model"` beside other things, the table is read.

  Args:
    path: the file.

  Returns:
    Arrays by name, in the order of the file; bfloat16 is given as float32.

  Raises:
    UserError: the file is missing or damaged, holds anything but tensors, or names anything else in its instructions.
  """
  must_exist(path)
  try:
    with open(path, "rb") as file:
      zipped = file.read(4) == b"PK\x03\x04"
      file.seek(0)
      found, raw = _from_zip(file) if zipped else _from_stream(file)
    return {name: _array(name, view, raw) for name, view in _table(found).items()}
  except _Refused as error:
    raise UserError(f"{path}: {error}; give a file of tensors alone, such as .safetensors") from error
  except (*DAMAGE, AttributeError, AssertionError) as error:
    raise UserError(f"{path}: is no whole file of PyTorch tensors ({error}); download it again") from error


class _Refused(Exception):
  """Something that is no table of tensors."""


def _from_zip(file: io.BufferedReader) -> tuple[Any, Callable[[_Storage], bytes]]:
  with zipfile.ZipFile(file) as archive:
    (table,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    room = table.removesuffix("data.pkl")
    order = archive.read(f"{room}byteorder") if f"{room}byteorder" in archive.namelist() else b"little"
    if order != b"little":
      raise _Refused("its numbers have the byte order of another kind of machine")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
      raise _Refused("is compressed, which PyTorch never does")  # and could be larger than memory
    content = {name.removeprefix(f"{room}data/"): archive.read(name) for name in archive.namelist()}
    return _follow(io.BytesIO(archive.read(table))), lambda storage: content[storage.key]


def _from_stream(file: io.BufferedReader) -> tuple[Any, Callable[[_Storage], bytes]]:
  content = io.BytesIO(file.read())
  if _follow(content) != _MAGIC or _follow(content) != _PROTOCOL:
    raise ValueError("it does not begin as one")
  if not _follow(content).get("little_endian"):
    raise _Refused("its numbers have the byte order of another kind of machine")
  storages: dict[str, _Storage] = {}
  found = _follow(content, storages)
  keys = _follow(content)
  if sorted(keys) != sorted(storages):
    raise ValueError("its list of storages is not that of its tensors")
  raw = {}
  for key in keys:
    count = int.from_bytes(content.read(8), "little")
    if count != storages[key].count:
      raise ValueError(f"storage {key} has {count} numbers and not {storages[key].count}")
    raw[key] = content.read(count * np.dtype(_STORAGES[storages[key].kind]).itemsize)
  if content.read(1):
    raise ValueError("bytes follow the last tensor")
  return found, lambda storage: raw[storage.key]


def _follow(stream: io.BytesIO, storages: dict[str, _Storage] | None = None) -> Any:
  """The value that the instructions of one pickle describe; storages are also put into `storages`, by key."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}
  known = {} if storages is None else storages
  for code, argument, _ in pickletools.genops(stream):
    name = code.name
    if name == "STOP":
      (found,) = stack
      return found
    if name in ("PROTO", "FRAME"):
      continue
    if name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _VALUES:
      stack.append(argument)
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
      stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name == "MARK":
      marks.append(len(stack))
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
      memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
      stack.append(memo[argument])
    elif name == "GLOBAL":
      stack.append(_admitted(argument))
    elif name == "BINPERSID":
      stack.append(_storage(stack.pop(), known))
    elif name in _STEPS:
      items = []
      if name in _MARKED:
        begin = marks.pop()
        items = stack[begin:]
        del stack[begin:]
      _STEPS[name](stack, items)
    else:
      raise _Refused(f"holds the instruction {name}, which no table of tensors needs")
  raise ValueError("its instructions do not end")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
  "BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING", "BINSTRING",
}  # fmt: skip
_MARKED = {"TUPLE", "SETITEMS", "APPENDS"}


def _tuple_of(count: int) -> Callable[[list, list], None]:
  def step(stack: list, items: list) -> None:
    items = stack[-count:]
    del stack[-count:]
    stack.append(tuple(items))

  return step


def _set_item(stack: list, items: list) -> None:
  del items
  value, key = stack.pop(), stack.pop()
  _set(stack[-1], [key, value])


def _set(target: Any, items: list) -> None:
  if not isinstance(target, dict) or len(items) % 2:
    raise ValueError("it sets an item of what is no dictionary")
  target.update(zip(items[::2], items[1::2], strict=True))


def _append(target: Any, items: list) -> None:
  if not isinstance(target, list):
    raise ValueError("it appends to what is no list")
  target.extend(items)


def _reduce(stack: list, items: list) -> None:
  del items
  arguments, name = stack.pop(), stack.pop()
  if not isinstance(name, _Name) or not isinstance(arguments, tuple):
    raise _Refused("calls what is no constructor of a tensor")
  if name.text == _DICT and not arguments:
    stack.append({})
  elif name.text == _PARAMETER and arguments and isinstance(arguments[0], _View):
    stack.append(arguments[0])
  elif name.text == _TENSOR and len(arguments) >= 4 and isinstance(arguments[0], _Storage):
    storage, offset, shape, strides = arguments[:4]
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(one) is int and one >= 0 for one in numbers):
      raise ValueError("a tensor's shape or strides are no whole numbers")
    stack.append(_View(storage, offset, shape, strides))
  else:
    raise _Refused(f"calls {name.text.replace(' ', '.')} in a way that makes no tensor")


def _build(stack: list, items: list) -> None:
  """A dictionary's own attributes, such as the version of its layout, are left out."""
  del items
  stack.pop()
  if not isinstance(stack[-1], dict):
    raise _Refused("sets attributes of what is no dictionary")


_STEPS: Mapping[str, Callable[[list, list], None]] = {
  "TUPLE": lambda stack, items: stack.append(tuple(items)),
  "TUPLE1": _tuple_of(1),
  "TUPLE2": _tuple_of(2),
  "TUPLE3": _tuple_of(3),
  "SETITEM": _set_item,
  "SETITEMS": lambda stack, items: _set(stack[-1], items),
  "APPEND": lambda stack, items: _append(stack[-2], [stack.pop()]),
  "APPENDS": lambda stack, items: _append(stack[-1], items),
  "REDUCE": _reduce,
  "BUILD": _build,
}


def _admitted(text: str) -> _Name:
  if text not in _ADMITTED:
    raise _Refused(f"names {text.replace(' ', '.')}, which is no tensor")
  return _Name(text)


def _storage(found: Any, known: dict[str, _Storage]) -> _Storage:
  """The storage that a persistent name `("storage", type, key, place, numbers, ...)` stands for."""
  if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage" or not isinstance(found[1], _Name):
    raise _Refused("points outside of itself to what is no storage of a tensor")
  _, name, key, _, count = found[:5]
  kind = name.text.removeprefix("torch ")
  if kind not in _STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
    raise ValueError("a storage has no type, key or size")
  if known.setdefault(key, own := _Storage(kind, key, count)) != own:
    raise ValueError(f"storage {key} has two sizes or types")
  return own


def _table(found: Any) -> dict[str, _View]:
  """The tensors by name; the table of a checkpoint that has other things beside it."""
  if isinstance(found, dict):
    inner = [found[name] for name in _TABLES if isinstance(found.get(name), dict)]
    table = found if found and all(isinstance(one, _View) for one in found.values()) else next(iter(inner), {})
    if table and all(isinstance(key, str) and isinstance(one, _View) for key, one in table.items()):
      return table
  raise _Refused("holds no table of tensors by name")


def _array(name: str, view: _View, raw: Callable[[_Storage], bytes]) -> np.ndarray:
  dtype = np.dtype(_STORAGES[view.storage.kind])
  numbers = np.frombuffer(raw(view.storage), dtype)
  if len(numbers) != view.storage.count:
    raise ValueError(f"{name!r} has a storage of {len(numbers)} numbers and not {view.storage.count}")
  size = math.prod(view.shape)
  last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))
  if (size and last >= len(numbers)) or size > len(numbers):
    raise ValueError(f"{name!r} of shape {view.shape} reaches beyond its storage of {len(numbers)} numbers")
  if not size:
    return np.zeros(view.shape, np.float32 if "BFloat16" in view.storage.kind else dtype)
  strides = [step * dtype.itemsize for step in view.strides]
  array = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides, writeable=False)
  return bfloat16_to_float32(array) if "BFloat16" in view.storage.kind else array.copy()
