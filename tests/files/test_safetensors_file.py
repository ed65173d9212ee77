"""Safetensors files made by hand: all types, and every kind of a broken header."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.files import read_safetensors, write_safetensors

ARRAYS = {
  "b": ("F32", np.float32([[1.5, -2.0, 3.25]])),
  "a": ("I64", np.int64([7, -8])),
  "none": ("F16", np.zeros((0, 3), np.float16)),
  "one": ("F64", np.float64(0.1)),
  "half": ("F16", np.float16([0.5, 65504])),
  "flags": ("BOOL", np.bool_([True, False, True])),
  "bytes": ("U8", np.uint8([0, 255])),
}


def encoded(header, raw, claimed=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text) if claimed is None else claimed) + text + raw


def content(arrays=ARRAYS, **changes):
  header, raw = {"__metadata__": {"format": "pt"}}, b""
  for name, (dtype, array) in arrays.items():
    own = array.tobytes()
    header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(raw), len(raw) + len(own)]}
    raw += own
  for name, change in changes.items():
    header[name] |= change
  return encoded(header, raw)


def read(tmp_path, data):
  (tmp_path / "x.safetensors").write_bytes(data)
  return read_safetensors(tmp_path / "x.safetensors")


def test_all_types(tmp_path):
  found = read(tmp_path, content())
  assert found.keys() == ARRAYS.keys()
  for name, (_, array) in ARRAYS.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape and found[name].flags.writeable
    np.testing.assert_array_equal(found[name], array)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
  values = np.float32([1.0, -2.5, 3.0e38, 0.0078125, np.inf])
  bits = (values.view(np.uint32) >> 16).astype(np.uint16)
  found = read(tmp_path, content({"x": ("BF16", bits)}))["x"]
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, (bits.astype(np.uint32) << 16).view(np.float32))
  np.testing.assert_allclose(found, values, rtol=2**-8)


def test_the_package_reads_the_same(tmp_path):
  package = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
  (tmp_path / "x.safetensors").write_bytes(content())
  theirs = package.load_file(tmp_path / "x.safetensors")
  for name, array in read_safetensors(tmp_path / "x.safetensors").items():
    np.testing.assert_array_equal(array, theirs[name])


GAP = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}
LEFT = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}
OVER = LEFT | {"b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}


@pytest.mark.parametrize(
  "data, message",
  [
    (b"", "it has 0 bytes"),
    (b"\x05\0\0", "it has 3 bytes"),
    (encoded({}, b"", claimed=10**9), "its header claims 1000000000 bytes"),
    (encoded({}, b"", claimed=2**63), "its header claims"),
    (encoded(b"[1]", b""), "its header is no JSON object"),
    (encoded(b"{nonsense}", b""), "Expecting property name"),
    (encoded(b'{"a": 1, "a": 2}', b""), "names something twice"),
    (encoded(b'{"\xff": 1}', b""), "codec can't decode"),
    (encoded(b'{"a":' + b"[" * 100_000, b""), "."),
    (encoded({"a": 3}, b""), "has not dtype, shape and data_offsets"),
    (encoded({"a": LEFT["a"] | {"more": 1}}, b"12"), "has not dtype, shape and data_offsets"),
    (content(a={"dtype": "F8_E4M3"}), "'a' has the unknown type 'F8_E4M3'"),
    (content(a={"dtype": ["F32"]}), "'a' has the unknown type"),
    (content(a={"shape": [3]}), r"'a' of shape \[3\] and type I64 does not take the bytes"),
    (content(a={"shape": [-2]}), "'a' has a shape or offsets that are no whole numbers"),
    (content(a={"shape": [2.0]}), "'a' has a shape or offsets that are no whole numbers"),
    (content(a={"shape": [True, 2]}), "'a' has a shape or offsets that are no whole numbers"),
    (content(a={"data_offsets": [12]}), "'a' of shape"),
    (encoded(GAP, b"123"), "'a' begins at byte 1, and what comes before it ends at 0"),
    (encoded(OVER, b"123"), "'b' begins at byte 1, and what comes before it ends at 2"),
    (encoded(LEFT, b"123"), "1 bytes follow the last array"),
    (encoded(LEFT, b"1"), "'a' ends at byte 2 of 1"),
  ],
)
def test_files_that_are_not_whole(tmp_path, data, message):
  with pytest.raises(UserError, match=message) as caught:
    read(tmp_path, data)
  assert "x.safetensors: is no whole .safetensors file (" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"missing\.safetensors"):
    read_safetensors(tmp_path / "missing.safetensors")


def test_what_is_written_is_read(tmp_path):
  path = tmp_path / "room" / "x.safetensors"
  arrays = {name: array for name, (_, array) in ARRAYS.items()} | {"turned": np.float32([[1, 2], [3, 4]]).T}
  write_safetensors(path, arrays, metadata={"format": "pt"})
  found = read_safetensors(path)
  assert list(found) == list(arrays)
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  header = path.read_bytes()
  (length,) = struct.unpack("<Q", header[:8])
  assert length % 8 == 0 and json.loads(header[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_bfloat16_is_written_as_such(tmp_path):
  values = np.array([1.0, -2.5, 0.0078125], ml_dtypes.bfloat16)
  write_safetensors(tmp_path / "x.safetensors", {"x": values})
  assert b'"BF16"' in (tmp_path / "x.safetensors").read_bytes()
  np.testing.assert_array_equal(read_safetensors(tmp_path / "x.safetensors")["x"], np.float32([1.0, -2.5, 0.0078125]))


@pytest.mark.parametrize("name, array", [("x", np.array(["text"])), ("x", np.complex64([1])), ("__metadata__", LEFT)])
def test_what_the_format_has_not_is_not_written(tmp_path, name, array):
  with pytest.raises(ValueError, match=f"'{name}' of type"):
    write_safetensors(tmp_path / "x.safetensors", {name: np.asarray(array)})
  assert not (tmp_path / "x.safetensors").exists()
