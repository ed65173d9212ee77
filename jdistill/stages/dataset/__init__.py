"""Data-set distillation: experts -> distill -> evaluate -> export -> report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.stages.context import lead
from jdistill.stages.dataset import distill, evaluate, experts, export, plan, report, topology
from jdistill.stages.dataset.compare import COMPARISON
from jdistill.stages.dataset.context import Context

RUN = {
  "experts": experts.run,
  "distill": distill.run,
  "evaluate": evaluate.run,
  "export": lambda ctx: lead(lambda: export.run(ctx)),
  "report": lambda ctx: lead(lambda: report.run(ctx)),
}
VERIFY = {"export": lambda ctx: lead(lambda: export.verify(ctx))}  # looked at again where a stage is skipped

__all__ = ["COMPARISON", "RUN", "VERIFY", "Context", "check", "dry_run", "label", "plan", "topology"]


def label(config: Mapping[str, Any], digest: str) -> str:
  """The name of a run's default work directory."""
  return f"{config['name']}-{Path(config['dataset']).stem}-ipc{config['ipc']}-{digest[:8]}"


def check(ctx: Context) -> None:
  """Refuses what cannot work, before any work."""
  ctx.check()


def dry_run(ctx: Context, slice_of_tpus: str | None) -> None:
  """What a run would need here, or on TPUs that need not be there."""
  if slice_of_tpus is None:
    plan.run(ctx)
  else:
    topology.run(ctx, slice_of_tpus)
