"""Named cells of work: kept in one file, resumed cell by cell, a failing one kept apart from the others."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jdistill.base import Diverged
from jdistill.files import Damaged, read_record, write_record
from jdistill.reporting import comparison
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first


class Grid:
  """The cells of one stage.

  Attributes:
    cells: finished ones (and begun ones, where work tells so) by name, as the file holds them.
  """

  def __init__(self, run: Run, stage: str, file: str):
    """Opens the cells of a stage: a file in `stages/` of the work directory."""
    self._run, self._stage, self._begin = run, stage, time.monotonic()
    self._path = run.workdir / "stages" / file
    self.cells: dict[str, Any] = on_first(self._read)

  def _read(self) -> dict[str, Any]:
    try:
      cells = read_record(self._path) if self._path.exists() else {}
    except Damaged as error:
      self._run.tell(self._stage, error)
      return {}
    check_metrics(self._run, cells)
    return cells

  def work(self, names: Iterable[str], one: Callable[[str], dict[str, Any]]) -> None:
    """Does what is left: `one(name)` gives the record of a cell.

    A cell whose training diverges is recorded as `{"failed": message}`, and the others go on.
    """
    names = list(names)
    for name in names:
      if self.is_done(name):
        continue
      self.stop_if_asked(f"{sum(map(self.is_done, names))} of {len(names)} are saved")
      try:
        self.cells[name] = one(name)
        _require_finite(name, self.cells[name])
      except Diverged as error:
        self.cells[name] = {"failed": str(error)}
        self._run.log(f"{self._stage}: {error}")
      self.save()

  def is_done(self, name: str) -> bool:
    """Whether nothing is left to do in a cell."""
    return name in self.cells and not self.cells[name].get("begun")

  def save(self) -> None:
    """Writes all cells."""
    on_first(lambda: write_record(self._path, self.cells))

  def stop_if_asked(self, what: str) -> None:
    """Interrupts the stage where the user has asked for it; `what` tells how much is saved."""
    if self._run.stops():
      self._run.interrupt(self._stage, self._begin, what)

  def finish(self) -> None:
    """Marks the stage as finished."""
    if not self.cells:
      self.save()  # nothing was to be done, and that is a result too
    self._run.finish(self._stage, self._begin, (f"stages/{self._path.name}",))


def load(run: Run, file: str) -> dict[str, Any]:
  """The cells that a stage has left."""
  return read_record(run.workdir / "stages" / file)


def compared(run: Run, file: str) -> tuple[str, dict[str, dict[str, Any]]]:
  """The reference of a stage's arms, and their cells in order beside it, without what only the stage itself reads."""
  c, task, cells = run.config, run.task(), load(run, file)
  reference = c["reference"] or next(label for label in [*c["order"][1:], *c["order"]])
  found = comparison.compare({label: cells[label] for label in c["order"]}, task.metric, reference, higher=task.higher)
  for cell in found.values():
    cell |= cell.pop("figures", {})
    for name in ("arm", "files"):
      cell.pop(name, None)
  return reference, found


def check_metrics(run: Run, cells: Mapping[str, Any]) -> None:
  """Refuses finished cells whose metrics were changed since; see `WorkDirectory.check_metrics`."""
  for cell in cells.values():
    if "files" in cell:
      run.check_metrics(cell["files"])


def _require_finite(name: str, cell: Mapping[str, Any]) -> None:
  """Refuses a cell with a score that is not finite: no mean of it would be."""
  scores = dict(cell.get("scores", {})) | ({"values": cell["values"]} if "values" in cell else {})
  for metric, values in scores.items():
    if not np.isfinite(np.asarray(values, np.float64)).all():
      raise Diverged(f"{name}: {metric} is not finite; lower the learning rate of its training")
