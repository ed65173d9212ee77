"""What is wrong with how an input ended. Checked mechanically: one line, the key or file, the value, a cure."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.hostile.case import Case, Words
from tests.hostile.trees import added, gone_or_changed

PREFIX, CELL = "jdistill: ", "  failed: "
SECONDS = 20.0
TO_THE_END = 60.0  # of runs that are not refused

# words that tell a user what to do or what is allowed
_CURE = re.compile(
  r"\b(must|did you mean|at (most|least)|above|below|between|only|add|ask|call|cast|check|choose|copy|correct|cut|"
  r"convert|declare|delete|download|draw|export|free|give|hold|install|keep|leave|lower|make|move|name|needs|pass|"
  r"prepare|put|raise|reduce|remove|rename|repair|repeat|replace|restore|run|save|say|see|set|start|such as|take|"
  r"train|try|undo|use|wait|write)\b"
)


class Ended(NamedTuple):
  """How an input ended.

  Attributes:
    status: exit status; `None` where an exception escaped or nothing ended.
    out, err: what was printed.
    escaped: the exception that escaped, with its place; "hang" where it was stopped.
    seconds: how long it took.
  """

  status: int | None
  out: str
  err: str
  escaped: str
  seconds: float


class Verdict(NamedTuple):
  """What became of an input: `refused`, `repaired`, `worked` or `violation`, and the violations."""

  name: str
  kind: str
  outcome: str
  violations: tuple[str, ...] = ()
  message: str = ""
  seconds: float = 0.0


def judge(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str], differences: list[str]) -> Verdict:
  """Compares how an input ended with what its case demands."""
  found = [*_ending(case, ended, differences), *_files(case, ended, before, after)]
  message = ended.err.strip().splitlines()[-1] if ended.err.strip() else ""
  accepted = "worked" if case.outcome == "works" else "repaired"
  outcome = "violation" if found else accepted if ended.status == 0 else "refused"
  return Verdict(case.name, case.kind, outcome, tuple(found), message, ended.seconds)


def _ending(case: Case, ended: Ended, differences: list[str]) -> Iterator[str]:
  if ended.escaped == "hang" or ended.seconds > limit(case):
    yield f"hang: {ended.seconds:.0f} s"
  elif ended.escaped:
    yield f"traceback: {ended.escaped}"
  elif ended.status == 0 and case.outcome == "refused":
    yield "accepted: exit status 0"
  elif ended.status == 0:
    yield from (f"other result: {one}" for one in differences)
  elif ended.status != 1:
    yield f"exit status {ended.status}"
  elif case.outcome == "works":
    yield f"refused: {ended.err.strip()[:300]}"
  else:
    yield from _message(case, ended)


def _message(case: Case, ended: Ended) -> Iterator[str]:
  lines = ended.err.splitlines()
  if case.early and (len(lines) != 1 or ended.out):
    yield f"message: {len(lines)} lines where there must be one: {ended.err[:300]!r}"
  if any(line.startswith("Traceback") for line in lines):
    yield "message: prints a traceback"
  last = lines[-1] if lines else ""
  if not case.early:  # a sweep goes on after a cell that failed
    last = next((PREFIX + line.removeprefix(CELL) for line in reversed(lines) if line.startswith(CELL)), last)
  if not last.startswith(PREFIX):
    yield f"message: does not start with {PREFIX!r}: {last[:200]!r}"
    return
  text = last.removeprefix(PREFIX)
  missing = lacking(text, case.words)
  if missing:
    yield f"message: lacks {missing}: {text[:300]!r}"
  if not has_cure(text):
    yield f"message: no cure: {text[:300]!r}"


def lacking(text: str, words: Words) -> list:
  """The words that a message lacks; of a tuple one is enough."""
  return [word for word in words if not any(one in text for one in ((word,) if isinstance(word, str) else word))]


def limit(case: Case) -> float:
  """Seconds after which an input counts as hanging."""
  return SECONDS if case.outcome == "refused" else TO_THE_END


def has_cure(text: str) -> bool:
  """Whether something follows a separator that tells what to do or what is allowed."""
  return any(_CURE.search(part) for part in re.split(r"[:;,(] ?", text)[1:])


def _files(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
  wrong = [name for name in gone_or_changed(before, after) if not case.may_change(name, ended.status != 0)]
  if wrong:
    yield f"changed files: {', '.join(wrong[:4])}{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}"
  new = added(before, after)
  if case.early and ended.status != 0 and new:
    yield f"wrote before it refused: {', '.join(new[:4])}{f' and {len(new) - 4} more' if len(new) > 4 else ''}"
