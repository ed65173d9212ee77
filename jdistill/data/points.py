"""Points in the plane from mixtures of Gaussians whose modes are known."""

from typing import NamedTuple

import numpy as np

from jdistill.base import UserError


class Mixture(NamedTuple):
  """A mixture of equally likely Gaussians with the same standard deviation along all axes.

  Attributes:
    centres: `[modes, 2]`.
    sd: along an axis.
  """

  centres: np.ndarray
  sd: float

  def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` points `[size, 2]` and the mode of each, `[size]`; modes come in turn, so that none is missing."""
    modes = rng.permutation(np.arange(size) % len(self.centres))
    return self.centres[modes] + self.sd * rng.normal(size=(size, 2)), modes


def _grid(side: int, spacing: float, sd: float) -> Mixture:
  places = (np.arange(side) - (side - 1) / 2) * spacing
  return Mixture(np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2), sd)


def _ring(modes: int, radius: float, sd: float) -> Mixture:
  angles = 2 * np.pi * np.arange(modes) / modes
  return Mixture(radius * np.stack([np.cos(angles), np.sin(angles)], -1), sd)


_MIXTURES = {
  "grid25": lambda: _grid(5, 0.35, 0.03),
  "ring8": lambda: _ring(8, 1.0, 0.05),
  "ring16": lambda: _ring(16, 1.0, 0.04),
}


def mixtures() -> tuple[str, ...]:
  """The names that `mixture` knows."""
  return tuple(_MIXTURES)


def mixture(name: str) -> Mixture:
  """A mixture by its name: `"grid25"`, 5 x 5 modes 0.35 apart (sd 0.03); `"ring8"` and `"ring16"`, on a circle of 1.

  Raises:
    UserError: an unknown name.
  """
  if name not in _MIXTURES:
    raise UserError(f"dataset={name!r}: is no mixture; choose one of {', '.join(_MIXTURES)}")
  return _MIXTURES[name]()
