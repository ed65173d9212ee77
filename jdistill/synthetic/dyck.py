"""Dyck words: balanced brackets of several kinds, and a checker."""

import numpy as np

BRACKETS = "()[]{}<>"


def dyck_words(
  rng: np.random.Generator, count: int, length: int, *, kinds: int = 2, deepest: int = 6, opening: float = 0.5
) -> list[str]:
  """Words of Dyck-`kinds`: every bracket is closed by its own kind, the last opened first.

  A step opens a bracket of a random kind with probability `opening`; it must where none is open, and must not where
  `deepest` are, or where the rest of the word is only just enough to close all.

  Args:
    rng: of NumPy.
    count: how many words.
    length: of each, even.
    kinds: of brackets, from 1 to 4.
    deepest: the most that are open at once, at least 1.
    opening: probability.

  Raises:
    ValueError: an argument out of its range.
  """
  if not 1 <= kinds <= len(BRACKETS) // 2 or deepest < 1 or not 0 < opening < 1:
    raise ValueError(f"dyck_words: kinds={kinds} must be from 1 to 4, deepest={deepest} at least 1, opening in (0, 1)")
  if length < 2 or length % 2:
    raise ValueError(f"dyck_words: length={length} must be even and at least 2")
  draws, chosen = rng.random((count, length)), rng.integers(kinds, size=(count, length))
  return [_word(draws[i] < opening, chosen[i], deepest) for i in range(count)]


def _word(opens: np.ndarray, kinds: np.ndarray, deepest: int) -> str:
  found, stack, length = [], [], len(opens)
  for t in range(length):
    must_close = len(stack) == min(deepest, length - t)
    if not stack or (opens[t] and not must_close):
      stack.append(int(kinds[t]))
      found.append(BRACKETS[2 * stack[-1]])
    else:
      found.append(BRACKETS[2 * stack.pop() + 1])
  return "".join(found)


def is_dyck(word: str) -> bool:
  """Whether all brackets of a text are closed in order, and nothing else is in it."""
  stack = []
  for character in word:
    place = BRACKETS.find(character)
    if place < 0:
      return False
    if place % 2 == 0:
      stack.append(place)
    elif not stack or stack.pop() != place - 1:
      return False
  return not stack
