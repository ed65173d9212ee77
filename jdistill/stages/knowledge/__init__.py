"""Knowledge distillation: teacher -> tune -> students -> report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.base import UserError
from jdistill.stages.context import lead
from jdistill.stages.knowledge import form, plan, report, students, teacher
from jdistill.stages.knowledge.compare import COMPARISON
from jdistill.stages.knowledge.context import Context

RUN = {
  "teacher": teacher.run,
  "tune": students.run_tune,
  "students": students.run,
  "report": lambda ctx: lead(lambda: report.run(ctx)),
}
VERIFY = {"teacher": teacher.verify}

__all__ = ["COMPARISON", "RUN", "VERIFY", "Context", "check", "dry_run", "label"]


def label(config: Mapping[str, Any], digest: str) -> str:
  """The name of a run's default work directory."""
  return f"{config['name']}-{Path(config['dataset']).stem}-{digest[:8]}"


def check(ctx: Context) -> None:
  """Refuses what cannot work, before any work: every arm is traced, so that losses and connectors can speak up."""
  ctx.check()
  form.check(ctx)


def dry_run(ctx: Context, slice_of_tpus: str | None) -> None:
  """What a run would train.

  Raises:
    UserError: TPUs were asked for.
  """
  if slice_of_tpus is not None:
    raise UserError(f"--topology={slice_of_tpus}: compiles data-set distillation only; leave it out")
  plan.run(ctx)
