"""Stage `patches`: leaves out patches of the images that students train on, and puts something in their place."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.config import Declared
from jdistill.files import format_bytes
from jdistill.jobs import patched
from jdistill.reporting import Section
from jdistill.runs.run import Run
from jdistill.stages.stage import Part, Stage


def _arms(run: Run) -> dict[str, Mapping[str, Any]]:
  """Those whose images lose patches that no search is open about."""
  found = {label: run.config["arms"][label] for label in run.config["order"]}
  open_ = {label for label, grid in run.config["tune"].items() if any(key.startswith("patches/") for key in grid)}
  return {label: arm for label, arm in found.items() if patched.is_patched(arm) and label not in open_}


def _check(run: Run) -> None:
  for label in run.config["order"]:
    arm = run.config["arms"][label]
    if patched.is_patched(arm):
      try:
        patched.check(run, label, arm)
      except UserError as error:
        raise UserError(f"{label}: {error}") from error


def _run(run: Run) -> None:
  begin, records = time.monotonic(), {}
  for label, arm in _arms(run).items():
    if run.stops():
      run.interrupt("patches", begin, f"images of {len(records)} of {len(_arms(run))} arms are saved")
    found = patched.ready(run, label, arm, "patches")
    records[label] = {name: arm["patches"][name] for name in ("by", "fill")} | dict(found.about)
  run.finish("patches", begin, images=records)


def _verify(run: Run) -> None:
  for label, arm in _arms(run).items():
    patched.verify(run, label, arm)


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for label, arm in _arms(run).items():
    own, x = arm["patches"], run.task(arm["task"]).data.x
    size = 4 * int(np.prod(np.shape(x)))
    what = f"{label}: patches of {len(x):,} images, a share of {own['theta']:g} left out by {own['by']}"
    rows.append((what, f"keeps {format_bytes(size)}"))
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  found = record["images"]
  if not found:
    return Part()
  headers = ["arm", "kept by", "patches kept", "the others from", "squared error", "seconds"]
  rows = [
    [
      label,
      one["by"],
      f"{one['kept']} of {one['patches']}",
      one["fill"],
      f"{one['squared_error']:.4f}",
      f"{one['seconds']:.2f}",
    ]
    for label, one in found.items()
  ]
  text = (
    "Squared errors are means over the pixels left out of all training images, in the units of the network's input. "
    "All students of an arm see the same images. Seconds are without the training of the networks that are asked."
  )
  return Part({"patches": found}, sections=[Section("Patches", text, (headers, rows))])


STAGE = Stage("patches", _run, Declared(), (), _check, _verify, _plan, _report)
