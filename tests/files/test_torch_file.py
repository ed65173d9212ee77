"""PyTorch's files of both forms, written by hand with the pickle of the standard library, and hostile ones."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.files import read_torch

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "f2": "HalfStorage", "u2": "BFloat16Storage"}
ARRAYS = {
  "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "conv.count": np.int64(5),
  "conv.bias": np.float16([0.5, -1.0]),
}


class Named:
  """What a pickle writes as a global name."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Tensor:
  """What a pickle writes as a tensor: a storage by key, offset, shape and strides."""

  def __init__(self, key, kind, count, offset, shape, strides):
    self.parts = key, kind, count, offset, shape, strides


class Call:
  def __init__(self, module, name, *arguments):
    self.parts = Named(module, name), arguments


class Writer(pickle._Pickler):
  """The standard pickler in Python, which writes names that need not exist."""

  dispatch = dict(pickle._Pickler.dispatch)

  def persistent_id(self, one):
    return one[1:] if isinstance(one, tuple) and one[:1] == ("persistent",) else None

  def save_named(self, one):
    self.write(pickle.GLOBAL + f"{one.module}\n{one.name}\n".encode())

  def save_call(self, one):
    name, arguments = one.parts
    self.save(name)
    self.save(arguments)
    self.write(pickle.REDUCE)

  def save_tensor(self, one):
    key, kind, count, *view = one.parts
    storage = ("persistent", "storage", Named("torch", kind), key, "cpu", count)
    self.save_call(Call("torch._utils", "_rebuild_tensor_v2", storage, *view, False, OrderedDict()))

  dispatch[Named], dispatch[Call], dispatch[Tensor] = save_named, save_call, save_tensor


def pickled(value):
  out = io.BytesIO()
  Writer(out, protocol=2).dump(value)
  return out.getvalue()


def contiguous(array, key):
  steps = tuple(np.array(array.strides) // array.itemsize)
  return Tensor(key, KINDS[array.dtype.str[1:]], array.size, 0, array.shape, tuple(map(int, steps)))


def tensors(arrays):
  return OrderedDict((name, contiguous(np.asarray(a), str(i))) for i, (name, a) in enumerate(arrays.items()))


def zipped(value, storages, *, compression=zipfile.ZIP_STORED, byteorder="little"):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled(value))
    archive.writestr("archive/byteorder", byteorder)
    for key, raw in storages.items():
      archive.writestr(f"archive/data/{key}", raw)
    archive.writestr("archive/version", "3\n")
  return out.getvalue()


def streamed(value, storages, *, keys=None, little=True):
  head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2}}]
  parts = [pickled(one) for one in (*head, value, list(storages) if keys is None else keys)]
  parts += [struct.pack("<q", count) + raw for count, raw in storages.values()]
  return b"".join(parts)


def raws(arrays):
  return {str(i): np.asarray(a).tobytes() for i, a in enumerate(arrays.values())}


def counted(arrays):
  return {str(i): (np.asarray(a).size, np.asarray(a).tobytes()) for i, a in enumerate(arrays.values())}


def read(tmp_path, data):
  (tmp_path / "x.pth").write_bytes(data)
  return read_torch(tmp_path / "x.pth")


BOTH = {
  "zip": zipped(tensors(ARRAYS), raws(ARRAYS)),
  "stream": streamed(tensors(ARRAYS), counted(ARRAYS)),
  "checkpoint": zipped({"epoch": 3, "state_dict": tensors(ARRAYS)}, raws(ARRAYS)),
}


@pytest.mark.parametrize("form", BOTH)
def test_tables_of_tensors(tmp_path, form):
  found = read(tmp_path, BOTH[form])
  assert list(found) == list(ARRAYS)
  for name, array in ARRAYS.items():
    assert found[name].dtype == np.asarray(array).dtype and found[name].shape == np.shape(array)
    np.testing.assert_array_equal(found[name], array)


def test_views_of_one_storage_and_bfloat16(tmp_path):
  base = np.arange(12, dtype=np.float32)
  bits = (np.float32([1.5, -2.0]).view(np.uint32) >> 16).astype(np.uint16)
  table = OrderedDict(
    transposed=Tensor("0", "FloatStorage", 12, 2, (3, 2), (1, 4)),
    empty=Tensor("0", "FloatStorage", 12, 0, (0, 3), (3, 1)),
    half=Tensor("1", "BFloat16Storage", 2, 0, (2,), (1,)),
    parameter=Call("torch._utils", "_rebuild_parameter", Tensor("0", "FloatStorage", 12, 11, (), ()), True, ()),
  )
  found = read(tmp_path, zipped(table, {"0": base.tobytes(), "1": bits.tobytes()}))
  np.testing.assert_array_equal(found["transposed"], base[2:10].reshape(2, 4)[:, :3].T)
  assert found["empty"].shape == (0, 3) and found["parameter"] == 11
  np.testing.assert_array_equal(found["half"], np.float32([1.5, -2.0]))


