"""What a run does, in order. The only rooms that join data, teachers, methods, evaluation and files."""

from collections.abc import Mapping
from typing import Any

from jdistill.files import read_json
from jdistill.stages import distill, evaluate, experts, export, plan, report, sweep, topology
from jdistill.stages.context import Context, Interrupted, lead

_RUN = {
  "experts": experts.run,
  "distill": distill.run,
  "evaluate": evaluate.run,
  "export": lambda ctx: lead(lambda: export.run(ctx)),
  "report": lambda ctx: lead(lambda: report.run(ctx)),
}

__all__ = ["Context", "Interrupted", "plan", "run_stages", "sweep", "topology"]


def run_stages(ctx: Context) -> Mapping[str, Any]:
  """Runs the stages of a configuration in order; finished ones are skipped, an interrupted one goes on.

  The report is always made anew: it is cheap, and a second look at a finished run should show it again.

  Returns:
    What `summary.json` holds (an empty mapping without the stage `report`).
  """
  ctx.check()
  ctx.open_workdir()
  for stage in ctx.config["stages"]:
    if stage != "report" and lead(lambda stage=stage: ctx.finished(stage) is not None):
      if stage == "export":
        lead(lambda: export.verify(ctx))
      continue
    if ctx.stops():
      raise Interrupted(f"stopped before stage {stage}")
    _RUN[stage](ctx)
  path = ctx.workdir / "summary.json"
  return lead(lambda: read_json(path) if path.exists() else {})
