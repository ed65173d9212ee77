"""Smaller decoders from the parameters of a larger one: fewer blocks, and the first or the largest of its channels."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jdistill.base import PyTree, UserError
from jdistill.models.decoder_config import DecoderConfig

Blocks = Literal["even", "first", "last"]
Channels = Literal["first", "largest"]
_SIZES = ("depth", "width", "hidden", "heads", "kv_heads", "num_classes")


def smaller_config(config: DecoderConfig, *, key: str = "", **sizes: int | None) -> DecoderConfig:
  """The configuration of a part of a decoder.

  Args:
    config: of the whole one.
    key: what messages put in front of the name of a size, such as `"student_weights."`.
    **sizes: `depth`, `width`, `hidden`, `heads`, `kv_heads` and `num_classes`; `None` for as it is. With `kv_heads`
      alone each keeps its heads of the queries, and the other way round.

  Raises:
    UserError: a size beyond that of the whole, or heads that are not as many for each head of keys and values.
  """
  whole = {"hidden": config.units, "heads": config.heads, "kv_heads": config.groups}
  whole |= {name: getattr(config, name) for name in ("depth", "width", "num_classes")}
  wanted = {name: sizes.get(name) for name in _SIZES}
  each = config.heads // config.groups
  if wanted["heads"] is None and wanted["kv_heads"] is not None:
    wanted["heads"] = wanted["kv_heads"] * each
  elif wanted["kv_heads"] is None and wanted["heads"] is not None:
    wanted["kv_heads"] = wanted["heads"] // each
  for name, value in wanted.items():
    if value is not None and not 1 <= value <= whole[name]:
      raise UserError(f"{key}{name}={value}: the checkpoint has {whole[name]}; give 1 to {whole[name]}")
  found = {name: whole[name] if value is None else value for name, value in wanted.items()}
  if found["heads"] != found["kv_heads"] * each:
    raise UserError(
      f"{key}heads={found['heads']}: the checkpoint has {each} heads for each of keys and values, and kv_heads="
      f"{found['kv_heads']}; give {found['kv_heads'] * each}"
    )
  return dataclasses.replace(config, head_size=config.size, **found)


def kept_blocks(depth: int, kept: int, which: Blocks = "even") -> tuple[int, ...]:
  """Numbers of the blocks that stay: `"even"` spreads them over all, with the first and the last.

  Args:
    depth: of the whole decoder.
    kept: how many stay, at most `depth`.
    which: one of `Blocks`. One block alone is the first with `"even"`.
  """
  if which == "even":
    return tuple(int(n) for n in np.round(np.linspace(0, depth - 1, kept)))
  return tuple(range(kept) if which == "first" else range(depth - kept, depth))


def decoder_slice(
  params: PyTree,
  config: DecoderConfig,
  smaller: DecoderConfig,
  *,
  blocks: Sequence[int] | Blocks = "even",
  channels: Channels = "first",
) -> PyTree:
  """The parameters of a smaller decoder, cut out of those of a larger one. Nothing is scaled.

  Of the vocabulary, hidden units and heads the first stay; queries stay with their heads of keys and values.

  Args:
    params, config: of the larger decoder.
    smaller: of `smaller_config`; of the same variant.
    blocks: numbers of those that stay, as many as `smaller.depth`, or which ones; see `kept_blocks`.
    channels: of the tokens' vectors, which all blocks share: the `"first"`, or those with the `"largest"` sum of
      squares over the embedding, in their order.

  Returns:
    The tree of `language_model(smaller).init`.

  Raises:
    ValueError: numbers of blocks that are not there or not as many as wanted.
  """
  if isinstance(blocks, str):
    blocks = kept_blocks(config.depth, smaller.depth, blocks)
  if len(blocks) != smaller.depth or not all(0 <= number < config.depth for number in blocks):
    raise ValueError(f"decoder_slice: blocks={tuple(blocks)} must be {smaller.depth} numbers below {config.depth}")
  width = _channels(params["embed"]["kernel"], smaller.width, channels)
  cuts = _cuts(config, smaller, width)
  found = {name: _cut(layer, *cuts[name]) for name, layer in params.items() if not name.startswith("block")}
  for new, old in enumerate(blocks):
    prefix = f"block{old}_"
    for name, layer in params.items():
      if name.startswith(prefix):
        part = name.removeprefix(prefix)
        found[f"block{new}_{part}"] = _cut(layer, *cuts[part])
  return found


def _channels(embedding, kept: int, which: Channels) -> np.ndarray | None:
  """Which columns of the embedding stay; `None` for all."""
  if kept == embedding.shape[1]:
    return None
  if which == "first":
    return np.arange(kept)
  weight = np.asarray(jnp.sum(jnp.square(embedding.astype(jnp.float32)), axis=0))
  return np.sort(np.argsort(-weight, kind="stable")[:kept])


def _cuts(config: DecoderConfig, smaller: DecoderConfig, width: np.ndarray | None) -> dict[str, tuple]:
  """Rows and columns of every layer that stay; `None` for all."""
  rows = lambda kept, whole: None if kept == whole else np.arange(kept)  # noqa: E731
  own, shared = config.heads * config.size, config.groups * config.size
  own_kept, shared_kept = smaller.heads * smaller.size, smaller.groups * smaller.size
  query, key = rows(own_kept, own), rows(shared_kept, shared)
  parts = (np.arange(own_kept), own + np.arange(shared_kept), own + shared + np.arange(shared_kept))
  together = None if query is None and key is None else np.concatenate(parts)
  hidden, tokens = rows(smaller.units, config.units), rows(smaller.num_classes, config.num_classes)
  return {
    "embed": (tokens, width), "positions": (None, width), "last_norm": (None, width), "head": (width, tokens),
    "norm0": (None, width), "norm1": (None, width), "query": (width, query), "key": (width, key),
    "value": (width, key), "qkv": (width, together), "out": (query, width), "gate": (width, hidden),
    "up": (width, hidden), "down": (hidden, width),
  }  # fmt: skip


def _cut(layer: PyTree, rows: np.ndarray | None, columns: np.ndarray | None) -> PyTree:
  """A layer with these rows and columns; scales and biases are as long as the columns."""

  def one(array):
    array = array if columns is None else array[..., columns]
    return array if rows is None or array.ndim < 2 else array[rows]

  return {name: one(array) for name, array in layer.items()}
