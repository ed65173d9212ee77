"""Published figures of TPU generations, and what they say about the least time that a program can take.

The figures are the vendor's, per chip: `https://cloud.google.com/tpu/docs/GENERATION`. The pages of v3 and v4 leave
out the links, which are taken as 4 of 70 and 6 of 50 GB/s (after arXiv 2304.01433). The pages give the bandwidth of the
links for both directions together; `Chip.link` is one direction.
"""

import math
from typing import NamedTuple

from jdistill.base import UserError

# Matrix products are made in bfloat16; a float32 product is one pass (JAX's default on TPU), three or six of them.
_PASSES = {"default": 1, "bfloat16": 1, "high": 3, "bfloat16_3x": 3, "tensorfloat32": 3, "highest": 6, "float32": 6}


class Chip(NamedTuple):
  """One chip of a generation.

  Attributes:
    name: of the generation.
    memory: bytes of large memory (HBM).
    bandwidth: bytes per second between chip and HBM.
    flops: bfloat16 multiplications and additions per second.
    link: bytes per second that it can send to all its neighbours together.
    axes: of the network between chips, 2 or 3.
    most: chips of the largest slice.
    parts: devices that JAX sees per chip; each has its part of everything.
  """

  name: str
  memory: float
  bandwidth: float
  flops: float
  link: float
  axes: int
  most: int
  parts: int = 1

  def device(self) -> "Chip":
    """The figures of one JAX device."""
    names = ("memory", "bandwidth", "flops", "link")
    return self._replace(parts=1, **{name: getattr(self, name) / self.parts for name in names})


CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v3", 32 * 2**30, 900e9, 123e12, 280e9, axes=2, most=1024, parts=2),
    Chip("v4", 32 * 2**30, 1200e9, 275e12, 300e9, axes=3, most=4096),
    Chip("v5e", 16e9, 819e9, 197e12, 200e9, axes=2, most=256),
    Chip("v5p", 95e9, 2765e9, 459e12, 600e9, axes=3, most=6144),
    Chip("v6e", 32e9, 1638e9, 918e12, 400e9, axes=2, most=256),
  )
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_DEEP = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")  # and larger ones whose sides are multiples of 4


class Slice(NamedTuple):
  """Some chips of one generation in a box.

  Attributes:
    chip: which.
    shape: chips along each axis.
  """

  chip: Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """As it was asked for: `v5e:2x4`."""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

  @property
  def chips(self) -> int:
    """How many."""
    return math.prod(self.shape)


class Bounds(NamedTuple):
  """Least seconds of a program on one device, by what it uses."""

  products: float
  memory: float
  links: float

  @property
  def least(self) -> float:
    """Everything at once, at the published peaks: the longest of the three."""
    return max(self)


def parse_topology(text: str) -> Slice:
  """Reads `GENERATION:SHAPE`, such as `v5e:2x4`.

  Raises:
    UserError: another form, an unknown generation, or a shape that it does not come in.
  """
  name, colon, shape = text.strip().lower().partition(":")
  if not colon:
    raise UserError(f"--topology={text}: give GENERATION:SHAPE, such as v5e:2x4; known are {', '.join(CHIPS)}")
  if name not in CHIPS:
    raise UserError(f"--topology={text}: unknown generation {name!r}; choose one of {', '.join(CHIPS)}")
  chip = CHIPS[name]
  if not _possible(chip, shape):
    raise UserError(f"--topology={text}: {name} does not come as {shape or 'nothing'}; choose {describe_shapes(chip)}")
  return Slice(chip, tuple(int(size) for size in shape.split("x")))


def _possible(chip: Chip, shape: str) -> bool:
  sizes = shape.split("x")
  if not all(size.isascii() and size.isdigit() and size[0] != "0" for size in sizes):
    return False
  count = Slice(chip, tuple(int(size) for size in sizes)).chips
  if len(sizes) != chip.axes or count > chip.most:
    return False
  return shape in (_FLAT if chip.axes == 2 else _DEEP) or (chip.axes == 3 and all(int(s) % 4 == 0 for s in sizes))


def describe_shapes(chip: Chip) -> str:
  """The shapes that a generation comes in, as a phrase."""
  if chip.axes == 3:
    return f"one of {', '.join(_DEEP)}, or sides that are multiples of 4, up to {chip.most:,} chips"
  return f"one of {', '.join(shape for shape in _FLAT if _possible(chip, shape))}"


def bounds(device: Chip, flops: float, moved: float, sent: float, precision: str | None = None) -> Bounds:
  """What the published peaks allow at best.

  Args:
    device: the figures of one device (`Chip.device`).
    flops: multiplications and additions of the matrix products.
    moved: bytes between chip and HBM.
    sent: bytes to other chips.
    precision: of float32 products, in JAX's words; `None` for JAX's default, one bfloat16 pass.
  """
  return Bounds(passes(precision) * flops / device.flops, moved / device.bandwidth, sent / device.link)


def passes(precision: str | None) -> int:
  """bfloat16 passes of a float32 product at a precision in JAX's words; one, the least, where the word is not known."""
  return _PASSES.get(precision or "default", 1)
