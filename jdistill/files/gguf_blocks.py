"""The types of numbers in GGUF files, and what their blocks stand for, to the bit as ggml computes it.

A quantised tensor is a row of blocks of 32 values: a scale and, for some types, a minimum as float16, and the values as
small integers. The sixteen bytes of a block of four bits hold values 0 to 15 in their lower halves and 16 to 31 in
their upper ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdistill.files.safetensors_file import bfloat16_to_float32

BLOCK = 32  # values that share a scale
_HALF = BLOCK // 2


class BlockType(NamedTuple):
  """A type that is read.

  Attributes:
    name: ggml's.
    values, nbytes: of one block.
    decode: `uint8 [blocks, nbytes] -> float32 [blocks, values]`.
  """

  name: str
  values: int
  nbytes: int
  decode: Callable[[np.ndarray], np.ndarray]


def _float32(raw: np.ndarray) -> np.ndarray:
  return raw.view("<f4").astype(np.float32)


def _float16(raw: np.ndarray) -> np.ndarray:
  return raw.view("<f2").astype(np.float32)


def _bfloat16(raw: np.ndarray) -> np.ndarray:
  return bfloat16_to_float32(raw.view("<u2"))


def _number(raw: np.ndarray, at: int) -> np.ndarray:
  """The float16 at byte `at` of every block, `[blocks, 1]`."""
  return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
  """`[blocks, 16]` bytes as `[blocks, 32]` values from 0 to 15."""
  return np.concatenate([raw & 0x0F, raw >> 4], axis=1).astype(np.float32)


def _q4_0(raw: np.ndarray) -> np.ndarray:
  return (_nibbles(raw[:, 2:]) - np.float32(8)) * _number(raw, 0)


def _q4_1(raw: np.ndarray) -> np.ndarray:
  return _nibbles(raw[:, 4:]) * _number(raw, 0) + _number(raw, 2)


def _q8_0(raw: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(raw[:, 2:]).view(np.int8).astype(np.float32) * _number(raw, 0)


TYPES = {
  0: BlockType("F32", 1, 4, _float32),
  1: BlockType("F16", 1, 2, _float16),
  2: BlockType("Q4_0", BLOCK, 2 + _HALF, _q4_0),
  3: BlockType("Q4_1", BLOCK, 4 + _HALF, _q4_1),
  8: BlockType("Q8_0", BLOCK, 2 + BLOCK, _q8_0),
  30: BlockType("BF16", 1, 2, _bfloat16),
}

# known by name and not read
OTHER_TYPES = {
  6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
  16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
  24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def dequantised(kind: BlockType, raw: bytes | memoryview, shape: tuple[int, ...]) -> np.ndarray:
  """The float32 values of a tensor.

  Args:
    kind: of `TYPES`.
    raw: all its blocks.
    shape: with the axis along which blocks lie last; `kind.values` divides it.

  Returns:
    `[*shape]`, a copy that may be written to.
  """
  blocks = np.frombuffer(raw, np.uint8).reshape(-1, kind.nbytes)
  return kind.decode(blocks).reshape(shape)
