"""What fitting ZCA takes, for plans and progress."""

import math

from jdistill.data import zca
from jdistill.files import format_bytes
from jdistill.reporting import flops, units


def cost(shape: tuple[int, ...]) -> str:
  """Time, memory and size of ZCA on images `[n, height, width, channels]`."""
  count, size = shape[0], math.prod(shape[1:])
  spent, held = zca.fitting_flops(count, size) / flops.peak(), zca.fitting_bytes(count, size)
  kept = 4 * size * (min(count, size) + 1)
  return (
    f"ZCA of {count:,} images of {size:,} values in about {units.seconds(spent)} and {format_bytes(held)}; "
    f"{format_bytes(kept)} are part of every exported set"
  )
