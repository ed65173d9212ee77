"""Differentiable siamese augmentation (DSA): one operator per batch, replayable, differentiable in the pixels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import base
from jdistill.augment import basic, operators

DEFAULT_STRATEGY = "color_crop_cutout_flip_scale_rotate"


class DsaParams(NamedTuple):
  """How strong each operator is; the defaults are those of the published codes.

  Attributes:
    flip: probability of mirroring.
    scale: `s` in `sx, sy ~ U(1/s, s)`, at least 1.
    rotate: degrees `r` in `angle ~ U(-r, r)`.
    crop: largest shift as a share of the side; `int(side * crop + 0.5)` pixels.
    cutout: side of the hole as a share of the image's; `int(side * cutout + 0.5)` pixels.
    brightness: width of the interval of the offset, in units of `x`.
    saturation: largest saturation factor.
    contrast: smallest contrast factor; the largest is one more.
  """

  flip: float = 0.5
  scale: float = 1.2
  rotate: float = 15.0
  crop: float = 0.125
  cutout: float = 0.5
  brightness: float = 1.0
  saturation: float = 2.0
  contrast: float = 0.5


class DsaRecord(NamedTuple):
  """What `dsa` drew. The draws of all operators are there, whichever of them is used.

  Attributes:
    op: `[]` int32, place in the strategy of the operator for the whole batch; 0 and unused in mode "multiple".
    flip: `[batch]` bool, mirror left and right.
    scale: `[batch, 2]` float32, `(sx, sy)`, width first.
    angle: `[batch]` float32, degrees.
    shift: `[batch, 2]` int32, `(rows, columns)`.
    cutout: `[batch, 2]` int32, `(row, column)` of the hole's centre.
    color: `[batch, 3]` float32, brightness offset, saturation factor, contrast factor.
  """

  op: jax.Array
  flip: jax.Array
  scale: jax.Array
  angle: jax.Array
  shift: jax.Array
  cutout: jax.Array
  color: jax.Array


def _pixels(share: float, shape: tuple[int, ...]) -> tuple[int, int]:
  return int(shape[1] * share + 0.5), int(shape[2] * share + 0.5)


def _color(record: DsaRecord, x: jax.Array, params: DsaParams) -> jax.Array:
  del params
  x = operators.brightness(x, record.color[:, 0])
  x = operators.saturation(x, record.color[:, 1])
  return operators.contrast(x, record.color[:, 2])


OPERATORS: dict[str, Callable[[DsaRecord, jax.Array, DsaParams], jax.Array]] = {
  "color": _color,
  "crop": lambda record, x, params: operators.translate(x, record.shift, _pixels(params.crop, x.shape)),
  "cutout": lambda record, x, params: operators.cutout(x, record.cutout, _pixels(params.cutout, x.shape)),
  "flip": lambda record, x, params: operators.flip(x, record.flip),
  "rotate": lambda record, x, params: operators.rotate(x, record.angle),
  "scale": lambda record, x, params: operators.scale(x, record.scale),
}


def _check(names: list[str], strategy: str, mode: str, params: DsaParams) -> None:
  unknown = [name for name in names if name not in OPERATORS]
  if unknown:
    raise base.UserError(
      f"strategy: unknown operator {unknown[0]!r} in {strategy!r}; "
      f"join any of {', '.join(OPERATORS)} with '_', or give 'none'"
    )
  if len(set(names)) < len(names):
    raise base.UserError(
      f"strategy: {strategy!r} names an operator twice; a record holds one draw of each, so name it once"
    )
  if mode not in ("single", "multiple"):
    raise base.UserError(f"mode: {mode!r} is unknown; give 'single' (one operator per batch) or 'multiple' (all)")
  limits = {"flip": (0, 1), "scale": (1, math.inf), "crop": (0, 1), "cutout": (0, 1)}
  for name, value in params._asdict().items():
    low, high = limits.get(name, (0, math.inf))
    if not low <= value <= high:
      raise base.UserError(f"params.{name}: {value} is out of range; give a number in [{low}, {high}]")


def _sample(key: base.Key, shape: tuple[int, ...], draws: int, choices: int, params: DsaParams) -> DsaRecord:
  """Draws `draws` images' worth of numbers; the operator comes from the key alone, whatever the batch size."""
  keys = jax.random.split(key, 7)
  pad, side = _pixels(params.crop, shape), _pixels(params.cutout, shape)

  def integers(key: base.Key, low: tuple[int, int], high: tuple[int, int]) -> jax.Array:
    bounds = (jnp.array([limit], jnp.int32) for limit in (low, high))
    return jax.random.randint(key, (draws, 2), *bounds, jnp.int32)

  u = jax.random.uniform(keys[6], (draws, 3), jnp.float32)
  offset = (u[:, 0] - 0.5) * params.brightness
  return DsaRecord(
    op=jax.random.randint(keys[0], (), 0, choices, jnp.int32),
    flip=jax.random.bernoulli(keys[1], params.flip, (draws,)),
    scale=jax.random.uniform(keys[2], (draws, 2), jnp.float32, 1 / params.scale, params.scale),
    angle=jax.random.uniform(keys[3], (draws,), jnp.float32, -params.rotate, params.rotate),
    shift=integers(keys[4], (-pad[0], -pad[1]), (pad[0] + 1, pad[1] + 1)),
    # A hole of even side has its centre between two pixels, so one more place keeps its distribution symmetric.
    cutout=integers(keys[5], (0, 0), (shape[1] + 1 - side[0] % 2, shape[2] + 1 - side[1] % 2)),
    color=jnp.stack([offset, u[:, 1] * params.saturation, u[:, 2] + params.contrast], axis=-1),
  )


