"""Which gradient route a run takes, given what memory there is: compiled and measured, fastest first."""

import os

import jax
from jax.sharding import Mesh

from jdistill.base import UserError
from jdistill.files import format_bytes, parse_bytes
from jdistill.ops.rows import largest_divisor
from jdistill.reporting.cost import program_memory
from jdistill.runs.run import Run
from jdistill.stages import build
from jdistill.stages.build import Route

# Exact routes, fastest first. Others are never chosen for the user: `full` is slower and larger, the rest is biased.
_ROUTES = ("mixed", "nested_remat")
_SHARE = 0.9  # of a device's memory, where nothing else is configured


def choose(run: Run, mesh: Mesh | None) -> Route | None:
  """The route of the configuration, or the fastest that fits into its memory; `None` for methods without inner steps.

  With `unroll.gradient="auto"` or a `memory_limit`, the outer step is compiled for candidates in the order of their
  speed, the exact routes with the usual chunks of a batch and then with smaller ones, and the first one whose program
  (arguments, results, scratch and code, per device) fits is taken.

  Raises:
    UserError: none fits; with what the smallest needs.
  """
  if not build.row_of(run).takes("unroll"):
    return None
  usual = build.usual_route(run, mesh)
  limit = _limit(run, mesh)
  if limit is None:
    return usual
  needs = []
  for route in _candidates(run, mesh, usual):
    need = sum(program_memory(build.compile_step(run, mesh, route)).values())
    if need <= limit:
      run.log(f"gradient: {_text(route)}, {format_bytes(need)} of {format_bytes(limit)} per device")
      return route
    needs.append((need, route))
  need, route = min(needs, key=lambda pair: pair[0])
  raise UserError(
    f"memory_limit={run.config['memory_limit'] or format_bytes(limit)}: the least that the outer step takes is "
    f"{format_bytes(need)} per device ({_text(route)}); raise it, or lower ipc or the steps and batches of the method"
  )


def _limit(run: Run, mesh: Mesh | None) -> int | None:
  """Bytes per device that the step may take; `None` where nobody asked."""
  if run.config["memory_limit"] is not None:
    return parse_bytes(run.config["memory_limit"])
  if run.config["unroll"]["gradient"] != build.AUTO:
    return None
  device = jax.local_devices()[0]
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return int(_SHARE * stats["bytes_limit"])
  whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return int(_SHARE * whole / (1 if mesh is None else len(mesh.local_devices)))


def _candidates(run: Run, mesh: Mesh | None, usual: Route) -> list[Route]:
  """Routes to try, fastest first; what the user fixed stays."""
  share = build.rows_per_device(run, mesh)
  chunks = [usual.chunk_size]
  spread_by_compiler = mesh is not None and run.config["parallel"]["route"] == "jit"
  if run.config["unroll"]["chunk_size"] is None and not spread_by_compiler:
    size = usual.chunk_size or share
    while size > 1:
      size = largest_divisor(share, max(1, size // 4))
      chunks.append(size)
  fixed = run.config["unroll"]["gradient"] != build.AUTO
  return [Route(one, chunk) for one in ((usual.gradient,) if fixed else _ROUTES) for chunk in chunks]


def _text(route: Route) -> str:
  return route.gradient + ("" if route.chunk_size is None else f" in chunks of {route.chunk_size} images")
