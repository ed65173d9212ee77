"""GGUF files written by hand, from the format's description alone."""

import struct

import numpy as np

KINDS = {
  "u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
  "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d"),
}  # fmt: skip


def text(value):
  raw = value if isinstance(value, bytes) else value.encode()
  return struct.pack("<Q", len(raw)) + raw


def value(kind, content):
  """A typed value: `("u32", 3)`, `("text", "x")`, or `("u32", [1, 2])` for an array."""
  if isinstance(content, list):
    one = [text(item) if kind == "text" else struct.pack(KINDS[kind][1], item) for item in content]
    return struct.pack("<IIQ", 9, 8 if kind == "text" else KINDS[kind][0], len(content)) + b"".join(one)
  if kind == "text":
    return struct.pack("<I", 8) + text(content)
  return struct.pack("<I" + KINDS[kind][1][1:], KINDS[kind][0], content)


def tensor(name, dims, kind, begin):
  """A row of the table; `dims` in ggml's order, innermost first."""
  return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, begin)


def f32(array):
  """`(dims, kind, bytes)` of a float32 array."""
  array = np.asarray(array, np.float32)
  return array.shape[::-1], 0, array.tobytes()


def gguf(metadata=(), tensors=(), *, version=3, alignment=32, counts=None, tail=b""):
  """A whole file. `metadata`: `(key, kind, content)`; `tensors`: `(name, dims, kind, bytes)`."""
  table, data = b"", b""
  for name, dims, kind, raw in tensors:
    data += b"\0" * (-len(data) % alignment)
    table += tensor(name, dims, kind, len(data))
    data += raw
  own = b"".join(text(key) + value(kind, content) for key, kind, content in metadata)
  head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata)))) + own + table
  return head + b"\0" * (-len(head) % alignment) + data + tail
