"""Stage `students`: trains the students of all arms with paired seeds and scores them on the test examples."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from jdistill import schema
from jdistill.config import Declared
from jdistill.evaluation import time_to_accuracy
from jdistill.files import format_bytes
from jdistill.jobs import arms, networks, traced
from jdistill.reporting import Section, comparison, curves, literal, units
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Range
from jdistill.stages import exhibits, metric_curves, tune
from jdistill.stages.stage import Part, Stage
from jdistill.tasks import Task

_FILE = "results.json"


class Keys(NamedTuple):
  """Keys at the top."""

  seeds: Annotated[int, Range(1, 1000)] = 10
  subject: str | None = None
  reference: str | None = None
  tune_seeds: Annotated[int, Range(1)] = 3
  score_every: Annotated[int, Range(1)] | None = None
  target_scores: tuple[float, ...] = ()
  order: tuple[str, ...] | None = None


def _check(run: Run) -> None:
  """Refuses arms that cannot work, where there is still something to train."""
  if run.finished("students", STAGE.leaves) is None:
    traced.check(run)


def _run(run: Run) -> None:
  found, c = grid.Grid(run, "students", _FILE), run.config
  tuned, _ = tune.chosen(run)

  def one(label: str) -> dict[str, Any]:
    arm = tuned[label]
    task = run.task(arm["task"])
    scores, figures = arms.train_arm(run, label, "", arm, list(range(c["seeds"])), task.test, "students")
    columns = {name: [one[name] for one in scores] for name in scores[0]}
    mean = np.mean(columns[task.metric])
    run.log(f"students: {label}: {task.metric} {mean:.4g} in {figures['seconds']:.1f} s")
    name = figures["metrics"]
    own = [*(run.workdir / "metrics").glob(f"{name}*.jsonl"), *(run.workdir / "samples").glob(f"{name}.npz")]
    return {"arm": arm, "scores": columns, "figures": figures, "files": on_first(lambda: run.checksums(*own))}

  found.work(c["order"], one)
  found.finish()


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for label in run.config["order"]:
    arm = run.config["arms"][label]
    plans = [traced.phase(run, label, arm, name) for name in networks.phases(arm)]
    last = plans[-1]
    extra = f", {last.extra:,} beside it" if last.extra else ""
    steps = " + ".join(f"{one.steps:,}" for one in plans)
    rows.append(
      (
        f"{label}: {run.config['seeds']} x {arm['student']['name']} ({last.parameters:,} parameters{extra}), "
        f"{steps} steps",
        f"{last.cost(run.config['seeds'])}, state {format_bytes(last.state_bytes)}",
      )
    )
    if last.advice:
      rows.append((f"{label}: {last.advice}", ""))
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  c, task = run.config, run.task()
  reference, compared = grid.compared(run, _FILE)
  _, choices = tune.chosen(run)
  for label, cell in compared.items():
    cell["tuned"] = choices.get(label, {})
    if "curve" in cell:
      cell["time_to"] = {f"{target:g}": _time_to(cell, task, target) for target in c["target_scores"]}
      cell["reading"] = _reading(cell, task)
  table = comparison.table(compared, task.metric, reference, columns=_columns(compared, c["target_scores"]))
  said = comparison.verdict(compared, run.subject, reference, task.metric, task.higher)
  text = (
    f"{said}.\n\nMean ± standard deviation over {c['seeds']} seeds after the last epoch. Seeds are paired: a seed has "
    "the same initial student, order and examples in every arm. Choices were made on held-out training examples with "
    "other seeds, never on test examples. Seconds are of all seeds with compilation; memory is what the compiled step "
    "of one device holds, data, teachers and scratch included. Images stored are the pixels that a student's images "
    "need, at 8 bits for each value, and their share of all. Times to a score are of all seeds, without compilation, "
    "of a score interpolated between looks at the held-out examples; teachers count as given."
  )
  checks, warnings = metric_curves.checks(run, compared)
  floor = _floor(task)
  text += f"\n\n{literal(floor)}" if floor else ""
  result = Section("Result", text, table, _figures(run, compared, task.metric))
  sections = [result, *_stored(compared), *exhibits.sections(run, compared), *checks]
  summary = {"reference": reference, "arms": compared} | ({"floor": dict(task.floor)} if task.floor else {})
  return Part(summary, table, said, [*([floor] if floor else []), *warnings], sections)


def _floor(task: Task) -> str:
  """What real data get, in a line; "" where the task does not know it."""
  figures = ", ".join(f"{name} {value:.4g}" for name, value in task.floor.items())
  return f"real training data in the place of samples: {figures}" if figures else ""


def _stored(cells: Mapping[str, Any]) -> list[Section]:
  """What stored targets of text cost, and what they lose of the teacher."""
  rows = []
  for label, cell in cells.items():
    if found := cell.get("targets"):
      lost = [f"{found[name]:.4g}" if name in found else "" for name in ("kept_mass", "kl", "total_variation")]
      rows.append((label, found["store"], format_bytes(found["nbytes"]), f"{found['seconds']:.1f}", *lost))
  if not rows:
    return []
  headers = ("arm", "stored as", "bytes", "seconds", "mass kept", "KL from the teacher", "total variation")
  text = (
    "The teacher read every row of the training text once. Hidden states lose their rounding only; of the likeliest "
    "tokens the last columns are means over the tokens that count, the KL in nats."
  )
  return [Section("Stored targets", text, (headers, rows))]


def _mean_curve(cell: Mapping[str, Any], metric: str) -> tuple[list[int], list[float], list[float]]:
  """Updates, seconds of training (with the choices of a policy meanwhile, without scoring), and mean scores."""
  points = cell["curve"]
  means = [float(np.mean([one[metric] for one in point["scores"]])) for point in points]
  return [point["step"] for point in points], [point["seconds"] for point in points], means


def _time_to(cell: Mapping[str, Any], task: Task, target: float) -> dict[str, float] | None:
  """Seconds, with those before the training, and updates until the mean held-out score of all seeds is at a target."""
  steps, seconds, means = _mean_curve(cell, task.metric)
  prepare = cell.get("prepare_seconds", 0.0)
  found = {
    "seconds": time_to_accuracy(seconds, means, target, prepare=prepare, higher=task.higher),
    "steps": time_to_accuracy(steps, means, target, higher=task.higher),
  }
  return found if math.isfinite(found["steps"]) else None


def _reading(cell: Mapping[str, Any], task: Task) -> dict[str, str]:
  """What the task tells of the form of an arm's curves."""
  points = cell["curve"]
  if task.reading is None or not points:
    return {}
  names = [name for name in points[0]["scores"][0] if all(name in one for row in points for one in row["scores"])]
  series = {name: np.array([[one[name] for one in row["scores"]] for row in points]) for name in names}
  return dict(task.reading(np.array([row["step"] for row in points]), series))


