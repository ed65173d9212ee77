"""Data-set distillation: experts -> distill -> evaluate -> export -> report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.stages.context import lead
from jdistill.stages.dataset import distill, evaluate, experts, export, report
from jdistill.stages.dataset.context import Context

RUN = {
  "experts": experts.run,
  "distill": distill.run,
  "evaluate": evaluate.run,
  "export": lambda ctx: lead(lambda: export.run(ctx)),
  "report": lambda ctx: lead(lambda: report.run(ctx)),
}
VERIFY = {"export": lambda ctx: lead(lambda: export.verify(ctx))}  # looked at again where a stage is skipped

__all__ = ["RUN", "VERIFY", "Context", "label"]


def label(config: Mapping[str, Any], digest: str) -> str:
  """The name of a run's default work directory."""
  return f"{config['name']}-{Path(config['dataset']).stem}-ipc{config['ipc']}-{digest[:8]}"
