"""Augmentations by the names that configurations and exported sets use."""

import functools

from jdistill.augment.basic import compose, flip_crop
from jdistill.augment.crop import cell_crop, flip, resized_crop
from jdistill.augment.siamese import OPERATORS, dsa
from jdistill.augment.strips import shuffle_strips
from jdistill.base import Augmentation, UserError


def named(name: str, *, siamese: bool = False, always: str = "", key: str = "augment") -> Augmentation:
  """An augmentation by name; equal arguments give the same object.

  Args:
    name: `"none"`; `"crop_flip"` (pad 4, crop, mirror); or operators of `dsa`, joined with `_`.
    siamese: of `dsa`, one draw for all images of a batch.
    always: an operator of `dsa` that is applied to every batch first, by a draw of its own, instead of being one of
      those of which one is drawn; without effect where the name has no such operator.
    key: what messages call it.

  Raises:
    UserError: an unknown name, or an operator that is named twice.
  """
  operators = [] if str(name).lower() in ("none", "crop_flip") else str(name).split("_")
  unknown = [operator for operator in operators if operator not in OPERATORS]
  if unknown:
    raise UserError(
      f"{key}={name!r}: unknown operator {unknown[0]!r}; choose 'none', 'crop_flip', or join any of "
      f"{', '.join(OPERATORS)} with '_'"
    )
  if len(set(operators)) < len(operators):
    raise UserError(f"{key}={name!r}: names an operator twice; name each once")
  if always in operators:
    operators.remove(always)
    return _after(always, "_".join(operators), siamese)
  return _named(str(name), siamese)


def windows(
  *, strips: int = 1, cells: int = 1, crop_scale: float | None = None, mirror: bool = False
) -> tuple[Augmentation, ...]:
  """What images go through after a named augmentation: which part of each is seen, and from which side.

  Args:
    strips: `shuffle_strips` of so many.
    cells: random resized crops stay inside one of so many cells along an axis (`cell_crop`).
    crop_scale: the least share of the area that a random resized crop takes, of the image or the cell; `None` for no
      crop, or the whole cell.
    mirror: with probability 1/2.

  Raises:
    UserError: what the parts refuse.
  """
  parts = [shuffle_strips(strips)] if strips > 1 else []
  if cells > 1:
    parts.append(cell_crop(cells, (1.0 if crop_scale is None else crop_scale, 1.0)))
  elif crop_scale is not None:
    parts.append(resized_crop((crop_scale, 1.0)))
  return (*parts, flip()) if mirror else tuple(parts)


@functools.lru_cache(maxsize=16)
def of_protocol(
  name: str, *, cells: int = 1, crop_scale: float | None = None, mirror: bool = False, key: str = "augment"
) -> Augmentation:
  """The augmentation of a protocol: a named one and then `windows`; equal arguments give the same object.

  Raises:
    UserError: see `named` and `windows`.
  """
  first, rest = named(name, key=key), windows(cells=cells, crop_scale=crop_scale, mirror=mirror)
  if not rest:
    return first
  return compose(*rest) if name == "none" else compose(first, *rest)


@functools.lru_cache(maxsize=16)
def _named(name: str, siamese: bool) -> Augmentation:
  return flip_crop(4) if name == "crop_flip" else dsa(name, siamese=siamese)


@functools.lru_cache(maxsize=16)
def _after(first: str, rest: str, siamese: bool) -> Augmentation:
  return compose(_named(first, siamese), dsa(rest, siamese=siamese)) if rest else _named(first, siamese)
