"""What a run does, in order. The only room that joins data, teachers, methods, evaluation and files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from jdistill import config as config_lib
from jdistill.files import Damaged, read_json
from jdistill.runs import claim, locked
from jdistill.runs.run import Run
from jdistill.runs.workdir import Interrupted, on_first
from jdistill.stages import (
  active,
  calibrate,
  distill,
  evaluate,
  export,
  federate,
  keep,
  orders,
  patches,
  project,
  prune,
  relabel,
  report,
  select,
  students,
  teachers,
  transfer,
  tune,
  warm_up,
)
from jdistill.stages.stage import Part, Stage
from jdistill.training import parallel

STAGES: dict[str, Stage] = {
  stage.name: stage
  for stage in (
    calibrate.STAGE,
    teachers.STAGE,
    warm_up.STAGE,
    project.STAGE,
    select.STAGE,
    prune.STAGE,
    patches.STAGE,
    distill.STAGE,
    keep.STAGE,
    relabel.STAGE,
    evaluate.STAGE,
    transfer.STAGE,
    tune.STAGE,
    students.STAGE,
    federate.STAGE,
    active.STAGE,
    orders.STAGE,
    export.STAGE,
  )
}
STAGES["report"] = report.stage(dict(STAGES))
_DECLARED = {name: stage.fields for name, stage in STAGES.items()}

__all__ = [
  "STAGES",
  "Interrupted",
  "Part",
  "Run",
  "Stage",
  "goes_on",
  "label",
  "on_first",
  "resolve",
  "run_stages",
  "template",
]


def resolve(experiment: Mapping[str, Any]) -> dict[str, Any]:
  """`jdistill.config.resolve` with the fields of these stages."""
  return config_lib.resolve(experiment, _DECLARED)


def template(method: str) -> ml_collections.ConfigDict:
  """`jdistill.config.template` with the fields of these stages."""
  return config_lib.template(method, _DECLARED)


def label(config: Mapping[str, Any]) -> str:
  """The name of a run's default work directory."""
  size = f"-ipc{config['ipc']}" if "ipc" in config else ""
  dataset = re.sub(r"[^\w.-]+", "-", Path(config["dataset"]).stem)
  return f"{config['name']}-{dataset}{size}-{config_lib.config_hash(config)[:8]}"


def check(run: Run) -> None:
  """Refuses what cannot work, as far as it can be known before any work; nothing is written.

  Raises:
    UserError: the first thing that does not fit.
  """
  how = run.config["parallel"]
  parallel.check_sizes(how["pool"] or 1, how["data"] or 1)
  claim.check_alike(run)
  claim.check(run)
  claim.check_artefacts(run)
  run.read()
  claim.check_data(run)
  for name in run.config["stages"]:
    STAGES[name].check(run)


def goes_on(run: Run) -> str:
  """Where the same command will take the run up again: `"the run goes on from ..."`."""
  for name in run.config["stages"]:
    if not run.record_of(name).exists():
      return f"the run goes on from {STAGES[name].progress(run)}stage {name}"
  return "the run is nearly finished"


def run_stages(run: Run) -> Mapping[str, Any]:
  """Runs the stages of a configuration in order; finished ones are skipped, an interrupted one goes on.

  The report is always made anew: it is cheap, and a second look at a finished run should show it again.

  Returns:
    What `summary.json` holds (an empty mapping without the stage `report`).
  """
  claim.check(run)  # before the lock, which would be a file in a directory of other things
  with locked.directory(run.workdir):
    check(run)
    claim.write(run)
    for name in run.config["stages"]:
      stage = STAGES[name]
      if name == "report" or not _is_finished(run, stage):
        if run.stops():
          raise Interrupted(f"stopped before stage {name}")
        stage.run(run)
      if name == calibrate.STAGE.name and calibrate.adopt(run, resolve):
        for later in run.config["stages"]:
          STAGES[later].check(run)
    path = run.workdir / "summary.json"
    return on_first(lambda: read_json(path) if path.exists() else {})


def _is_finished(run: Run, stage: Stage) -> bool:
  """Whether a stage can be passed over; one of which something is gone or damaged is made again."""

  def look() -> bool:
    if run.finished(stage.name, stage.leaves) is None:
      run.reopen(stage.name, stage.leaves)
      return False
    try:
      stage.verify(run)
    except Damaged as error:
      run.tell(stage.name, error)
      return False
    return True

  return on_first(look)
