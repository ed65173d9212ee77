"""How images of a web pool differ from the original ones, on pixels `[n, height, width, channels]` in [0, 1]."""

from collections.abc import Callable

import numpy as np

from jdistill.base import UserError


def shrink(x: np.ndarray, side: int) -> np.ndarray:
  """Images of `side` by `side` pixels: padded with zeros to a multiple of it, then averaged over blocks.

  Raises:
    UserError: they are not larger than that.
  """
  x = np.asarray(x, np.float32)
  longest = max(x.shape[1:3])
  factor = -(-longest // side)
  if factor < 2:
    raise UserError(f"task.side={side}: images are {x.shape[1]}x{x.shape[2]}; leave it unset, or make them smaller")
  pads = [((factor * side - n) // 2, factor * side - n - (factor * side - n) // 2) for n in x.shape[1:3]]
  x = np.pad(x, ((0, 0), *pads, (0, 0)))
  return x.reshape(len(x), side, factor, side, factor, x.shape[-1]).mean((2, 4))


def middle(x: np.ndarray, side: int) -> np.ndarray:
  """The `side` by `side` pixels in the middle.

  Raises:
    UserError: there are not as many.
  """
  height, width = x.shape[1:3]
  if not 0 < side <= min(height, width):
    raise UserError(f"task.crop={side}: images are {height}x{width}; crop to 1 to {min(height, width)} pixels")
  top, left = (height - side) // 2, (width - side) // 2
  return x[:, top : top + side, left : left + side]


def invert(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """`1 - x`."""
  del rng
  return 1 - x


def blur(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Averages over neighbours with the weights 1, 2, 1 in both directions, once per 7 pixels of the image's side."""
  del rng
  for _ in range(max(1, x.shape[1] // 7)):
    for axis in (1, 2):
      pads = [(0, 0)] * 4
      pads[axis] = (1, 1)
      wide = np.pad(x, pads, mode="edge")
      n = x.shape[axis]
      x = sum(w * np.take(wide, np.arange(i, i + n), axis) for i, w in enumerate((0.25, 0.5, 0.25)))
  return x


def dim(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """`contrast x + brightness`, drawn per image from [0.3, 0.6] and [0.1, 0.4]."""
  contrast, brightness = (rng.uniform(*ends, (len(x), 1, 1, 1)) for ends in ((0.3, 0.6), (0.1, 0.4)))
  return contrast * x + brightness


SHIFTS: dict[str, Callable] = {"inverted": invert, "blurred": blur, "dimmed": dim}


def rotate(x: np.ndarray, degrees: np.ndarray) -> np.ndarray:
  """Each image turned anticlockwise about its centre, by bilinear interpolation; zeros come in from outside.

  Args:
    x: `[n, height, width, channels]`.
    degrees: `[n]`.
  """
  height, width = x.shape[1:3]
  rows, columns = (np.arange(n) - (n - 1) / 2 for n in (height, width))
  cos, sin = (f(np.deg2rad(degrees))[:, None, None] for f in (np.cos, np.sin))
  # where the pixel of the turned image comes from; rows count downwards
  r = cos * rows[None, :, None] + sin * columns[None, None, :] + (height - 1) / 2
  c = -sin * rows[None, :, None] + cos * columns[None, None, :] + (width - 1) / 2
  wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  r, c = (np.clip(v + 1, 0, n) for v, n in ((r, height + 1), (c, width + 1)))  # the padding is 0
  top, left = (np.minimum(v.astype(np.int64), n) for v, n in ((r, height), (c, width)))
  down, right = (r - top)[..., None], (c - left)[..., None]
  image = np.arange(len(x))[:, None, None]
  upper = wide[image, top, left] * (1 - right) + wide[image, top, left + 1] * right
  lower = wide[image, top + 1, left] * (1 - right) + wide[image, top + 1, left + 1] * right
  return upper * (1 - down) + lower * down


def drawings(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> np.ndarray:
  """Random bright things on a dark ground: filled ellipses and boxes, thick lines, stripes, smooth noise.

  Every image has one to three of them, of random place, size, angle and brightness. They are as bright and as central
  as handwriting, and none of them is meant to be a character.

  Args:
    rng: what is drawn.
    count: images.
    shape: `(height, width, channels)`; all channels are the same.

  Returns:
    `[count, *shape]` float32 in [0, 1].
  """
  height, width, channels = shape
  rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
  soft = 4 / max(height, width)  # edges are as wide as two pixels
  out = np.zeros((count, height, width), np.float32)
  makers = (_ellipse, _box, _line, _stripes, _noise)
  for image in out:
    for _ in range(rng.integers(1, 4)):
      inside = makers[rng.integers(len(makers))](rng, rows, columns, soft)
      np.maximum(image, rng.uniform(0.5, 1) * inside, out=image)
  return np.repeat(out[..., None], channels, axis=-1)


def _turned(rng, rows, columns):
  """Coordinates about a random point, turned by a random angle."""
  centre, angle = rng.uniform(-0.4, 0.4, 2), rng.uniform(0, np.pi)
  r, c = rows - centre[0], columns - centre[1]
  return np.cos(angle) * r + np.sin(angle) * c, np.cos(angle) * c - np.sin(angle) * r


def _within(distance, soft):
  """1 where the distance to the edge is well below 0, 0 where it is well above."""
  return np.clip(0.5 - distance / soft, 0, 1)


def _ellipse(rng, rows, columns, soft):
  a, b = _turned(rng, rows, columns)
  radii = rng.uniform(0.15, 0.7, 2)
  return _within((np.hypot(a / radii[0], b / radii[1]) - 1) * radii.min(), soft)


def _box(rng, rows, columns, soft):
  a, b = _turned(rng, rows, columns)
  sides = rng.uniform(0.15, 0.6, 2)
  return _within(np.maximum(np.abs(a) - sides[0], np.abs(b) - sides[1]), soft)


def _line(rng, rows, columns, soft):
  a, b = _turned(rng, rows, columns)
  return _within(np.maximum(np.abs(a) - rng.uniform(0.05, 0.15), np.abs(b) - rng.uniform(0.3, 0.8)), soft)


def _stripes(rng, rows, columns, soft):
  del soft
  a, b = _turned(rng, rows, columns)
  return (0.5 + 0.5 * np.sin(rng.uniform(5, 15) * a)) * (np.abs(b) < rng.uniform(0.3, 0.9))


def _noise(rng, rows, columns, soft):
  del soft
  waves = rng.uniform(-6, 6, (6, 2))
  phases = rng.uniform(0, 2 * np.pi, 6)
  total = sum(np.sin(w[0] * rows + w[1] * columns + p) for w, p in zip(waves, phases, strict=True))
  return np.clip(total / 3, 0, 1) * (np.hypot(rows, columns) < 0.8)
