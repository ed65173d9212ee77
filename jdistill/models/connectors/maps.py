"""Connectors between feature maps: the regressor of hints, and the fusion of knowledge review."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Connector, Outputs, UserError
from jdistill.models.connectors.base import connector
from jdistill.models.connectors.taps import read_tap, tap_pairs
from jdistill.models.layers import Conv, Dense, Norm, Recorder, drawn_later
from jdistill.ops import conv2d, relu
from jdistill.ops.precision import widen


class _Doubled(nn.Module):
  """A transposed 4x4 convolution with stride 2: `[n, h, w, i] -> [n, 2h, 2w, features]`, without a bias."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", drawn_later, (4, 4, x.shape[-1], self.features))
    spread = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 0, 0)])  # zeros in between
    return conv2d(spread, kernel, padding=((0, 0), (0, 0)))


class _Regressor(nn.Module):
  """From the student's tap to the shape of the teacher's: one linear layer, batch norm and, if asked for, ReLU.

  Attributes:
    shape: of the teacher's tap, without the batch.
    clips: whether the ReLU is there.
  """

  shape: tuple[int, ...]
  clips: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    features = self.shape[-1]
    if x.ndim == 4:
      side, target = x.shape[1], self.shape[0]
      if side == 2 * target:
        layer = Conv(features, 3, 1, 2, use_bias=False, name="regressor")
      elif 2 * side == target:
        layer = _Doubled(features, name="regressor")
      else:
        layer = Conv(features, 1 + side - target, 0, use_bias=False, name="regressor")
      x = layer(x)
    else:  # vectors, or tokens one by one
      x = Dense(features, name="regressor")(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)
    x = Norm("batch", name="norm")(x, train=train, record=record)
    return relu(x) if self.clips else x


def hint_regressor(tap: str = "block2", *, clips: bool = True) -> Connector:
  """The student's tap in the shape of the teacher's, for FitNets' hint.

  Maps `[B, H_s, W_s, C_s] -> [B, H_t, W_t, C_t]`: a 3x3 convolution with stride 2 where the student's map is twice as
  large, a transposed 4x4 one with stride 2 where it is half as large, else one without padding of size
  `1 + H_s - H_t` (1x1 for equal sizes); then batch norm and ReLU. Vectors and tokens `[B, ..., D_s]` go through a dense
  layer instead.

  Args:
    tap: a name for both networks, or `"STUDENT:TEACHER"`.
    clips: ends in the ReLU; without it the negative values of taps before an activation can be met, too.

  Raises:
    UserError: at trace time, for a tap that does not exist (the others are listed), or shapes that no regressor joins.

  References:
    Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550); the regressor is that of RepDistiller and
    mdistiller, without the bias that the norm takes out.
  """
  own, _, other = tap.partition(":")

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    target = read_tap(teachers[0], other or own, "teacher").shape
    _check_regression(tap, read_tap(student, own).shape, target)
    return _Regressor(target[1:], clips)

  return connector(make, lambda student, teachers: widen(read_tap(student, own)))


