"""What a run does, in order. The only rooms that join data, teachers, methods, evaluation and files."""

from collections.abc import Mapping
from typing import Any

from jdistill.files import read_json
from jdistill.stages import distill, evaluate, experts, export, plan, report, sweep
from jdistill.stages.context import Context, Interrupted

_RUN = {
  "experts": experts.run,
  "distill": distill.run,
  "evaluate": evaluate.run,
  "export": export.run,
  "report": report.run,
}

__all__ = ["Context", "Interrupted", "plan", "run_stages", "sweep"]


def run_stages(ctx: Context) -> Mapping[str, Any]:
  """Runs the stages of a configuration in order; finished ones are skipped, an interrupted one goes on.

  The report is always made anew: it is cheap, and a second look at a finished run should show it again.

  Returns:
    What `summary.json` holds (an empty mapping without the stage `report`).
  """
  ctx.check()
  ctx.open_workdir()
  for stage in ctx.config["stages"]:
    if stage != "report" and ctx.finished(stage) is not None:
      if stage == "export":
        export.verify(ctx)
      continue
    if ctx.stop_requested:
      raise Interrupted(f"stopped before stage {stage}")
    _RUN[stage](ctx)
  path = ctx.workdir / "summary.json"
  return read_json(path) if path.exists() else {}
