"""Stage `select`: chooses the examples that students train on, by what proxy networks make of them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.config import Declared
from jdistill.config.arms import SELECT_SECTIONS
from jdistill.jobs import choices, job_plan, proxies, rollouts, scoring, subset
from jdistill.reporting import Section
from jdistill.runs.run import Run
from jdistill.selection import SCORERS
from jdistill.selection.traces import TRACES
from jdistill.stages.stage import Part, Stage


def _arms(run: Run) -> dict[str, Mapping[str, Any]]:
  """Those that train on a choice which no search is open about."""
  found = {label: run.config["arms"][label] for label in run.config["order"]}
  open_ = {
    label for label, grid in run.config["tune"].items() if any(key.split("/")[0] in SELECT_SECTIONS for key in grid)
  }
  return {label: arm for label, arm in found.items() if subset.is_selected(arm) and label not in open_}


def _seeds(run: Run) -> list[int]:
  return list(range(run.config["seeds"]))


def _check(run: Run) -> None:
  for label in run.config["order"]:
    arm = run.config["arms"][label]
    if not subset.is_selected(arm):
      continue
    try:
      check_arm(run, arm, _seeds(run), label)
    except UserError as error:
      raise UserError(f"{label}: {error}") from error


def check_arm(run: Run, arm: Mapping[str, Any], seeds: Sequence[int], label: str = "") -> None:
  """Refuses a selection that cannot be made for some seeds.

  Raises:
    UserError: examples without one label each, a budget that a class cannot keep, or a selector that needs networks,
      checks or held-out examples that there are not.
  """
  own, task, wanted = arm["select"], run.task(arm["task"]), subset.needs(arm)
  name = own["name"]
  labels = np.asarray(task.data.y)
  if subset.has_chunks(run, arm):
    _check_chunks(run, label, arm)
    return
  if scoring.is_scored(arm):
    scoring.check(run, label, arm)
  scoring.check_reference(run, arm)
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
    raise UserError(
      f"data_policy.name='selected': selectors need one label for every example, and task.name="
      f"{arm['task']['name']!r} has others; choose another data_policy"
    )
  for seed in seeds:
    subset.kept(run, arm, seed)
  if lacking := [need for need in wanted if need in ("logits", "history")] * (own["runs"] == 0):
    raise UserError(f"select.runs=0: {name} needs {lacking[0]} of a network; set at least 1")
  epochs = arm["proxy_train"]["epochs"]
  if own["runs"] and wanted and subset.epoch_of(arm) > epochs:
    raise UserError(f"select.at_epoch={own['at_epoch']}: proxies have proxy_train.epochs={epochs}; lower it")
  if "history" in wanted and epochs < 2:
    raise UserError(
      f"proxy_train.epochs={epochs}: {name} needs a history of at least 2 checks, one per epoch; raise it"
    )
  if "validation" in wanted:
    held = np.asarray(task.validation.y)
    missing = sorted(set(labels.tolist()) - set(held.tolist()))
    if missing:
      raise UserError(
        f"validation_size={run.config['validation_size']}: {name} needs held-out examples of every class, and there "
        f"are none of class {missing[0]}; raise it"
      )
  if subset.has_proxies(arm):
    job_plan.plan_of(run, proxies.job_of(run, "", arm, [0]))  # refuses a proxy that does not fit


def _check_chunks(run: Run, label: str, arm: Mapping[str, Any]) -> None:
  """Refuses selectors that need a class of every chunk, and scores that cannot be made."""
  if set(subset.needs(arm)) - {scoring.TEACHER, scoring.REFERENCE, *rollouts.NEEDS}:
    raise UserError(
      f"data_policy.name='selected': selectors need one label for every example, and task.name="
      f"{arm['task']['name']!r} has others; choose another data_policy, or one of random, "
      + ", ".join([*SCORERS, *TRACES])
    )
  if scoring.is_scored(arm):
    scoring.check(run, label, arm)
  if rollouts.is_asked(arm):
    rollouts.check(run, arm)
  subset.kept(run, arm)


def _run(run: Run) -> None:
  begin, records = time.monotonic(), {}
  for label, arm in _arms(run).items():
    if run.stops():
      run.interrupt("select", begin, f"{len(records)} of {len(_arms(run))} choices are saved")
    found = choices.ready(run, label, arm, _seeds(run), "select")
    records[label] = figures_of(arm, found)
  run.finish("select", begin, choices=records)


def _verify(run: Run) -> None:
  for arm in _arms(run).values():
    choices.verify(run, arm, _seeds(run))


def _plan(run: Run) -> list[tuple[str, str]]:
  return plan_rows(run, _arms(run), _seeds(run))


def plan_rows(run: Run, arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> list[tuple[str, str]]:
  """What the choices of some arms would cost; proxies that several ask stand there once."""
  rows, seen = [], []
  for label, arm in arms.items():
    own, count = arm["select"], len(seeds)
    if subset.has_proxies(arm) and (identity := proxies.identity_of(run, arm, seeds)) not in seen:
      seen.append(identity)
      found = job_plan.plan_of(run, proxies.job_of(run, label, arm, [0]))
      networks = count * own["runs"]
      rows.append(
        (
          f"proxies of {label}: {networks} x {arm['proxy']['name']} ({found.parameters:,} parameters), "
          f"{found.steps:,} steps, asked after epoch {subset.epoch_of(arm)}",
          found.cost(networks),
        )
      )
    for kind in scoring.kinds(arm):
      if (identity := scoring.identity_of(run, arm, kind)) not in seen:
        seen.append(identity)
        rows.append(_scores_row(run, label, arm, kind))
    if rollouts.is_asked(arm) and (identity := rollouts.identity_of(run, arm)) not in seen:
      seen.append(identity)
      rows.append(rollouts.plan_row(run, label, arm))
    size = len(subset.labels_of(run, arm, 0))
    times = f", {count} times" if count > 1 else ""
    rows.append((f"{label}: {own['name']} keeps {subset.kept(run, arm):,} of {size:,} examples{times}", ""))
  return rows


def _scores_row(run: Run, label: str, arm: Mapping[str, Any], kind: str) -> tuple[str, str]:
  """What the losses of one kind would cost."""
  what = f"scores of {len(subset.pool(run, arm)):,} chunks"
  if kind == scoring.TEACHER:
    return f"{what} by the teacher", ""
  found = job_plan.plan_of(run, scoring.job_of(run, label, arm))
  aside = len(subset.set_aside(run, arm))
  model = f"{arm['proxy']['name']} ({found.parameters:,} parameters), {found.steps:,} steps on {aside:,} others"
  return f"{what} by a reference, {model}", found.cost(1)


def figures_of(arm: Mapping[str, Any], found: choices.Found) -> dict[str, Any]:
  """What a report tells of a choice."""
  seconds = {"proxy_seconds": found.proxy_seconds, "select_seconds": found.select_seconds}
  return {"selector": arm["select"]["name"], **seconds, **found.about}


def table(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
  """The choices of some arms, as `figures_of` gives them, as a table."""
  noisy = any("wrong_labels" in one for one in found.values())
  domains = list(dict.fromkeys(name for one in found.values() for name in one.get("domains", {})))
  headers = ["arm", "selector", "kept", "weights", "proxies (s)", "selecting (s)"]
  headers += ["wrong labels"] * noisy + domains
  rows = []
  for label, one in found.items():
    low, high = one["weights"]
    rows.append(
      [
        label,
        one["selector"],
        f"{np.mean(one['kept']):g} of {one['examples']}",
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
        f"{one['proxy_seconds']:.2f}",
        f"{one['select_seconds']:.2f}",
        *([f"{np.mean(one['wrong_labels']):.1%}"] if "wrong_labels" in one else [""] * noisy),
        *(f"{np.mean(one['domains'][name]):.1%}" if name in one.get("domains", {}) else "" for name in domains),
      ]
    )
  return headers, rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  found = record["choices"]
  if not found:
    return Part()
  text = (
    "Seconds are of the choices for all seeds: of training their proxies, without compilation, and of selecting. Arms "
    "that ask the same proxies share them here; each would need them alone. Both count in times to a score."
  )
  sections = [Section("Selection", text, table(found))]
  if scored := {label: one for label, one in found.items() if one.get("losses")}:
    sections.append(Section("Scores", _SCORES, _scores_table(scored)))
  if asked := {label: one for label, one in found.items() if "smoke" in one}:
    sections.append(Section("Smoke tests", _SMOKE, _smoke_table(asked)))
  return Part({"choices": found}, sections=sections)


_SMOKE = (
  "A student is trained on a few responses of every teacher, alike. Its score is of held-out examples; that of the "
  "teacher itself is the share of its responses that were right."
)


def _smoke_table(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
  rows = [
    [label, teacher, f"{means['own']:.3f}", f"{np.mean(means['students']):.3f}", f"{np.std(means['students']):.3f}"]
    for label, one in found.items()
    for teacher, means in one["smoke"].items()
  ]
  rows += [[label, one["text"], "", "", ""] for label, one in found.items()]
  return ["arm", "teacher", "teacher's own score", "score of its students", "deviation"], rows


_SCORES = (
  "Mean losses of the chunks that could be chosen, in nats per token, by their domain. AUC is the probability that a "
  "chunk of the domain has a greater difference of reference and teacher than one of the others."
)


def _scores_table(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
  columns = {scoring.TEACHER: "teacher", scoring.REFERENCE: "reference", "difference": "difference", "auc": "AUC"}
  rows = [
    [label, name, *(f"{means[key]:.4f}" if key in means else "" for key in columns)]
    for label, one in found.items()
    for name, means in one["losses"].items()
  ]
  return ["arm", "domain", *columns.values()], rows


STAGE = Stage("select", _run, Declared(), (), _check, _verify, _plan, _report)
