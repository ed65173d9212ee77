"""Rows of tokens that count down: a law whose rule can be checked in every row."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from scipy import special

from jdistill.base import Batch, UserError
from jdistill.diffusion.discrete import TokenDraws
from jdistill.schema import Range, validated
from jdistill.synthetic.countdown import countdown_rows, score_countdown
from jdistill.tasks.task import Predict, Request, Task, numbered

_ROWS = 8000  # training rows


@validated("task")
def countdown(
  request: Request,
  *,
  tokens: Annotated[int, Range(2, 1024)] = 16,
  length: Annotated[int, Range(2, 4096)] = 32,
  draws: Annotated[int, Range(50)] = 2000,
) -> Task:
  """A sampler of rows that count down to 0 and begin again at a random token (arXiv 2509.19962, a smaller one).

  `x` of the training examples are rows `[length]` of tokens, and of the held-out ones `jdistill.base.TokenDraws`; a
  prediction is a row. The score is `error_rate`, the share of positions after the first that break the rule, with
  `valid`, the share of rows that never do. A sampler that makes the same few rows wins by both, so with them come
  `start_entropy`, the entropy in nats of what rightly follows a 0, and `entropy`, that of all tokens. The notes have
  these figures of real rows.

  Args:
    request: `dataset` is `"countdown"`; `train_size` rows (8,000 where it is open); `preprocessing` must be "none".
    tokens: how many there are, from 0.
    length: of a row.
    draws: rows that are made and judged.

  Raises:
    UserError: another data set or preprocessing.
  """
  if request.dataset != "countdown":
    raise UserError(f"dataset={request.dataset!r}: task 'countdown' makes its own; use 'countdown'")
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: tokens are taken as they are; use 'none'")
  rows = request.train_size or _ROWS
  made = countdown_rows(request.seed, rows + draws, length, tokens)
  x = made[:rows]
  train = numbered(x, np.zeros(len(x), np.int32))
  real = figures(made[rows:], tokens)
  held = [_held(count, number) for number, count in enumerate((request.validation_size or draws, draws))]

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    return figures(np.asarray(predict(data.x)), tokens)

  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=held[0],
    test=held[1],
    num_classes=tokens,
    input_shape=(length,),
    kind="token_samples",
    score=score,
    metric="error_rate",
    higher=False,
    notes=(
      f"{len(x):,} training rows of {length} tokens of {tokens}; choices by {len(held[0].y):,} sampled rows; test: "
      f"{len(held[1].y):,}",
      "real rows in the place of samples: " + ", ".join(f"{name} {value:.4g}" for name, value in real.items()),
    ),
  )


def figures(x: np.ndarray, tokens: int) -> dict[str, float]:
  """What rows `[n, length]` are worth; see `countdown`."""
  found = score_countdown(x, tokens)
  shares = np.bincount(np.clip(x, 0, tokens).reshape(-1), minlength=tokens) / x.size
  return {
    "error_rate": found.error,
    "valid": found.valid,
    "start_entropy": found.start_entropy,
    "entropy": float(special.entr(shares).sum()),
  }


def _held(rows: int, number: int) -> Batch:
  """Names of rows to be made, others for choices than for the test."""
  return numbered(TokenDraws(np.arange(rows, dtype=np.int32) + 10**6 * number), np.zeros(rows, np.int32))
