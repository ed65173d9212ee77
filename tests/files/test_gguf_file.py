"""GGUF files made by hand: all types with literal numbers, and every kind of a broken file."""

import struct
import tracemalloc

import gguf_bytes as make
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.files import gguf_blocks, read_gguf


def read(tmp_path, data, **options):
  (tmp_path / "x.gguf").write_bytes(data)
  return read_gguf(tmp_path / "x.gguf", **options)


def half(number):
  return np.float16(number).tobytes()


NIBBLES = bytes(low | (15 - low) << 4 for low in range(16))  # values 0..15, then 15..0
RAMP = np.float32([*range(16), *range(15, -1, -1)])


def test_metadata_of_all_types(tmp_path):
  entries = [
    ("a", "u8", 255), ("b", "i8", -128), ("c", "u16", 65535), ("d", "i16", -2), ("e", "u32", 2**32 - 1),
    ("f", "i32", -(2**31)), ("g", "f32", 0.5), ("h", "bool", True), ("i", "u64", 2**64 - 1), ("j", "i64", -(2**63)),
    ("k", "f64", 0.1), ("l", "text", "naïve 日本"), ("m", "text", ["Ġ t", "", "x"]), ("n", "i32", [3, -4]),
    ("o", "bool", [True, False]), ("p", "f64", []),
  ]  # fmt: skip
  found = read(tmp_path, make.gguf(entries)).metadata
  assert list(found) == [key for key, _, _ in entries]
  for key, _, content in entries:
    own = found[key].tolist() if isinstance(found[key], np.ndarray) else found[key]
    assert own == content and type(own) is type(content), key
  assert found["n"].dtype == np.int32 and found["o"].dtype == bool


def test_plain_types_and_the_order_of_axes(tmp_path):
  array = np.float32([[1, -2, 3], [0.5, 65504, -0.25]])
  bits = (array.view(np.uint32) >> 16).astype("<u2")
  tensors = [
    ("single", *make.f32(array)),
    ("half", (3, 2), 1, array.astype("<f2").tobytes()),
    ("brain", (3, 2), 30, bits.tobytes()),
    ("row", (3,), 0, array[0].tobytes()),
    ("four", (3, 1, 2, 1), 0, array.tobytes()),
  ]
  found = read(tmp_path, make.gguf(tensors=tensors))
  np.testing.assert_array_equal(found.arrays["single"], array)
  np.testing.assert_array_equal(found.arrays["half"], array)
  np.testing.assert_array_equal(found.arrays["brain"], np.float32([[1, -2, 3], [0.5, 65280, -0.25]]))
  assert found.arrays["row"].shape == (3,) and found.arrays["four"].shape == (1, 2, 1, 3)
  assert found.types == {"single": "F32", "half": "F16", "brain": "BF16", "row": "F32", "four": "F32"}
  assert all(one.dtype == np.float32 and one.flags.writeable for one in found.arrays.values())


def test_blocks_of_four_and_eight_bits(tmp_path):
  """Two rows of one block each, with scales and minima that float16 holds; 16 low halves come before 16 high ones."""
  four = half(0.5) + NIBBLES + half(-2) + NIBBLES
  four_one = half(0.5) + half(-3) + NIBBLES + half(0.25) + half(8) + NIBBLES
  eight = half(0.125) + np.arange(-16, 16, dtype=np.int8).tobytes() + half(2) + np.int8([-128, 127] * 16).tobytes()
  tensors = [("q4_0", (32, 2), 2, four), ("q4_1", (32, 2), 3, four_one), ("q8_0", (32, 2), 8, eight)]
  found = read(tmp_path, make.gguf(tensors=tensors)).arrays
  np.testing.assert_array_equal(found["q4_0"], np.stack([(RAMP - 8) / 2, (RAMP - 8) * -2]))
  np.testing.assert_array_equal(found["q4_1"], np.stack([RAMP / 2 - 3, RAMP / 4 + 8]))
  np.testing.assert_array_equal(found["q8_0"], np.stack([np.arange(-16, 16) / 8, np.tile([-256.0, 254.0], 16)]))
  assert found["q4_0"][0, :3].tolist() == [-4.0, -3.5, -3.0] and found["q4_0"][0, 16:18].tolist() == [3.5, 3.0]