class Hostile:
  """What a plain unpickler would run."""

  def __reduce__(self):
    return os.mkdir, ("/tmp/jdistill_hostile_pickle",)


@pytest.mark.parametrize(
  "value, message",
  [
    (Hostile(), r"names posix.mkdir|names nt.mkdir"),
    (Call("builtins", "eval", "1"), "names builtins.eval, which is no tensor"),
    (Call("torch.nn", "Linear", 1), "names torch.nn.Linear"),
    (OrderedDict(a=Call("torch", "FloatStorage", 10**9)), "calls torch.FloatStorage in a way that makes no tensor"),
    (Call("torch._utils", "_rebuild_tensor_v2", 1, 2, 3, 4), "calls torch._utils._rebuild_tensor_v2"),
    (("persistent", "module", "x"), "points outside of itself"),
    ({"epoch": 3}, "holds no table of tensors by name"),
    ([1], "holds no table of tensors by name"),
    ({}, "holds no table of tensors by name"),
    (1.5 + 2j, "names"),
    ({frozenset([1]): 1}, "names|holds the instruction"),
  ],
)
def test_hostile_and_foreign_files_are_refused(tmp_path, value, message):
  for data in (zipped(value, {}), streamed(value, {})):
    with pytest.raises(UserError, match=message) as caught:
      read(tmp_path, data)
    assert "\n" not in str(caught.value) and "give a file of tensors alone" in str(caught.value)
  assert not os.path.exists("/tmp/jdistill_hostile_pickle")


def test_names_of_tensors_are_texts(tmp_path):
  with pytest.raises(UserError, match="holds no table of tensors by name"):
    read(tmp_path, zipped({1: Tensor("0", "FloatStorage", 2, 0, (2,), (1,))}, {"0": bytes(8)}))


def one(count, offset, shape, strides, kind="FloatStorage"):
  return OrderedDict(a=Tensor("0", kind, count, offset, shape, strides))


@pytest.mark.parametrize(
  "value",
  [
    one(4, 0, (5,), (1,)),  # more than there is
    one(4, 1, (4,), (1,)),
    one(4, 0, (2, 2), (3, 2)),
    one(4, 0, (1000, 1000), (0, 0)),  # one number a million times
    one(4, -1, (2,), (1,)),
    one(4, 0, (2,), (-1,)),
    one(4, 0, (2, 2), (1,)),
    one(5, 0, (2,), (1,)),  # another size than the file's
    OrderedDict(a=Tensor("0", "FloatStorage", 4, 0, (2,), (1,)), b=Tensor("0", "LongStorage", 2, 0, (2,), (1,))),
    OrderedDict(a=Tensor("9", "FloatStorage", 4, 0, (2,), (1,))),
  ],
)
def test_views_that_do_not_fit(tmp_path, value):
  with pytest.raises(UserError, match="is no whole file of PyTorch tensors"):
    read(tmp_path, zipped(value, {"0": np.arange(4, dtype=np.float32).tobytes()}))


def test_broken_bytes(tmp_path):
  whole, stream = BOTH["zip"], BOTH["stream"]
  at = whole.index(np.float32([3.0]).tobytes())
  table, own = tensors(ARRAYS), counted(ARRAYS)
  broken = [
    b"",
    b"PK\x03\x04",
    whole[:-40],
    whole[:at] + b"\x01" + whole[at + 1 :],  # a flipped bit of a tensor, which the CRC sees
    stream[:-1],
    stream + b"\0",
    stream[5:],
    streamed(table, own, keys=["0", "1"]),
    streamed(table, own | {"0": (5, own["0"][1])}),
    pickled(MAGIC),
  ]
  for data in broken:
    with pytest.raises(UserError, match="is no whole file of PyTorch tensors"):
      read(tmp_path, data)
  with pytest.raises(UserError, match="byte order"):
    read(tmp_path, zipped(table, raws(ARRAYS), byteorder="big"))
  with pytest.raises(UserError, match="byte order"):
    read(tmp_path, streamed(table, own, little=False))
  with pytest.raises(UserError, match="is compressed"):
    read(tmp_path, zipped(table, raws(ARRAYS), compression=zipfile.ZIP_DEFLATED))


def test_random_damage_ends_in_one_line(tmp_path):
  rng = np.random.default_rng(0)
  for form in ("zip", "stream"):
    for _ in range(150):
      data = bytearray(BOTH[form])
      for at in rng.integers(0, len(data), rng.integers(1, 4)):
        data[at] = rng.integers(256)
      try:
        read(tmp_path, bytes(data))
      except UserError as error:
        assert "\n" not in str(error)
