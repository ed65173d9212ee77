"""Invertible preprocessing of images: a kind and its arrays, fitted on the training images.

NumPy arrays are transformed with NumPy, JAX arrays and tracers with `jax.numpy` (jit-able and differentiable). The kind
is a Python string, so a `Preprocessing` goes into a jitted function by closure and not as an argument.
"""

import difflib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.data import zca

KINDS = ("none", "standardize", "channel", "zca")
_CHUNK = 1 << 20  # rows of channels that are float64 at one time


class Preprocessing(NamedTuple):
  """How pixels in [0, 1] become what networks see, and back; float32 NumPy.

  Attributes:
    kind: `"none"`, `"standardize"` (one mean and deviation over all pixels), `"channel"` (one of each per channel) or
      `"zca"` (`jdistill.data.zca`).
    mean: `[1]`, `[channels]` or `[D]`; `[0]` for `"none"`.
    scale: what centred pixels are multiplied by: `1 / deviation` (`[1]` or `[channels]`), or the factors of the
      whitening `[k + 1]`; `[0]` for `"none"`.
    inverse: `1 / scale`.
    vectors: `[D, k]`, the directions that the factors of the whitening belong to; `[0, 0]` for other kinds.
  """

  kind: str
  mean: np.ndarray
  scale: np.ndarray
  inverse: np.ndarray
  vectors: np.ndarray = np.zeros((0, 0), np.float32)

  @property
  def nbytes(self) -> int:
    """Bytes of the arrays: what must be stored beside images that live in this space."""
    return int(sum(array.nbytes for array in self[1:]))


def fit(kind: str, train_x: np.ndarray | jax.Array) -> Preprocessing:
  """Fits a preprocessing on the host.

  `"standardize"` and `"channel"` give `(x - mean) / std` with the population deviation (divided by n); `"zca"` whitens
  with `eps = 0.1` (for another value, `Preprocessing("zca", *zca.fit(x, eps))`).

  Args:
    kind: one of `KINDS`.
    train_x: `[n, height, width, channels]` pixels in [0, 1]; the training images only.

  Returns:
    The preprocessing.

  Raises:
    UserError: an unknown kind, or constant pixels, which have no deviation to divide by.
  """
  if kind == "none":
    return Preprocessing(kind, *(np.zeros((0,), np.float32) for _ in range(3)))
  if kind == "zca":
    return Preprocessing(kind, *zca.fit(train_x))
  if kind not in KINDS:
    raise _unknown(kind)
  mean, std = _moments(np.asarray(train_x), per_channel=kind == "channel")
  flat = std < 1e-6  # an 8-bit step is 4e-3: anything this small is rounding
  if flat.any():
    raise UserError(
      f"preprocessing={kind!r}: channel {int(np.argmax(flat))} is constant, so there is no deviation to divide"
      " by; use 'none'" + (" or 'standardize'" if kind == "channel" else "")
    )
  return Preprocessing(kind, mean.astype(np.float32), (1 / std).astype(np.float32), std.astype(np.float32))