def _columns(cells: Mapping[str, Any], targets: Sequence[float]) -> dict[str, dict[str, str]]:
  def time_to(target: float, cell: Mapping[str, Any]) -> str:
    if "time_to" not in cell:
      return ""
    found = cell["time_to"][f"{target:g}"]
    return "never" if found is None else f"{found['seconds']:.2f} ({found['steps']:.0f})"

  texts = {f"seconds (steps) to {target:g}": functools.partial(time_to, target) for target in targets}
  texts |= {
    "of these before": lambda c: f"{c['prepare_seconds']:.2f}" if targets and "prepare_seconds" in c else "",
    "tokens/s": lambda c: f"{c['tokens_per_second']:.0f}" if c.get("tokens_per_second") else "",
    "seconds": lambda c: f"{c['seconds']:.1f}",
    "memory": lambda c: format_bytes(c["step_bytes"]) if c["step_bytes"] else "",
    "target bytes": lambda c: format_bytes(c["target_bytes"]) if c["target_bytes"] else "",
    "images stored": lambda c: (
      f"{format_bytes(c['image_bytes'])} ({c['image_share']:.1%})" if "image_bytes" in c else ""
    ),
    "student FLOPs": lambda c: units.amount(c["student_flops"], "FLOP") if "student_flops" in c else "",
    "teacher FLOPs": lambda c: units.amount(c["teacher_flops"], "FLOP") if "teacher_flops" in c else "",
    "reference FLOPs": lambda c: units.amount(c["reference_flops"], "FLOP") if "reference_flops" in c else "",
    "steps": lambda c: f"{c['steps']:,}" if "student_flops" in c else "",
    "evaluations per sample": lambda c: f"{c['evaluations']:,}" if "evaluations" in c else "",
    "seconds per 1,000 samples": lambda c: f"{c['sample_seconds']:.3g}" if "evaluations" in c else "",
    "extra weights": lambda c: f"{c['extra_parameters']:,}" if c["extra_parameters"] else "",
    **{name: lambda c, name=name: c.get("reading", {}).get(name, "") for name in _names(cells, "reading")},
    "chosen": lambda c: ", ".join(f"{name.partition('/')[2]}={value}" for name, value in c["tuned"].items()),
  }
  whole = {label: cell for label, cell in cells.items() if "failed" not in cell}
  return {heading: {label: text(cell) for label, cell in whole.items()} for heading, text in texts.items()}