def test_products_are_rounded_to_float32(tmp_path):
  """ggml multiplies float32 by float32: 0.1 as float16 is 0.0999755859375, exactly, and so is seven times it."""
  found = read(tmp_path, make.gguf(tensors=[("q", (32,), 3, half(0.1) + half(0.3) + NIBBLES)])).arrays["q"]
  assert found[7] == np.float32(np.float32(0.0999755859375) * np.float32(7)) + np.float32(0.300048828125)


def test_another_alignment_and_version_2(tmp_path):
  entries, array = [("general.alignment", "u32", 128)], np.float32([1, 2, 3])
  data = make.gguf(entries, [("a", *make.f32(array)), ("b", *make.f32(-array))], alignment=128, version=2)
  found = read(tmp_path, data + b"\0" * 100).arrays  # the last tensor may be filled up
  np.testing.assert_array_equal(found["b"], -array)
  assert read(tmp_path, data, arrays=False).arrays == {}


ONE = [("a", *make.f32([1, 2, 3]))]
WHOLE = make.gguf([("key", "text", "word")], ONE)
HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
TABLE = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)


def with_row(row, nbytes=64, tensors=1):
  """A file of a table given as bytes."""
  head = b"GGUF" + struct.pack("<IQQ", 3, tensors, 0) + row
  return head + b"\0" * (-len(head) % 32 + nbytes)


A, B = make.tensor("a", (8,), 0, 0), make.tensor("b", (8,), 0, 32)
BROKEN = [
  (b"", "its header takes 4 bytes at byte 0, and 0 are left"),
  (b"GGUF\x03", "its header takes 4 bytes at byte 4, and 1 are left"),
  (b"PK\x03\x04" * 10, "it does not begin with GGUF"),
  (WHOLE[:-1], "'a' ends at byte 12 of the tensors, and they have 11"),
  (WHOLE[:70], "bytes"),
  (WHOLE + b"\0" * 21, "1 bytes follow the last tensor"),
  (make.gguf(tail=b"x" * 40), "40 bytes follow the last tensor"),
  (make.gguf(counts=(10**12, 0)), "its header claims 1000000000000 tensors, and the file has 32 bytes"),
  (make.gguf(counts=(0, 2**64 - 1)), "its header claims 18446744073709551615 metadata entries"),
  (make.gguf(tensors=ONE, counts=(2, 0)), "."),
  (HEAD + make.text("k") + struct.pack("<IQ", 8, 2**63), "'k' takes 9223372036854775808 bytes"),
  (HEAD + struct.pack("<Q", 10**15) + b"x" * 40, "the name of metadata entry 0 has 1000000000000000 bytes"),
  (HEAD + make.text("k") + struct.pack("<IIQ", 9, 8, 10**12), "'k' claims 1000000000000 texts"),
  (HEAD + make.text("k") + struct.pack("<IIQ", 9, 6, 2**62), "'k' takes 18446744073709551616 bytes"),
  (HEAD + make.text("k") + struct.pack("<IIQ", 9, 9, 1), "'k' is an array of the unknown type 9"),
  (HEAD + make.text("k") + struct.pack("<IQ", 13, 1), "'k' has a value of the unknown type 13"),
  (HEAD + make.text("k") + struct.pack("<IB", 7, 2) + b"\0" * 8, "'k' is neither true nor false"),
  (HEAD + make.text("k") + struct.pack("<I", 8) + make.text(b"\xff\xfe"), "'k' is not UTF-8"),
  (HEAD + make.text(b"\xff\n") + struct.pack("<IQ", 10, 1), "the name of metadata entry 0 is not UTF-8"),
  (make.gguf([("k", "u8", 1), ("k", "u8", 2)]), "its metadata name 'k' twice"),
  (make.gguf([("general.alignment", "u32", 0)]), "'general.alignment' is 0"),
  (make.gguf([("general.alignment", "u32", 48)]), "'general.alignment' is 48"),
  (make.gguf([("general.alignment", "u32", 2**31)]), "'general.alignment' is 2147483648"),
  (make.gguf([("general.alignment", "text", "32" * 99)]), "'general.alignment' is 3232323232"),
  (with_row(make.tensor("a", (10**12, 10**12), 0, 0)), "'a' ends at byte 4000000000000000000000000 of the tensors"),
  (with_row(make.tensor("a", (2**64 - 1,) * 4, 0, 0)), "'a' ends at byte"),
  (with_row(make.tensor("a", (0, 8), 0, 0)), r"'a' has the shape \[8, 0\]"),
  (with_row(make.tensor("a", (), 0, 0)), "'a' has 0 axes, and 1 to 4 are allowed"),
  (with_row(make.tensor("a", (1,) * 5, 0, 0)), "'a' has 5 axes"),
  (with_row(make.tensor("a", (8,), 0, 2**64 - 8)), "'a' begins at byte 18446744073709551608 of the tensors, and 0 is"),
  (with_row(make.tensor("a", (8,), 0, 32)), "'a' begins at byte 32 of the tensors, and 0 is due"),
  (with_row(make.tensor("a", (31, 2), 8, 0)), "'a' has rows of 31 values, and blocks of Q8_0 have 32"),
  (with_row(make.tensor("n" * 65, (8,), 0, 0)), "the name of tensor 0 has 65 bytes, and 64 are the most"),
  (with_row(A + A, tensors=2), "its table names 'a' twice"),
  (with_row(A + make.tensor("b", (8,), 0, 16), tensors=2), "'b' begins at byte 16 of the tensors, and 32 is due"),
  (with_row(A + make.tensor("b", (8,), 0, 0), tensors=2), "'b' begins at byte 0 of the tensors, and 32 is due"),
  (with_row(A + B, nbytes=63, tensors=2), "'b' ends at byte 64 of the tensors, and they have 63"),
]


