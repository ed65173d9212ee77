"""How plans tell the work of steps: FLOPs, and the least time they take on this machine."""

import functools
import math

from jdistill.data import zca
from jdistill.files import format_bytes
from jdistill.reporting import matmul_peak, units


@functools.cache
def peak() -> float:
  """FLOP/s of a matrix product here, measured once."""
  return matmul_peak()


def text(per_step: float, steps: int, networks: int = 1) -> str:
  """Work of one step and of all, with the least time they take at the measured rate; empty where it is not known."""
  if not math.isfinite(per_step) or not per_step:
    return ""
  total = per_step * steps * networks
  each, all_ = units.amount(per_step, "FLOP"), units.amount(total, "FLOP")
  return f"{each} a step, {all_} in all, at least {units.seconds(total / peak())}"


def whitening(shape: tuple[int, ...]) -> str:
  """What fitting ZCA on images `[n, height, width, channels]` takes."""
  count, size = shape[0], math.prod(shape[1:])
  spent = zca.fitting_flops(count, size) / peak()
  held, kept = zca.fitting_bytes(count, size), 4 * size * (min(count, size) + 1)
  return (
    f"ZCA of {count:,} images of {size:,} values in about {units.seconds(spent)} and {format_bytes(held)}; "
    f"{format_bytes(kept)} are part of every exported set"
  )
