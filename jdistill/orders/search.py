"""Orders of batches as data: random ones, one batch moved through all positions, a genetic search for a good one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Search(NamedTuple):
  """What a search found.

  Attributes:
    order: `[T]` int32, the best of all that were asked about.
    value: its fitness, lower is better.
    history: the best value after every generation, the first population included.
    asked: how many orders were asked about.
  """

  order: np.ndarray
  value: float
  history: list[float]
  asked: int


def random_orders(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
  """Independent permutations of `range(steps)`, `[count, steps]` int32.

  They are drawn on the host, one after another: the first `n` are the same whatever `count` and the devices are.
  """
  return np.stack([rng.permutation(steps) for _ in range(count)]).astype(np.int32).reshape(count, steps)


def moved_orders(order: np.ndarray, batch: int) -> np.ndarray:
  """One batch at every position of an order, the others in their turn: `[T, T]` int32, row `j` has it at position `j`.

  Raises:
    ValueError: the order does not have this batch.
  """
  order = np.asarray(order)
  if batch not in order:
    raise ValueError(f"moved_orders: batch {batch} is not in the order; it has {len(order)} batches from 0")
  rest = order[order != batch]
  return np.stack([np.insert(rest, place, batch) for place in range(len(order))]).astype(np.int32)


def search_curriculum(
  fitness: Callable[[np.ndarray], np.ndarray],
  rng: np.random.Generator,
  *,
  steps: int,
  population: int = 16,
  generations: int = 10,
  elite: int = 2,
  mutation: float = 0.5,
  tournament: int = 3,
) -> Search:
  """A genetic search over permutations, the least fitness wins.

  A child takes a stretch of one parent and the rest in the order of the other (order crossover), parents win a small
  tournament, and with probability `mutation` two batches of a child change places. The best orders live on.

  Args:
    fitness: orders `[n, T] -> [n]`, such as estimated validation losses. Elite orders are not asked about again.
    rng: decides everything.
    steps: `T`.
    population: orders of a generation, at least 2.
    generations: after the first population, which is random.
    elite: how many live on unchanged, fewer than `population`.
    mutation: share of the children that mutate.
    tournament: how many compete to be a parent.

  Returns:
    `Search`.

  Raises:
    ValueError: sizes that do not fit, or a fitness that is not finite.
  """
  if population < 2 or not 0 < elite < population or generations < 0 or not 1 <= tournament <= population or steps < 2:
    raise ValueError(
      f"search_curriculum: steps={steps}, population={population}, elite={elite}, generations={generations}, "
      f"tournament={tournament} do not fit; 0 < elite < population, 1 <= tournament <= population, steps >= 2"
    )
  orders = random_orders(rng, population, steps)
  values = _values(fitness, orders)
  history, asked = [float(values.min())], population
  for _ in range(generations):
    ranked = np.argsort(values, kind="stable")
    orders, values = orders[ranked], values[ranked]
    parents = np.array(
      [rng.choice(population, tournament, replace=False).min() for _ in range(2 * (population - elite))]
    )
    children = [_child(rng, orders[a], orders[b], mutation) for a, b in parents.reshape(-1, 2)]
    children = np.stack(children).astype(np.int32)
    orders = np.concatenate([orders[:elite], children])
    values = np.concatenate([values[:elite], _values(fitness, children)])
    history.append(float(values.min()))
    asked += len(children)
  best = int(np.argmin(values))
  return Search(orders[best], float(values[best]), history, asked)


def _values(fitness: Callable[[np.ndarray], np.ndarray], orders: np.ndarray) -> np.ndarray:
  values = np.asarray(fitness(orders), np.float64)
  if values.shape != (len(orders),) or not np.isfinite(values).all():
    raise ValueError(f"search_curriculum: fitness gave {values.shape} for {len(orders)} orders, or is not finite")
  return values


def _child(rng: np.random.Generator, one: np.ndarray, other: np.ndarray, mutation: float) -> np.ndarray:
  begin, end = np.sort(rng.choice(len(one) + 1, 2, replace=False))
  kept = one[begin:end]
  rest = other[~np.isin(other, kept)]
  child = np.concatenate([rest[:begin], kept, rest[begin:]])
  if rng.random() < mutation:
    a, b = rng.choice(len(child), 2, replace=False)
    child[[a, b]] = child[[b, a]]
  return child