def dsa(
  strategy: str = DEFAULT_STRATEGY,
  *,
  mode: str = "single",
  siamese: bool = False,
  params: DsaParams = DsaParams(),  # noqa: B008  (immutable)
) -> base.Augmentation:
  """Differentiable siamese augmentation.

  With `u ~ U(0, 1)` fresh for every use and image, the operators are

      color     x + brightness (u - 1/2), then (x - mean_c) saturation u + mean_c with the mean over channels of each
                pixel, then (x - mean) (contrast + u) + mean with the mean over the whole image
      crop      y[i, j] = x[i + a, j + b], zeros outside; a, b integers uniform in [-s, s], s = int(crop side + 1/2)
      cutout    zeroes a square of side s = int(cutout side + 1/2) that starts at centre - s // 2 and is cut off at the
                border; centre coordinates are integers uniform in [0, side + (1 - s mod 2))
      flip      y[i, j] = x[i, width - 1 - j] with probability `flip`
      scale     bilinear sampling through theta = [[sx, 0, 0], [0, sy, 0]], sx, sy ~ U(1/scale, scale)
      rotate    the same through [[cos a, -sin a, 0], [sin a, cos a, 0]], a ~ U(-rotate, rotate) degrees

  where `theta` maps output to input coordinates as in `jdistill.ops.affine.affine_positions`.

  A record holds `op` as a scalar so that `lax.switch` runs one operator only. Records for many steps are made by
  `jax.vmap(lambda k: augment.sample(k, shape))(keys)` and consumed one per step of a scan; mapping `apply` over `op`
  itself works, but computes every operator. `apply` is affine in `x`, and keeps nothing but the record for the backward
  pass.

  Args:
    strategy: names of operators joined with `_`; "none" or "" for the identity. Leave out "flip" for digits.
    mode: "single" draws one operator per batch, uniformly; "multiple" applies all, in the order of the strategy.
    siamese: one draw is shared by all images of the batch. The same key then gives the same draw for any batch size, so
      real and synthetic batches are augmented alike.
    params: strengths of the operators.

  Returns:
    `Augmentation` whose record is a `DsaRecord` (`()` for the identity).

  Raises:
    UserError: an unknown or repeated operator, an unknown mode, a parameter out of its range; on use, a shape that is
      not `(batch, height, width, channels)`, a record drawn for another batch size, or pixels that are not floats.

  References:
    Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, arXiv 2102.08259.
  """
  names = [] if strategy.lower() in ("", "none") else strategy.split("_")
  _check(names, strategy, mode, params)
  if not names:
    return basic.identity()

  def branch(name: str) -> Callable[[DsaRecord, jax.Array], jax.Array]:
    # Without the checkpoint a switch saves the interpolation weights of every branch, zeros for those not taken.
    return jax.checkpoint(lambda record, x: OPERATORS[name](record, x, params), prevent_cse=False)

  branches = [branch(name) for name in names]

  def sample(key: base.Key, shape: tuple[int, ...]) -> DsaRecord:
    basic.check_shape(shape)
    record = _sample(key, shape, 1 if siamese else shape[0], len(names) if mode == "single" else 1, params)
    if not siamese:
      return record
    return DsaRecord(record.op, *(jnp.broadcast_to(draw, (shape[0], *draw.shape[1:])) for draw in record[1:]))

  def apply(record: DsaRecord, x: jax.Array) -> jax.Array:
    basic.check_replay(record.flip.shape[0], x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise base.UserError(
        f"x: dtype {x.dtype} cannot be augmented differentiably; normalise the images to floats first"
      )
    if mode == "single":
      return lax.switch(record.op, branches, record, x)
    for operate in branches:
      x = operate(record, x)
    return x

  return base.Augmentation(sample, apply)