def transform(pre: Preprocessing, x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  """Pixels in [0, 1] to the network's input space.

  Args:
    pre: the preprocessing.
    x: `[n, height, width, channels]` pixels.

  Returns:
    Same shape, same floating dtype (integers become float32), same library (NumPy or JAX).

  Raises:
    UserError: images of another shape than it was fitted on.
  """
  if pre.kind == "none":
    return x
  if pre.kind == "zca":
    return zca.apply(x, pre.mean, pre.scale, pre.vectors)
  x, mean, scale = _prepare(pre, x, pre.scale)
  return (x - mean) * scale


def invert(pre: Preprocessing, x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
  """The network's input space back to pixels, not clipped to [0, 1].

  Args:
    pre: the preprocessing.
    x: `[n, height, width, channels]`.

  Returns:
    Same shape, same floating dtype, same library.

  Raises:
    UserError: images of another shape than it was fitted on.
  """
  if pre.kind == "none":
    return x
  if pre.kind == "zca":
    return zca.invert(x, pre.mean, pre.inverse, pre.vectors)
  x, mean, scale = _prepare(pre, x, pre.inverse)
  return x * scale + mean


def pixel_range(pre: Preprocessing, image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """The least and the greatest value of every channel in network space, `[channels]` float32 each.

  Args:
    pre: the preprocessing.
    image_shape: `(height, width, channels)`.

  Raises:
    UserError: whitened pixels, which have no range.
  """
  if pre.kind == "zca":
    raise UserError("preprocessing='zca': whitened pixels have no range; use 'channel'")
  ends = (np.full((1, *image_shape), value, np.float32) for value in (0, 1))
  spaces = [np.asarray(transform(pre, end), np.float32) for end in ends]
  return spaces[0].min((0, 1, 2)), spaces[1].max((0, 1, 2))


def nbytes(pre: Preprocessing) -> int:
  """Bytes of the arrays of `pre`; the same as `pre.nbytes`."""
  return pre.nbytes


def to_arrays(pre: Preprocessing) -> dict[str, np.ndarray]:
  """A preprocessing as plain arrays for `np.savez`; the kind is a unicode scalar, so no pickle is needed."""
  return pre._asdict() | {"kind": np.array(pre.kind)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Preprocessing:
  """The inverse of `to_arrays`; takes any mapping that holds its keys, an opened `.npz` too.

  Raises:
    UserError: a key is missing, the kind is unknown, shapes do not fit the kind, or values that are not finite or, of
      `scale` and `inverse`, not above 0.
  """
  missing = [key for key in Preprocessing._fields if key not in arrays]
  if missing:
    raise UserError(f"preprocessing: the stored arrays miss {', '.join(missing)}; write the file again with to_arrays")
  kind = str(np.asarray(arrays["kind"]).reshape(-1)[0]) if np.size(arrays["kind"]) else ""
  if kind not in KINDS:
    raise _unknown(kind)
  try:
    mean, scale, inverse, vectors = (np.asarray(arrays[key], np.float32) for key in Preprocessing._fields[1:])
  except (TypeError, ValueError) as error:
    raise UserError(f"preprocessing={kind!r}: arrays that are not numbers; write the file again") from error
  directions = vectors.shape[-1] if vectors.ndim == 2 else 0
  wanted = {
    "none": ((0,), (0,), (0, 0)),
    "standardize": ((1,), (1,), (0, 0)),
    "channel": ((mean.size or 1,), (mean.size,), (0, 0)),
    "zca": ((mean.size or 1,), (directions + 1,), (mean.size, directions)),
  }[kind]
  if (mean.shape, scale.shape, vectors.shape) != wanted or inverse.shape != scale.shape:
    raise UserError(
      f"preprocessing={kind!r}: arrays of shape {mean.shape}, {scale.shape}, {inverse.shape}, {vectors.shape} do not "
      "fit it; write the file again with to_arrays"
    )
  for name, array in (("mean", mean), ("scale", scale), ("inverse", inverse), ("vectors", vectors)):
    if not np.isfinite(array).all() or (name in ("scale", "inverse") and (array <= 0).any()):
      raise UserError(f"preprocessing={kind!r}: {name} holds values that are not finite or not above 0; fit it again")
  return Preprocessing(kind, mean, scale, inverse, vectors)


def _unknown(kind: str) -> UserError:
  near = difflib.get_close_matches(str(kind), KINDS, n=1)
  guess = f"did you mean {near[0]!r}? " if near else ""
  return UserError(f"preprocessing={kind!r}: unknown; {guess}choose one of {', '.join(KINDS)}")


def _moments(x: np.ndarray, *, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
  """Mean and population deviation in float64, in two passes over small chunks: float64 copies of all do not fit."""
  columns = x.reshape(-1, x.shape[-1] if per_channel else 1)
  starts = range(0, len(columns), _CHUNK)
  mean = sum(columns[i : i + _CHUNK].sum(axis=0, dtype=np.float64) for i in starts) / len(columns)
  squares = sum(((columns[i : i + _CHUNK] - mean) ** 2).sum(axis=0) for i in starts)
  return mean, np.sqrt(squares / len(columns))


def _prepare(pre: Preprocessing, x: np.ndarray | jax.Array, scale: np.ndarray) -> tuple:
  xp = jnp if isinstance(x, jax.Array) else np
  x = xp.asarray(x)
  if len(pre.mean) not in (1, x.shape[-1]):
    raise UserError(
      f"preprocessing={pre.kind!r}: images have {x.shape[-1]} channels, but it was fitted on {len(pre.mean)}"
    )
  dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.float32
  shape = (1,) * (x.ndim - 1) + (-1,)
  return x.astype(dtype), xp.asarray(pre.mean, dtype).reshape(shape), xp.asarray(scale, dtype).reshape(shape)
