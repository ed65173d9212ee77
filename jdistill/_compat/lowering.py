"""Primitives whose lowering is told the devices of a program (`jax._src.dispatch`).

Why: a lowering that calls a partitioned function (`jdistill.ops.onednn.forward`) must know how many devices the program
is for. JAX passes them on only for programs that hold a primitive of a set without a public name.
Checked for: jax 0.10.2.
Without it: `request_devices` returns `False`, and convolutions are XLA's own.
"""

from jax.extend.core import Primitive


def request_devices(*primitives: Primitive) -> bool:
  """Has JAX pass the devices to the lowering of these primitives; returns whether it will."""
  try:
    from jax._src import dispatch

    dispatch.prim_requires_devices_during_lowering.update(primitives)
  except (ImportError, AttributeError):
    return False
  return True
