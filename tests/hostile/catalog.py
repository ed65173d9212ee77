"""All inputs by name, and which of them are tried."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import flags, forms, names, options
from tests.hostile.case import Case

SOURCES: tuple[Callable[[], Iterator[Case]], ...] = (
  flags.cases,
  options.cases,
  forms.cases,
  names.cases,
)


def every(prepared: Path) -> dict[str, Case]:
  """All inputs, by name; `prepared` is where finished and interrupted runs lie.

  Raises:
    ValueError: two inputs of one name.
  """
  found: dict[str, Case] = {}
  for source in SOURCES:
    for case in source():
      if case.name in found:
        raise ValueError(f"two inputs are called {case.name!r}")
      found[case.name] = case
  return found


def sample(names: list[str], count: int, seed: int) -> list[str]:
  """Some of the names, drawn at random, from every kind alike."""
  rng = random.Random(seed)
  kinds: dict[str, list[str]] = {}
  for name in names:
    kinds.setdefault(name.partition("/")[0], []).append(name)
  for group in kinds.values():
    rng.shuffle(group)
  drawn: list[str] = []
  while len(drawn) < count and any(kinds.values()):
    drawn += [group.pop() for group in kinds.values() if group]
  return drawn[:count]
