"""What finished students are shown by: a text among an arm's figures, or samples in a file."""

import numpy as np

from jdistill.files import read_npz, write_npz
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.tasks import Exhibit, Finished

_FOLDER, _NAME = "samples", "samples"


def made(run: Run, name: str, exhibit: Exhibit, student: Finished) -> str:
  """A student's text, or the file in the work directory that its samples were written to.

  Args:
    run: whose work directory.
    name: of the file, without its ending.
    exhibit: of the task.
    student: the first one of an arm.
  """
  found = exhibit.make(student)
  if isinstance(found, str):
    return found
  path = run.workdir / _FOLDER / f"{name}.npz"
  on_first(lambda: write_npz(path, {_NAME: np.asarray(found, np.float32)}))
  return str(path.relative_to(run.workdir))


def read(run: Run, file: str) -> np.ndarray | None:
  """Samples that `made` wrote; `None` where they are gone.

  Raises:
    UserError: the file is damaged.
  """
  path = run.workdir / file
  return read_npz(path)[_NAME] if path.exists() else None
