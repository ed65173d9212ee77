"""The contract of stages: what a run does is a tuple of these, in the order that the catalog's row gives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jdistill.config import Declared
from jdistill.reporting import Section
from jdistill.runs.run import Run


class Part(NamedTuple):
  """What a finished stage adds to the report of a run.

  Attributes:
    summary: figures for `summary.json`.
    result: the table that is printed at the end, `(headers, rows)`.
    verdict: one plain sentence about the method against its reference.
    lines: what else a reader wants to know, one line each.
    sections: of the report, in order.
  """

  summary: Mapping[str, Any] = {}
  result: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
  verdict: str = ""
  lines: Sequence[str] = ()
  sections: Sequence[Section] = ()


class Stage(NamedTuple):
  """A part of a run as a value.

  Attributes:
    name: as configurations name it.
    run: does the work; resumable, and repeated where what it left is gone.
    fields: what it adds to a configuration.
    leaves: files of the work directory without which it is not finished.
    check: refuses what cannot work, before any work.
    verify: looks at what it left, where a finished stage is passed over.
    plan: what it would cost: rows `(what, cost)` or `(what, cost, details)`; compiles where it must, trains nothing.
    report: `(run, record)`, its part of the report, from what `Run.finished` gives; asked of finished stages.
    progress: `"step N of "` where it goes on in the middle.
  """

  name: str
  run: Callable[[Run], None]
  fields: Declared = Declared()
  leaves: tuple[str, ...] = ()
  check: Callable[[Run], None] = lambda run: None
  verify: Callable[[Run], None] = lambda run: None
  plan: Callable[[Run], list[tuple[str, ...]]] = lambda run: []
  report: Callable[[Run, Mapping[str, Any]], Part] = lambda run, record: Part()
  progress: Callable[[Run], str] = lambda run: ""
