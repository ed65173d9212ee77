"""Held-out examples must not be among those that students train on."""

import hashlib

import numpy as np

from jdistill.base import Batch, UserError


def refuse_overlap(train: Batch, held_out: Batch | None, *, what: str = "validation") -> None:
  """Refuses held-out examples that also train, and an empty held-out set.

  Examples are the same if all their numbers are; names (`ids`) do not enter, since they belong to a source.

  Args:
    train: what students train on.
    held_out: what choices or an outer update are made on.
    what: how the message calls the held-out examples.

  Raises:
    UserError: there are none, or some are among the training examples; the first one's positions are given.
  """
  if held_out is None or len(held_out.y) == 0:
    raise UserError(f"{what}: no held-out examples, which this method learns from; give --config.validation_size=...")
  seen = {row: position for position, row in enumerate(_digests(train.x))}
  rows = _digests(held_out.x)
  common = [(position, seen[row]) for position, row in enumerate(rows) if row in seen]
  if common:
    first, twin = common[0]
    raise UserError(
      f"{what}: {len(common)} of {len(rows)} held-out examples are training examples, too (held-out {first} is "
      f"training {twin}); remove duplicates from the data"
    )


def _digests(x: np.ndarray) -> list[bytes]:
  return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.asarray(x)]
