"""Stage `prune`: chooses the real images that a set is made of, by what proxy networks make of them."""

import time
from collections.abc import Mapping
from typing import Any

from jdistill.base import UserError
from jdistill.config import Declared, sections
from jdistill.jobs import choices, subset
from jdistill.jobs.sections import check_train
from jdistill.reporting import Section
from jdistill.runs.run import Run
from jdistill.stages import build, real_images, select
from jdistill.stages.stage import Part, Stage


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  """Refuses numbers that the set decides, and a choice that nobody makes."""
  own, asked = out["select"], given.get("select") or {}
  for key in ("fraction", "per_class"):
    if asked.get(key) is not None:
      raise UserError(
        f"select.{key}={asked[key]}: ipc says how many images of each class a set is made of; leave it out"
      )
  if not own["balanced"]:
    raise UserError("select.balanced=False: a set is made of equally many images of each class; leave it out")
  if "distill" in out["stages"] and "prune" not in out["stages"] and own["name"] != "random":
    raise UserError(
      f"select.name={own['name']!r}: is read by the stage prune, without which images are random; add 'prune' to stages"
    )
  check_train("proxy_train", out["proxy_train"])


def _check(run: Run) -> None:
  task = run.task()
  sizes = [len(task.teacher.y), len(task.data.y), len(task.members(0))]
  if len(set(sizes)) > 1:
    raise UserError(
      f"task.student_size, task.teacher_size: leave {min(sizes)} of {max(sizes)} training images, and a set is chosen "
      "among all of them; leave both out, or set train_size"
    )
  build.part(run, "start").candidates(task.teacher.y, run.config["ipc"], task.num_classes)
  select.check_arm(run, real_images.arm_of(run), real_images.SEEDS)


def _run(run: Run) -> None:
  begin = time.monotonic()
  run.finish("prune", begin, choices={run.subject: select.figures_of(real_images.arm_of(run), real_images.choice(run))})


def _plan(run: Run) -> list[tuple[str, str]]:
  return select.plan_rows(run, {run.subject: real_images.arm_of(run)}, real_images.SEEDS)


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  found = record["choices"]
  text = (
    "Seconds are of training the proxies, without compilation, and of choosing. They are part of what the set costs."
  )
  return Part({"choices": found}, sections=[Section("Selection", text, select.table(found))])


STAGE = Stage(
  "prune",
  _run,
  Declared(sections=subset.SECTIONS | {"proxy": sections.network("model")}, complete=_complete),
  check=_check,
  verify=lambda run: choices.verify(run, real_images.arm_of(run), real_images.SEEDS),
  plan=_plan,
  report=_report,
)
