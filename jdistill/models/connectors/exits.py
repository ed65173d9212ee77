"""Early exits: what a stage of the student would say of the classes, so that unlike networks meet in logits alone."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Connector, Outputs, UserError
from jdistill.models.connectors.base import connector
from jdistill.models.connectors.taps import read_tap
from jdistill.models.layers import Conv, Dense, Norm, Recorder
from jdistill.models.transformer_layers import LayerNorm, block, dense
from jdistill.ops import relu
from jdistill.ops.precision import widen

STAGES = 4  # of the paper's networks


class ConvExit(nn.Module):
  """An exit of a map `[n, h, w, c]`: separable blocks that halve it, global mean, dense layer.

  A block is twice [3x3 depthwise convolution, 1x1 convolution, batch norm, ReLU], with stride 2 in the first half; its
  last 1x1 convolution doubles the channels, and in the last block goes to `width`. Without blocks there is one 1x1
  convolution to `width`.

  Attributes:
    num_classes: length of the logits.
    blocks: as many as there are stages behind this one.
    width: what the dense layer reads.
  """

  num_classes: int
  blocks: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    if x.ndim != 4:
      raise UserError(f"exit: a convolutional exit reads maps [n, h, w, channels], not a tap of shape {x.shape}")
    if not self.blocks:
      x = Conv(self.width, 1, 0, name="conv")(x)
    for i in range(self.blocks):
      channels = x.shape[-1]
      last = self.width if i == self.blocks - 1 else 2 * channels
      for half, (stride, features) in enumerate(((2, channels), (1, last))):
        prefix = f"block{i}_{half}_"
        x = Conv(channels, 3, 1, stride, use_bias=False, groups=channels, name=f"{prefix}depthwise")(x)
        x = Conv(features, 1, 0, use_bias=False, name=f"{prefix}pointwise")(x)
        x = relu(Norm("batch", name=f"{prefix}norm")(x, train=train, record=record))
    return Dense(self.num_classes, name="head")(jnp.mean(x, (1, 2)))


class TokenExit(nn.Module):
  """An exit of tokens `[n, tokens, d]`: merging down to a small grid, transformer blocks, one vector, dense layer.

  While the grid of tokens is larger than `grid`, squares of 2x2 tokens become one: concatenation, layer norm, dense
  layer to `width`, GELU. Then come `max(blocks, 1)` pre-norm transformer blocks. The dense layer reads the class token
  where there is one (one token more than a square number), else the mean of all tokens.

  Attributes:
    num_classes: length of the logits.
    blocks: as many as there are stages behind this one.
    width: length of a token in the exit, a multiple of `heads`.
    heads: of the attention.
    grid: side of the largest grid that is not merged.
  """

  num_classes: int
  blocks: int
  width: int
  heads: int = 4
  grid: int = 7

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    if x.ndim != 3:
      raise UserError(f"exit: a token exit reads tokens [n, tokens, d], not a tap of shape {x.shape}")
    if self.width % self.heads:
      raise UserError(f"exit: {self.heads} heads do not divide tokens of length {self.width}; choose a divisor")
    side, extra = token_grid(x.shape[1])
    extra_token, x = x[:, :extra], x[:, extra:]
    number = 0
    while side > self.grid:
      x, side = _merged(x, side), side // 2
      x = jax.nn.gelu(dense(LayerNorm(name=f"merge{number}_norm")(x), self.width, f"merge{number}"), approximate=False)
      number += 1
    if x.shape[-1] != self.width:
      x = dense(x, self.width, "map")
    if extra:
      same = extra_token.shape[-1] == self.width
      extra_token = extra_token if same else dense(extra_token, self.width, "class_map")
      x = jnp.concatenate([extra_token, x], axis=1)
    for i in range(max(self.blocks, 1)):
      x = block(x, self.heads, f"block{i}_")
    return Dense(self.num_classes, name="head")(x[:, 0] if extra else jnp.mean(x, 1))


class DenseExit(nn.Module):
  """An exit of a vector `[n, d]`: dense layer to `width`, ReLU, dense layer. The paper has none; this is for MLPs."""

  num_classes: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    if x.ndim != 2:
      raise UserError(f"exit: a dense exit reads vectors [n, d], not a tap of shape {x.shape}")
    return Dense(self.num_classes, name="head")(relu(Dense(self.width, name="dense")(x)))


def token_grid(tokens: int) -> tuple[int, int]:
  """The side of the square grid that tokens form, and how many class tokens stand before it (0 or 1).

  Raises:
    UserError: neither `tokens` nor `tokens - 1` is a square number.
  """
  for extra in (0, 1):
    side = math.isqrt(tokens - extra)
    if side and side * side == tokens - extra:
      return side, extra
  raise UserError(f"exit: {tokens} tokens are no square grid, with or without a class token; choose another patch size")


def _merged(x: jax.Array, side: int) -> jax.Array:
  """`[n, side^2, d] -> [n, (side / 2)^2, 4 d]`, neighbouring squares of 2x2 tokens side by side."""
  if side % 2:
    raise UserError(
      f"exit: a grid of {side}x{side} tokens cannot be merged by 2x2; choose another patch size, or a grid"
    )
  n, _, d = x.shape
  x = x.reshape(n, side // 2, 2, side // 2, 2, d)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, (side // 2) ** 2, 4 * d)


def stage_tap(student: Outputs, stage: str) -> tuple[jax.Array, int]:
  """The value at the end of a stage, and how many stages lie behind it (at most three).

  Args:
    student: its outputs.
    stage: `"1"` to `"4"`, the quarters of a network: of `n` taps the one at `ceil(stage n / 4)`; or a tap's name.

  Raises:
    UserError: there is no such tap or quarter, or fewer taps than quarters.
  """
  names = list(student.taps)
  if not stage.isdecimal():
    value = read_tap(student, stage)
    return value, min(STAGES - 1, len(names) - 1 - names.index(stage)) if stage in names else 0
  number = int(stage)
  if not 1 <= number <= STAGES:
    raise UserError(f"stages: {stage} is not a quarter of a network, 1 to {STAGES}")
  if len(names) < STAGES:
    raise UserError(
      f"stages: the student has {len(names)} taps, fewer than {STAGES} stages; name them: {','.join(names) or 'none'}"
    )
  return student.taps[names[-(-number * len(names) // STAGES) - 1]], STAGES - number


def stage_exit(stage: str, *, width: int | None = None, heads: int = 4, grid: int = 7) -> Connector:
  """An exit of one stage of the student, `[B, classes]`; its kind follows the tap: map, tokens or vector.

  Args:
    stage: see `stage_tap`.
    width: what the last layer reads. `None` takes the channels of the student's last tap for tokens, and for maps and
      vectors those or the teacher's, whichever are more.
    heads: of the attention in token exits.
    grid: side of the largest token grid that is not merged.

  Returns:
    The `Connector`. Convolutions start Kaiming normal by fan-out. Dense layers start with the variance of `"he"` (see
    `jdistill.models.build`), where the released code has a truncated normal of deviation 0.02.

  Raises:
    UserError: at trace time: no such stage, a token count that is no square, a grid that cannot be merged, heads that
      do not divide the width.

  References:
    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation" (arXiv
    2310.19444), and its released code.
  """

  def make(student: Outputs, teachers: tuple[Outputs, ...]) -> nn.Module:
    tap, blocks = stage_tap(student, stage)
    classes, own = student.logits.shape[-1], _channels(student)
    if tap.ndim == 3:
      return TokenExit(classes, blocks, width or own, heads, grid)
    most = width or max(own, *(_channels(teacher) for teacher in teachers[:1]), 1)
    return ConvExit(classes, blocks, most) if tap.ndim == 4 else DenseExit(classes, most)

  return connector(make, lambda student, teachers: widen(stage_tap(student, stage)[0]), init="he")


def _channels(outputs: Outputs) -> int:
  """Of the last tap; of the embedding where there is none (stored targets)."""
  last = list(outputs.taps.values())[-1] if outputs.taps else outputs.embedding
  return last.shape[-1]
