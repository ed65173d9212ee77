"""All inputs by name, and which of them are tried."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import archives, damage, flags, folders, forms, maps, names, options, sets, weights
from tests.hostile.case import Case

SOURCES: tuple[Callable[[], Iterator[Case]], ...] = (
  flags.cases,
  options.cases,
  forms.cases,
  names.cases,
  archives.cases,
  maps.cases,
  folders.cases,
  weights.cases,
)
# kinds that need no prepared runs
KINDS = ("flag", "option", "override", "form", "name", "value", "archive", "map", "folder", "tfds", "weights")


def every(prepared: Path | None, whole: bool = True) -> dict[str, Case]:
  """All inputs, by name.

  Args:
    prepared: where finished and interrupted runs lie; `None` for the inputs that need none.
    whole: every damage of every file of them, of which there are thousands.

  Raises:
    ValueError: two inputs of one name.
  """
  found: dict[str, Case] = {}
  runs = [] if prepared is None else [sets.cases(prepared), damage.cases(prepared, whole)]
  for case in itertools.chain(*(source() for source in SOURCES), *runs):
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