def _names(cells: Mapping[str, Any], key: str) -> list[str]:
  """Names that the mappings of this key have, in their order."""
  return list(dict.fromkeys(name for cell in cells.values() for name in cell.get(key, {})))


def _score_curves(run: Run, cells: Mapping[str, Any]) -> list[tuple[str, Path]]:
  """Every figure of the held-out examples by updates, mean over seeds, where there are several figures."""
  first = {label: cell["curve"][0]["scores"][0] for label, cell in cells.items() if cell.get("curve")}
  names = list(dict.fromkeys(name for figures in first.values() for name in figures))
  out = []
  for number, name in enumerate(names if len(names) > 1 else []):
    found = {label: _mean_curve(cells[label], name) for label, figures in first.items() if name in figures}
    file = run.workdir / "curves" / f"score{number}.png"
    series = {label: (steps, means) for label, (steps, _, means) in found.items()}
    curves(file, series, f"{name}, held-out", xlabel="update")
    out.append((f"{name} on held-out examples by updates", file))
  return out


def _figures(run: Run, cells: Mapping[str, Any], metric: str) -> list[tuple[str, Path]]:
  bars = run.workdir / "curves" / "arms.png"
  comparison.bars(bars, {"": cells}, metric)
  out = [(f"{metric} of all arms; bars start above zero, whiskers are standard deviations over seeds", bars)]
  scored = {}
  for label, cell in cells.items():
    if cell.get("curve"):
      _, seconds, means = _mean_curve(cell, metric)
      scored[label] = [cell.get("prepare_seconds", 0.0) + one for one in seconds], means
  if scored:
    file = run.workdir / "curves" / "time.png"
    curves(file, scored, f"{metric} on held-out examples", xlabel="seconds of selection and training")
    out.append(("held-out score by time: proxies, selection and training, without scoring", file))
  out += _score_curves(run, cells)
  return out + metric_curves.losses(run, cells[run.subject].get("metrics"))


STAGE = Stage(
  "students",
  _run,
  Declared(schema.fields(Keys), arms.SECTIONS, ("arms", "tune", "committee"), arms.ARMS.expand),
  (f"stages/{_FILE}",),
  _check,
  lambda run: grid.check_metrics(run, grid.load(run, _FILE)),
  plan=_plan,
  report=_report,
)
