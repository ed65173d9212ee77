"""Knowledge distillation: teacher -> tune -> students -> report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.stages.context import lead
from jdistill.stages.knowledge import report, students, teacher
from jdistill.stages.knowledge.context import Context

RUN = {
  "teacher": teacher.run,
  "tune": students.run_tune,
  "students": students.run,
  "report": lambda ctx: lead(lambda: report.run(ctx)),
}
VERIFY = {"teacher": teacher.verify}

__all__ = ["RUN", "VERIFY", "Context", "label"]


def label(config: Mapping[str, Any], digest: str) -> str:
  """The name of a run's default work directory."""
  return f"{config['name']}-{Path(config['dataset']).stem}-{digest[:8]}"