@pytest.mark.parametrize("data, message", BROKEN)
def test_files_that_are_not_whole(tmp_path, data, message):
  with pytest.raises(UserError, match=message) as caught:
    read(tmp_path, data)
  assert "x.gguf: is no whole .gguf file (" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "data, message",
  [
    (with_row(make.tensor("a", (256,), 12, 0)), "'a' is of type Q4_K, and F32, F16, Q4_0, Q4_1, Q8_0, BF16 are read"),
    (with_row(make.tensor("a", (256,), 39, 0)), "'a' is of type MXFP4"),
    (with_row(make.tensor("a", (256,), 4, 0)), "'a' is of type number 4"),
    (make.gguf(version=1), r"is a .gguf file of version 1, and \(2, 3\) are read"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its numbers are big-endian"),
  ],
)
def test_whole_files_that_are_not_read(tmp_path, data, message):
  with pytest.raises(UserError, match=message) as caught:
    read(tmp_path, data)
  assert str(caught.value).startswith(str(tmp_path / "x.gguf")) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"missing\.gguf does not exist"):
    read_gguf(tmp_path / "missing.gguf")


def test_damaged_bytes_give_one_line_and_little_memory(tmp_path):
  """Any byte of header and tables changed, and the file cut anywhere: it is read or refused, and nothing else."""
  entries = [("general.alignment", "u32", 32), ("tokens", "text", ["a", "b"]), ("scores", "f32", [1.0, 2.0])]
  tensors = [("a", *make.f32(np.ones((2, 3)))), ("b", (32, 1), 3, b"\1" * 20)]
  whole = make.gguf(entries, tensors)
  rng = np.random.default_rng(0)
  refused, peak = 0, 0
  damaged = [whole[:end] for end in range(0, len(whole), 7)]
  for at in range(len(whole) - 52):
    for new in (0, 255, int(rng.integers(256))):
      damaged.append(whole[:at] + bytes([new]) + whole[at + 1 :])
  for data in damaged:
    tracemalloc.start()
    try:
      read(tmp_path, data)
    except UserError as error:
      refused += 1
      assert "\n" not in str(error)
    peak = max(peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  assert refused > 300
  assert peak < 1e6


def test_the_types_have_ggmls_sizes():
  """Bytes of a block in ggml-common.h: 2 + 16, 2 + 2 + 16, 2 + 32."""
  sizes = {one.name: (one.values, one.nbytes) for one in gguf_blocks.TYPES.values()}
  assert sizes["Q4_0"] == (32, 18) and sizes["Q4_1"] == (32, 20) and sizes["Q8_0"] == (32, 34)
  assert not gguf_blocks.TYPES.keys() & gguf_blocks.OTHER_TYPES.keys()
