"""What a run does, in order. The only rooms that join data, teachers, methods, evaluation and files."""

from collections.abc import Mapping
from typing import Any

from jdistill import catalog
from jdistill.files import read_json
from jdistill.stages import dataset, knowledge, sweep
from jdistill.stages.context import Context, Interrupted, lead

FAMILIES = {"dataset": dataset, "knowledge": knowledge}

__all__ = ["FAMILIES", "Context", "Interrupted", "family", "run_stages", "sweep"]


def family(config: Mapping[str, Any]):
  """The room of stages that a resolved configuration belongs to."""
  return FAMILIES[catalog.row(config["method"]["name"]).family]


def run_stages(ctx: Context) -> Mapping[str, Any]:
  """Runs the stages of a configuration in order; finished ones are skipped, an interrupted one goes on.

  The report is always made anew: it is cheap, and a second look at a finished run should show it again.

  Returns:
    What `summary.json` holds (an empty mapping without the stage `report`).
  """
  room = family(ctx.config)
  room.check(ctx)
  ctx.open_workdir()
  for stage in ctx.config["stages"]:
    if stage != "report" and lead(lambda stage=stage: ctx.finished(stage) is not None):
      room.VERIFY.get(stage, lambda ctx: None)(ctx)
      continue
    if ctx.stops():
      raise Interrupted(f"stopped before stage {stage}")
    room.RUN[stage](ctx)
  path = ctx.workdir / "summary.json"
  return lead(lambda: read_json(path) if path.exists() else {})
