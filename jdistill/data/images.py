"""Encoded images to arrays of one shape, with Pillow."""

import contextlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jdistill.base import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode by number of channels
GREY = ("1", "L", "LA")  # eight-bit modes without colour
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # its values that exchange width and height


def decode(source: bytes | Path, channels: int, name: str) -> np.ndarray:
  """Decodes one image, turned as its EXIF orientation says.

  Args:
    source: the encoded bytes, or a file.
    channels: 1 (grey), 3 (colour; transparency is dropped) or 4.
    name: how messages call the image.

  Returns:
    `[height, width, channels]` uint8.

  Raises:
    UserError: Pillow cannot decode it.
  """
  from PIL import ImageOps

  with _opened(io.BytesIO(source) if isinstance(source, bytes) else source, name) as image:
    pixels = np.asarray(ImageOps.exif_transpose(image).convert(MODES[channels]))
  return pixels.reshape(*pixels.shape[:2], channels)


def header(path: Path) -> tuple[tuple[int, int], str]:
  """Reads `(width, height)`, as it is to be seen, and Pillow's mode of a file without decoding its pixels.

  Raises:
    UserError: not an image, or one of several frames or with more than eight bits per channel.
  """
  with _opened(path, str(path)) as image:
    size, mode = image.size, image.mode
    if image.getexif().get(_ORIENTATION, 1) in _TURNED:
      size = size[::-1]
    frames = getattr(image, "n_frames", 1)
  if frames > 1:
    raise UserError(f"{path}: has {frames} frames; save each as a file of its own, or the one that you want")
  if mode.startswith(("I", "F")):
    raise UserError(f"{path}: has more than 8 bits per channel (mode {mode}); convert it to 8 bits")
  return size, mode


@contextlib.contextmanager
def _opened(source: BinaryIO | Path, name: str) -> Iterator[Any]:
  """An image as Pillow opens it; what Pillow raises inside the `with` block becomes one line."""
  from PIL import Image

  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      with Image.open(source) as image:
        yield image
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise UserError(f"{name}: {_line(error)}; make it smaller, or remove it") from error
  except (OSError, SyntaxError, ValueError, MemoryError, LookupError, TypeError, struct.error) as error:
    raise UserError(f"{name}: cannot be read as an image ({_line(error)}); replace or remove it") from error


def stack(decode_one: Callable[[int], np.ndarray], indices: np.ndarray, name_of: Callable[[int], str]) -> np.ndarray:
  """Decodes many images into one array.

  Args:
    decode_one: `(index) -> [height, width, channels]`.
    indices: which images.
    name_of: `(index) -> str`, how messages call an image.

  Returns:
    `[len(indices), height, width, channels]` uint8.

  Raises:
    UserError: two images differ in size.
  """
  out = np.empty((0,), np.uint8)
  for row, index in enumerate(indices.tolist()):
    pixels = decode_one(index)
    if row == 0:
      out = np.empty((len(indices), *pixels.shape), np.uint8)
    elif pixels.shape != out.shape[1:]:
      require_one_size(out.shape[2:0:-1], name_of(int(indices[0])), pixels.shape[1::-1], name_of(index))
    out[row] = pixels
  return out


def require_one_size(first: tuple[int, ...], first_name: str, other: tuple[int, ...], other_name: str) -> None:
  """Refuses two different sizes `(width, height)`.

  Raises:
    UserError: naming both images and both sizes.
  """
  if tuple(first) != tuple(other):
    raise UserError(
      f"images differ in size: {first_name} is {first[0]}x{first[1]} but {other_name} is {other[0]}x{other[1]};"
      " resize all images to one width and height"
    )


def _line(error: Exception) -> str:
  return str(error).splitlines()[0] if str(error) else type(error).__name__