def _check_regression(tap: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
  one = f"tap={tap!r}: the student's {student[1:]} and the teacher's {teacher[1:]}"
  if len(student) != len(teacher):
    raise UserError(f"{one} are a map and a vector; choose taps of one kind")
  if len(student) == 4:
    sides = list(zip(student[1:3], teacher[1:3], strict=True))
    shrinks = len({s - t for s, t in sides}) == 1 and sides[0][0] >= sides[0][1]
    if not shrinks and any(s != 2 * t for s, t in sides) and any(2 * s != t for s, t in sides):
      raise UserError(f"{one} have sizes that no regressor joins; choose taps of one size, or with a factor of two")
  elif student[1:-1] != teacher[1:-1]:
    raise UserError(f"{one} differ in the number of tokens; choose taps with equally many")


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """`[n, h, w, c] -> [n, *size, c]` where place `i` takes place `floor(i h / size)`.

  Args:
    x: the map.
    size: height and width of the result.
  """
  for axis, new in zip((1, 2), size, strict=True):
    old = x.shape[axis]
    if new == old:
      continue
    if new % old == 0:
      x = jnp.repeat(x, new // old, axis=axis)
    else:
      x = jnp.take(x, np.arange(new) * old // new, axis=axis)
  return x


class _Fusion(nn.Module):
  """Knowledge review: from the deepest level up, each level takes in what was fused so far and predicts the teacher's.

  Attributes:
    shapes: `(height, width, channels)` of the teacher's levels, the shallowest first.
    middle: channels in which levels are fused.
  """

  shapes: tuple[tuple[int, int, int], ...]
  middle: int

  @nn.compact
  def __call__(self, levels: tuple[jax.Array, ...], *, train: bool, record: Recorder) -> tuple[jax.Array, ...]:
    def conv_norm(x: jax.Array, features: int, size: int, name: str) -> jax.Array:
      x = Conv(features, size, size // 2, use_bias=False, name=name)(x)
      return Norm("batch", name=f"{name}_norm")(x, train=train, record=record)

    fused, out = None, []
    for number in reversed(range(len(levels))):
      height, width, channels = self.shapes[number]
      x = conv_norm(levels[number], self.middle, 1, f"reduce{number}")
      if fused is not None:
        deeper = resize_nearest(fused, x.shape[1:3])
        both = jnp.concatenate([x, deeper], axis=-1)
        shares = jax.nn.sigmoid(Conv(2, 1, 0, name=f"attention{number}")(both))  # [n, h, w, 2]
        x = x * shares[..., :1] + deeper * shares[..., 1:]
      fused = resize_nearest(x, (height, width))
      out.append(conv_norm(fused, channels, 3, f"predict{number}"))
    return tuple(reversed(out))


def as_map(x: jax.Array) -> jax.Array:
  """A vector `[B, D]` as a map of one place `[B, 1, 1, D]`; maps as they are."""
  return x.reshape(x.shape[0], 1, 1, -1) if x.ndim == 2 else x


def review_levels(student: Outputs, teacher: Outputs, taps: str) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
  """The maps that knowledge review compares: those of `taps`, and the embeddings as maps of one place.

  Args:
    student, teacher: outputs of both.
    taps: see `tap_pairs`.

  Returns:
    `(the student's levels, the teacher's)`, the shallowest first, `[B, H, W, C]` each.

  Raises:
    UserError: a tap does not exist, or is neither a map nor a vector.
  """
  pairs = tap_pairs(student, teacher, taps)
  for pair in pairs:
    for x in (pair.student, pair.teacher):
      if x.ndim not in (2, 4):
        raise UserError(f"taps: {pair.name} has the shape {x.shape[1:]}; knowledge review needs maps or vectors")
  students = [pair.student for pair in pairs] + [student.embedding]
  teachers = [pair.teacher for pair in pairs] + [teacher.embedding]
  return tuple(as_map(widen(x)) for x in students), tuple(as_map(x) for x in teachers)


def review_fusion(taps: str = "stages", *, middle: int = 512) -> Connector:
  """ReviewKD's attention-based fusion over all levels; its value are predictions in the shapes of the teacher's levels.

  From the deepest level (the embedding, as a map of one place) to the shallowest: a 1x1 convolution and batch norm to
  `min(middle, width of the student's embedding)` channels; the map fused so far is enlarged to this size (nearest), two
  sigmoid weights per place come from both by a 1x1 convolution, and the weighted sum is the fused map that is passed
  on, in the size of the teacher's level. A 3x3 convolution and batch norm of it predict the teacher's level.

  Args:
    taps: which levels beside the embedding; see `tap_pairs`.
    middle: the most channels in which levels are fused.

  Returns:
    The `Connector`; its value is a tuple `[B, H_t, W_t, C_t]` in the order of `review_levels`.

  Raises:
    UserError: at trace time, see `review_levels`.

  References:
    Chen et al., "Distilling Knowledge via Knowledge Review" (arXiv 2104.09044), sec. 3.2, as in the released code.
  """

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    _, targets = review_levels(student, teachers[0], taps)
    return _Fusion(tuple(x.shape[1:] for x in targets), min(middle, student.embedding.shape[-1]))

  return connector(make, lambda student, teachers: review_levels(student, teachers[0], taps)[0])
