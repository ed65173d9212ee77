"""Which gradient route a run takes, given what memory there is: compiled and measured, fastest first."""

import os

import jax
from jax.sharding import Mesh

from jdistill.base import UserError
from jdistill.files import format_bytes, parse_bytes
from jdistill.ops.rows import largest_divisor
from jdistill.stages.dataset import build, outer
from jdistill.stages.dataset.build import Way
from jdistill.stages.dataset.context import Context

# Exact routes, fastest first. Others are never chosen for the user: `full` is slower and larger, the rest is biased.
_ROUTES = ("mixed", "nested_remat")
_SHARE = 0.9  # of a device's memory, where nothing else is said


def choose(ctx: Context, mesh: Mesh | None) -> Way:
  """The way of the configuration, or the fastest that fits into its memory; says which.

  With `method.gradient="auto"` or a `memory_limit`, the outer step is compiled for candidates in the order of their
  speed, the exact routes with the usual chunks of a batch and then with smaller ones, and the first one whose program
  (arguments, results, scratch and code, per device) fits is taken.

  Raises:
    UserError: none fits; with what the smallest needs.
  """
  usual = build.usual_way(ctx, mesh)
  limit = _limit(ctx, mesh)
  if limit is None:
    return usual
  needs = []
  for way in _candidates(ctx, mesh, usual):
    need = sum(outer.memory(outer.compile_step(ctx, mesh, way)).values())
    if need <= limit:
      ctx.say(f"gradient: {_text(way)}, {format_bytes(need)} of {format_bytes(limit)} per device")
      return way
    needs.append((need, way))
  need, way = min(needs, key=lambda pair: pair[0])
  raise UserError(
    f"memory_limit={ctx.config['memory_limit'] or format_bytes(limit)}: the least that the outer step takes is "
    f"{format_bytes(need)} per device ({_text(way)}); raise it, or lower method.inner_steps, method.batch_size or ipc"
  )


def _limit(ctx: Context, mesh: Mesh | None) -> int | None:
  """Bytes per device that the step may take; `None` where nobody asked."""
  if ctx.config["memory_limit"] is not None:
    return parse_bytes(ctx.config["memory_limit"])
  if ctx.config["method"]["gradient"] != build.AUTO:
    return None
  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return int(_SHARE * stats["bytes_limit"])
  whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return int(_SHARE * whole / (1 if mesh is None else len(mesh.local_devices)))


def _candidates(ctx: Context, mesh: Mesh | None, usual: Way) -> list[Way]:
  """Ways to try, fastest first; what the user fixed stays."""
  share = build.rows_per_device(ctx, mesh)
  chunks = [usual.chunk_size]
  spread_by_compiler = mesh is not None and ctx.config["parallel"]["route"] == "jit"
  if ctx.config["method"]["chunk_size"] is None and not spread_by_compiler:
    size = usual.chunk_size or share
    while size > 1:
      size = largest_divisor(share, max(1, size // 4))
      chunks.append(size)
  fixed = ctx.config["method"]["gradient"] != build.AUTO
  return [Way(route, chunk) for route in ((usual.gradient,) if fixed else _ROUTES) for chunk in chunks]


def _text(way: Way) -> str:
  return way.gradient + ("" if way.chunk_size is None else f" in chunks of {way.chunk_size} images")
