"""The metrics of a training that goes on: what a checkpoint was made with must still be there."""

from jdistill.base import UserError
from jdistill.reporting import JsonlWriter
from jdistill.stages.run import Run
from jdistill.training import Checkpoints


def check_lines(run: Run, checkpoints: Checkpoints | None, step: int, writer: JsonlWriter) -> None:
  """Refuses to go on after a step whose metrics were changed or lost, and has later checkpoints note them.

  Raises:
    UserError: naming the file, and the directory without which the training begins anew.
  """
  if checkpoints is None:
    return
  noted = checkpoints.noted(step) if step else ""
  if noted and noted != writer.digest:
    raise UserError(
      f"{writer.path} is damaged or lost lines of before step {step}: put it back as it was, or delete "
      f"{checkpoints.directory} to train anew"
    )
  checkpoints.note = lambda: writer.digest
