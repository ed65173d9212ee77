"""What the report shows of the finished students of all arms: texts, or samples beside real data."""

from collections.abc import Mapping
from typing import Any

from jdistill.jobs import exhibits
from jdistill.reporting import Section, image_panels, point_panels
from jdistill.runs.run import Run
from jdistill.tasks import Exhibit

REAL = "real data"


def sections(run: Run, cells: Mapping[str, Any]) -> list[Section]:
  """The section `Samples`; none where the task shows nothing.

  Args:
    run: the run.
    cells: of the arms; `sample` is a text or the name of a file.
  """
  exhibit = run.task().exhibit
  found = {label: cell["sample"] for label, cell in cells.items() if "sample" in cell}
  if exhibit is None or not found:
    return []
  if exhibit.kind == "text":
    return [_texts(exhibit, found)]
  arrays = {label: exhibits.read(run, file) for label, file in found.items()}
  panels = {label: array for label, array in arrays.items() if array is not None}
  if not panels:
    return []
  path = run.workdir / "samples" / "samples.png"
  real = {} if exhibit.real is None else {REAL: exhibit.real}
  if exhibit.kind == "images":
    image_panels(path, real | panels, exhibit.columns)
  else:
    point_panels(path, real | panels, exhibit.real)
  return [Section("Samples", exhibit.about, images=[("samples of every arm's first student beside real data", path)])]


def _texts(exhibit: Exhibit, texts: Mapping[str, str]) -> Section:
  quoted = [
    f"**{label}**\n\n" + "\n".join(f"> {line}" for line in text.splitlines() or [""]) for label, text in texts.items()
  ]
  return Section("Samples", "\n\n".join([exhibit.about, *quoted]))
