"""The countdown corpus: rows of tokens with a rule, an exact law and therefore an exact test of a sampler."""

from typing import NamedTuple

import numpy as np
from scipy import special


class CountdownScore(NamedTuple):
  """How rows obey the rule.

  Attributes:
    error: share of the positions after the first whose token breaks the rule.
    valid: share of rows without an error.
    start_entropy: entropy in nats of the tokens that follow a 0; `log V` for the true law. A sampler that repeats
      itself obeys the rule and fails here.
    starts: how many such tokens there are.
  """

  error: float
  valid: float
  start_entropy: float
  starts: int


def countdown_rows(seed: int, count: int, length: int = 64, values: int = 16) -> np.ndarray:
  """Rows that count down by one to 0 and start again at a random value.

      x[0] ~ uniform(0 .. V - 1);   x[l + 1] = x[l] - 1 where x[l] > 0, else ~ uniform(0 .. V - 1)

  Args:
    seed: decides the rows.
    count: how many.
    length: L. The paper's experiment has 256, and 32 values.
    values: V.

  Returns:
    `[count, L]` int32.

  Raises:
    ValueError: fewer than one row, token or two values.

  References:
    the task of Fu et al. (arXiv 2509.19962); that starts are uniform over all values, 0 included, is our choice.
  """
  if count < 1 or length < 1 or values < 2:
    raise ValueError(
      f"countdown_rows: count={count} and length={length} must be at least 1, values={values} at least 2"
    )
  rng = np.random.default_rng(seed)
  rows = rng.integers(0, values, (count, length)).astype(np.int32)
  for place in range(1, length):
    before = rows[:, place - 1]
    rows[:, place] = np.where(before > 0, before - 1, rows[:, place])
  return rows


def countdown_chain(values: int = 16) -> tuple[np.ndarray, np.ndarray]:
  """The law of the rows as a Markov chain: `initial [V]` and `transition [V, V]`, whose rows are the next token's law.

  `jdistill.diffusion.discrete.chain_score` makes an exact teacher of them.
  """
  transition = np.eye(values, k=-1)
  transition[0] = 1 / values
  return np.full(values, 1 / values), transition


def countdown_errors(rows: np.ndarray, values: int = 16) -> np.ndarray:
  """`[n, L - 1]` booleans: where a token breaks the rule, given the one before it.

  A token outside `0 .. V - 1`, such as a mask that is left, is an error, and so is what follows it.
  """
  rows = np.asarray(rows)
  before, after = rows[:, :-1], rows[:, 1:]
  outside = (rows < 0) | (rows >= values)
  return np.where(before == 0, False, after != before - 1) | outside[:, 1:] | outside[:, :-1]


def score_countdown(rows: np.ndarray, values: int = 16) -> CountdownScore:
  """Checks rows against the rule, and how different their starts are.

  Args:
    rows: `[n, L]`, L at least 2.
    values: V.

  Raises:
    ValueError: rows of another rank or shorter.
  """
  rows = np.asarray(rows)
  if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows):
    raise ValueError(f"score_countdown: rows must be [n, L] with L of at least 2, got shape {rows.shape}")
  errors = countdown_errors(rows, values)
  starts = rows[:, 1:][(rows[:, :-1] == 0) & ~errors]
  shares = np.bincount(starts, minlength=values) / max(len(starts), 1)
  outside = ((rows < 0) | (rows >= values)).any(1)
  valid = ~errors.any(1) & ~outside
  return CountdownScore(float(errors.mean()), float(valid.mean()), float(special.entr(shares).sum()), len(starts))


def countdown_log_prob(rows: np.ndarray, values: int = 16) -> np.ndarray:
  """`[n]` in nats: minus `log V` for the first token and every one after a 0, and -inf for rows that break the rule."""
  rows = np.asarray(rows)
  starts = 1 + np.sum(rows[:, :-1] == 0, axis=1)
  outside = ((rows < 0) | (rows >= values)).any(1)
  return np.where(countdown_errors(rows, values).any(1) | outside, -np.inf, -starts * np.log(values))


def countdown_entropy(length: int = 64, values: int = 16) -> float:
  """The entropy of a row in nats: `log V` times the expected number of free tokens, exactly."""
  law, transition = countdown_chain(values)
  free = 1.0
  for _ in range(length - 1):
    free += law[0]
    law = law @ transition
  return float(free * np.log(values))
