"""Greedy maximisation: one example after another, always the one that adds most to what was chosen before.

Gains live in one vector `[n]`, beside the number of choices that each of them takes into account. An objective computes
the gains of those candidates that are asked for; nothing here is `[n, n]`. It is plain NumPy: which gains are needed
depends on the gains themselves, and with 50,000 examples that takes 0.3 (graph cut) to 0.6 (k-center) of the CPU time
of a compiled loop over all of them (`benchmarks/selection.py`). On an accelerator a similarity may be a compiled
function, `objectives.row_similarity`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jdistill.base import UserError

Order = Literal["lazy", "naive", "stochastic"]

_LEAST, _MOST = 8, 512  # gains that are computed together


class Objective(NamedTuple):
  """What is maximised, by the gains of one more example.

  Attributes:
    first: `[n]` float64 gains before any choice, or upper bounds of them.
    refresh: `(state, picked, candidates, values, ages) -> [m]` gains of some candidates now. Their last known gains are
      `values` and know of the first `ages` of the choices `picked`.
    add: `(state, example) -> state` after a choice.
    state: before any choice.
    exact: whether `first` are gains already, and no bounds.
    diminishing: whether no gain ever grows, as lazy evaluation demands.
    tolerance: gains that differ by no more are equal: what rounding makes of equal sums.
  """

  first: np.ndarray
  refresh: Callable[[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
  add: Callable[[Any, int], Any] = lambda state, example: state
  state: Any = ()
  exact: bool = True
  diminishing: bool = True
  tolerance: float = 0.0


class Picked(NamedTuple):
  """What a greedy maximisation chose.

  Attributes:
    index: `[k]` positions in the order of their choice.
    gain: `[k]` float64, what each added.
    evaluated: how many gains were computed for it.
  """

  index: np.ndarray
  gain: np.ndarray
  evaluated: int


class _Known(NamedTuple):
  """The gains that are known, changed in place.

  Attributes:
    values: `[n]`; minus infinity where chosen.
    ages: `[n]`, of how many choices each knows; -1 for a bound that no computation gave.
  """

  values: np.ndarray
  ages: np.ndarray


def maximise(
  objective: Objective,
  count: int,
  *,
  order: Order = "lazy",
  rng: np.random.Generator | None = None,
  epsilon: float = 0.01,
  picked: Sequence[int] = (),
) -> Picked:
  """Chooses `count` examples greedily; of equal gains the one of the lowest index.

  Args:
    objective: what is maximised.
    count: how many, at most `n`.
    order: `"naive"` computes all gains for every choice. `"lazy"` makes the same choices: it computes a gain only while
      the last known one, which bounds it, is above the best (Minoux 1978); objectives without diminishing gains are
      maximised naively. `"stochastic"` looks at `n / count * log(1 / epsilon)` random examples for every choice and is
      within `1 - 1/e - epsilon` of the optimum in expectation (arXiv 1409.7938).
    rng: draws the examples of `"stochastic"`.
    epsilon: of `"stochastic"`, within `(0, 1)`.
    picked: chosen before, and first in the result.

  Raises:
    UserError: `count` below 1 or above `n`.
  """
  size = len(objective.first)
  if not 0 < count <= size:
    raise UserError(f"count={count}: cannot be chosen among {size} examples; give 1 to {size}")
  known = _Known(np.array(objective.first, np.float64), np.full(size, 0 if objective.exact else -1))
  index, gain, state, evaluated = np.zeros(count, np.int64), np.zeros(count), objective.state, 0
  lazy, computed = order == "lazy" and objective.diminishing, 0
  look = min(size, int(np.ceil(size / count * np.log(1 / epsilon)))) if order == "stochastic" else size
  for done in range(count):

    def refresh(candidates, state=state, done=done):
      """Makes the gains of some candidates current; how many had to be computed."""
      old = candidates[known.ages[candidates] < done]
      if len(old):
        known.values[old] = objective.refresh(
          state, index[:done], old, known.values[old], np.maximum(known.ages[old], 0)
        )
        known.ages[old] = done
      return len(old)

    if done < len(picked):
      best = int(picked[done])
    elif lazy:
      # about as many as for the choice before, so that most are computed together
      best, computed = _lazily(refresh, known, done, max(_LEAST, computed // 2), objective.tolerance)
      evaluated += computed
    else:
      free = np.flatnonzero(known.values > -np.inf)
      free = np.sort(rng.permutation(free)[:look]) if look < len(free) else free
      evaluated += refresh(free)
      best = int(free[first_of_the_highest(known.values[free], objective.tolerance)])
    index[done], gain[done] = best, known.values[best]
    known.values[best], known.ages[best] = -np.inf, count  # never looked at again
    state = objective.add(state, best)
  return Picked(index, gain, evaluated)


def _lazily(
  refresh: Callable[[np.ndarray], int], known: _Known, done: int, many: int, tolerance: float
) -> tuple[int, int]:
  """`(best, computed)`: refreshes the highest bounds, `many` first, until none could be above the best gain."""
  best, computed = -np.inf, 0
  while True:
    stale = np.flatnonzero((known.values >= best - tolerance) & (known.ages < done))
    if not len(stale):
      break
    if len(stale) > many:
      stale = stale[np.argpartition(-known.values[stale], many)[:many]]
    computed += refresh(stale)
    best = max(best, known.values[stale].max())
    many = min(2 * many, _MOST)
  return first_of_the_highest(known.values, tolerance), computed


def first_of_the_highest(values: np.ndarray, tolerance: float) -> int:
  """The position of the highest value, or the first one that is not lower by more than the tolerance."""
  return int((values >= values.max() - tolerance).argmax())
