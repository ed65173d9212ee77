"""The metrics of a training that goes on: what a checkpoint was made with must still be there."""

from pathlib import Path

from jdistill.reporting import JsonlWriter
from jdistill.training import Checkpoints


def writer(path: Path, name: str, step: int, checkpoints: Checkpoints | None) -> JsonlWriter:
  """A writer that goes on after a step, and whose lines later checkpoints note.

  Args:
    path: of the metrics.
    name: what the lines are labelled with.
    step: the last step whose results were kept; 0 for none.
    checkpoints: of the training.

  Raises:
    UserError: lines that the checkpoint of that step was made with were changed or lost.
  """
  noted = checkpoints.noted(step) if step and checkpoints is not None else ""
  found = JsonlWriter(path, name, resume_step=step or -1, noted=noted)
  if checkpoints is not None:
    checkpoints.note = lambda: found.digest
  return found
