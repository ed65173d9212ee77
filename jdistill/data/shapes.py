"""Drawn pictures of circles, squares and triangles with a class per pixel: segmentation without a download."""

import numpy as np

CLASS_NAMES = ("background", "circle", "square", "triangle")


def draw(count: int, *, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
  """Draws pictures of one to three shapes on a textured, noisy ground.

  Shapes have a random place, size, rotation, colour and stripes; later ones hide earlier ones. Outlines tell the class,
  and so does, on average only, the colour: circles tend to red, squares to green, triangles to blue.

  Args:
    count: how many.
    seed: decides all of them; the first pictures do not depend on `count`.
    size: height and width.

  Returns:
    `(images [count, size, size, 3], masks [count, size, size])`, both uint8; masks index `CLASS_NAMES`.
  """
  images = np.empty((count, size, size, 3), np.uint8)
  masks = np.zeros((count, size, size), np.uint8)
  for number in range(count):
    rng = np.random.default_rng((seed, number))
    pixels = _surface(rng, size, rng.uniform(0.2, 0.7, 3))
    for _ in range(rng.integers(1, 4)):
      kind = int(rng.integers(1, len(CLASS_NAMES)))
      inside = _outline(rng, kind, size)
      colour = rng.uniform(0.2, 0.7, 3) + 0.2 * np.eye(3)[kind - 1]
      pixels = np.where(inside[..., None], _surface(rng, size, colour), pixels)
      masks[number][inside] = kind
    pixels = pixels + rng.normal(0, 0.15, pixels.shape)
    images[number] = np.clip(np.rint(255 * pixels), 0, 255)
  return images, masks


def _surface(rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
  """`[size, size, 3]`: a colour, stripes of a random direction, and blotches."""
  angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(1.5, 6), rng.uniform(0, 2 * np.pi)
  y, x = np.mgrid[:size, :size] / size
  stripes = np.sin(2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y) + phase)
  coarse = rng.normal(0, 1, (size // 4 + 1, size // 4 + 1))
  blotches = np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:size, :size]
  pattern = 0.08 * rng.uniform(0.3, 1) * stripes + 0.04 * blotches
  return colour + pattern[..., None] * rng.uniform(0.5, 1.5, 3)


def _outline(rng: np.random.Generator, kind: int, size: int) -> np.ndarray:
  """`[size, size]` bool, true inside a shape; areas of one radius are about the same for all kinds."""
  radius, angle = rng.uniform(0.16, 0.28) * size, rng.uniform(0, 2 * np.pi)
  cy, cx = rng.uniform(0.15 * size, 0.85 * size, 2)
  y, x = np.mgrid[:size, :size]
  u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
  v = -np.sin(angle) * (x - cx) + np.cos(angle) * (y - cy)
  if kind == 1:
    return u**2 + v**2 <= radius**2
  if kind == 2:
    return np.maximum(np.abs(u), np.abs(v)) <= radius * np.sqrt(np.pi) / 2
  inner = radius * np.sqrt(np.pi / np.sqrt(27))  # of the inscribed circle of an equilateral triangle of area pi r^2
  sides = [np.cos(turn) * u + np.sin(turn) * v for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
  return np.max(sides, axis=0) <= inner
