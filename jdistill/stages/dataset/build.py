"""The method of a configuration, with the ways to carry it out as arguments."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdistill import bilevel, catalog, models
from jdistill.base import Method
from jdistill.ops import suggest_chunk_size
from jdistill.stages.dataset.context import Context
from jdistill.synthetic import SyntheticSet
from jdistill.training import parallel

AUTO = "auto"


class Way(NamedTuple):
  """How the gradient through the inner steps is taken.

  Attributes:
    gradient: a route of `jdistill.bilevel.unroll`.
    chunk_size: rows of a batch and device looked at together; `None` for all.
  """

  gradient: str
  chunk_size: int | None


def rows_per_device(ctx: Context, mesh: Mesh | None) -> int:
  """How many of an inner step's images one device sees."""
  return ctx.rows()[1] // (1 if mesh is None else mesh.shape[parallel.DATA])


def usual_way(ctx: Context, mesh: Mesh | None = None) -> Way:
  """The configuration's own choice; where it leaves one open, the fastest."""
  method, share = ctx.config["method"], rows_per_device(ctx, mesh)
  gradient = "mixed" if method["gradient"] == AUTO else method["gradient"]
  if mesh is not None and ctx.config["parallel"]["route"] == "jit":
    return Way(gradient, None)  # the compiler divides the rows; chunks of them would be divided again
  if method["chunk_size"] is not None:
    return Way(gradient, method["chunk_size"] if method["chunk_size"] < share else None)
  flat = models.flatten(ctx.network())
  theta = jax.ShapeDtypeStruct((flat.size,), jnp.float32)
  platform = None if mesh is None else mesh.devices.flat[0].platform
  return Way(gradient, suggest_chunk_size(flat.apply, theta, ctx.dataset.image_shape, share, platform=platform))


def build(ctx: Context, initial: SyntheticSet, mesh: Mesh | None = None, way: Way | None = None) -> Method:
  """The method of the configuration: its catalog row's builder with this run's network and options.

  Args:
    ctx: the run.
    initial: the starting set.
    mesh: devices that share the rows of an inner batch; its step is then for `parallel.spread_step`. `None` for one.
    way: how the gradient is taken; `usual_way` if `None`.
  """
  options = dict(ctx.config["method"])
  row = catalog.row(options.pop("name"))
  flat = models.flatten(ctx.network())
  builder = row.build()
  plain = {name: options[name] for name in catalog.builder_options(builder)}
  way = way or usual_way(ctx, mesh)
  unroll = functools.partial(bilevel.unroll, gradient=way.gradient, window=options["window"], chunk_size=way.chunk_size)
  if mesh is not None:
    unroll = parallel.spread_unroll(unroll, mesh, ctx.config["parallel"]["route"])
  return builder(
    flat.apply,
    initial,
    augment=ctx.augmentation(options["augment"]),
    unroll=unroll,
    **plain,
  )
