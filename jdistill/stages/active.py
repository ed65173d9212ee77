"""Stage `active`: rounds in which students are trained, look at a pool and ask about some of it, arm by arm."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jdistill import catalog, schema
from jdistill.base import Diverged, Network, UserError, Variables
from jdistill.config import Declared, Plain
from jdistill.jobs import job_plan, networks, traced, train
from jdistill.jobs.networks import recipe_of
from jdistill.reporting import Section, comparison, curves
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Count, Range, Size
from jdistill.stages import active_rounds as rounds_lib
from jdistill.stages.stage import Part, Stage

_FILE = "rounds.json"


class Keys(NamedTuple):
  """Keys at the top."""

  seeds: Annotated[int, Range(1, 1000)] = 10
  subject: str | None = None
  reference: str | None = None
  order: tuple[str, ...] | None = None


class How(NamedTuple):
  """The rounds of all arms: how many, who answers, and what is shown beside the answers."""

  rounds: Size = 8
  queries: Count = 10
  answers: Literal["labels", "teacher"] = "labels"
  unlabelled: Size = 0
  steps: Count | None = None
  scratch: bool = True


def _check(run: Run) -> None:
  """Refuses arms that cannot work, where there is still something to do."""
  if run.finished("active", STAGE.leaves) is None:
    for label in run.config["order"]:
      _check_arm(run, label)
      try:
        job_plan.plan_of(run, _shapes(run, label))
      except ValueError as error:  # of pure losses while they are traced too
        raise UserError(f"{label}: {error}") from error


def _check_arm(run: Run, label: str) -> None:
  how, arm = run.config["active"], run.config["arms"][label]
  task, method = run.task(arm["task"]), arm["method"]["name"]
  if np.ndim(task.data.y) != 1 or not np.issubdtype(task.data.y.dtype, np.integer):
    raise UserError(f"task.name={arm['task']['name']!r}: has no class for each example to ask about; choose another")
  size, start, wanted = len(task.data.y), len(task.members(0)), how["rounds"] * how["queries"]
  if start + wanted > size:
    raise UserError(
      f"active.queries={how['queries']}: {how['rounds']} rounds ask about {wanted} examples, and the pool has "
      f"{size - start}; ask fewer"
    )
  teacher = networks.has_teacher(arm)
  if how["answers"] == "teacher" and not rounds_lib.takes_unlabelled(method):
    raise UserError(
      f"{label}: active.answers='teacher': gives no labels, which {method} learns from; choose "
      f"{' or '.join(catalog.names('active'))}"
    )
  pool = rounds_lib.blank_pool(size - start, start, task.num_classes, teacher, len(task.validation.y) > 0)
  select = _selector(arm)
  if how["rounds"]:
    select(np.random.default_rng(0), pool, how["queries"])


def _selector(arm: Mapping[str, Any]):
  options = dict(arm["selector"])
  return catalog.selector(options.pop("name"))(**options)


def _shapes(run: Run, label: str) -> train.Job:
  """The last round of an arm as shapes, for its plan."""
  arm, how = run.config["arms"][label], run.config["active"]
  task, recipe = run.task(arm["task"]), recipe_of(arm["method"])
  targets = traced.target_shapes(run, label, arm) if "teacher" in recipe.needs else None
  start = task.members(0)[None]
  network = run.network(arm["student"], task)
  found = rounds_lib.Rounds(label, arm, task, network, rounds_lib.twice(task.data), start, targets, (), None)
  asked = np.setdiff1d(np.arange(found.size), start)[None, : how["rounds"] * how["queries"]]
  return rounds_lib.job_of(found, asked, how, how["rounds"])


def _run(run: Run) -> None:
  cells = grid.Grid(run, "active", _FILE)
  students: dict[str, Network] = {}
  cells.work(run.config["order"], lambda label: _arm(run, cells, label, students))
  cells.finish()


def _arm(run: Run, cells: grid.Grid, label: str, students: dict[str, Network]) -> dict[str, Any]:
  """All rounds of one arm; those that are in its cell are not done again."""
  begin, how, seeds = time.monotonic(), run.config["active"], run.config["seeds"]
  found = rounds_lib.rounds_of(run, label, seeds, students)
  entry = cells.cells.setdefault(label, {"arm": found.arm, "asked": [], "rounds": [], "seconds": 0.0, "begun": True})
  spent = entry["seconds"]
  before = None
  for number in range(0 if how["scratch"] else len(entry["rounds"])):  # from their checkpoints
    before = _train(run, found, entry, number, before)[1].variables["student"]
  for number in range(len(entry["rounds"]), how["rounds"] + 1):
    cells.stop_if_asked(f"{label}: round {number} of {how['rounds']} comes next")
    job, trained = _train(run, found, entry, number, before)
    before = None if how["scratch"] else trained.variables["student"]
    record, chosen = _look(run, found, entry, number, job, trained)
    entry["rounds"].append(record)
    entry["asked"] += [] if chosen is None else [chosen]
    entry["seconds"] = spent + time.monotonic() - begin
    cells.save()
    shown = np.mean(record["scores"][found.task.metric])
    run.log(f"active: {label}: round {number}, {record['answers']} answers: {found.task.metric} {shown:.4g}")
  last = {name: list(values) for name, values in entry["rounds"][-1]["scores"].items()}
  every = np.mean([one["scores"][found.task.metric] for one in entry["rounds"]], axis=0)
  rest = {name: value for name, value in entry.items() if name != "begun"}
  own = [path for number in range(how["rounds"] + 1) for path in _metrics(run, found, number)]
  rest["files"] = on_first(lambda: run.checksums(*own))
  return rest | {"scores": last | {f"{found.task.metric} over rounds": every.tolist()}}


def _positions(entry: Mapping[str, Any], seeds: int, most: int) -> np.ndarray:
  """`[seeds, k]` of what the first `most` rounds asked about."""
  parts = [np.asarray(one, np.int64).reshape(seeds, -1) for one in entry["asked"][:most]]
  return np.concatenate([np.zeros((seeds, 0), np.int64), *parts], axis=1)


def _name(run: Run, found: rounds_lib.Rounds, number: int) -> str:
  """What the checkpoints and metrics of a round are called."""
  return run.key_of(stage="active", label=found.label, arm=found.arm, round=number)[:12]


def _metrics(run: Run, found: rounds_lib.Rounds, number: int) -> list[Path]:
  return sorted((run.workdir / "metrics").glob(f"{_name(run, found, number)}*.jsonl"))


def _train(run: Run, found: rounds_lib.Rounds, entry: Mapping[str, Any], number: int, before: Variables | None):
  """Trains the students of one round, or takes them from their last checkpoint: `(job, Trained)`."""
  asked = _positions(entry, run.config["seeds"], number)
  job = rounds_lib.job_of(found, asked, run.config["active"], number, before)
  name = _name(run, found, number)
  key = jax.random.fold_in(run.key("active"), number)
  try:
    trained, _ = train.run(run, job, key, run.workdir / "checkpoints" / name, stage="active")
  except Diverged as error:
    raise Diverged(f"{error} (round {number})") from error
  return job, trained


def _look(run: Run, found: rounds_lib.Rounds, entry: Mapping[str, Any], number: int, job: train.Job, trained):
  """The record of one round, and for every seed what it asks about next; `None` after the last round."""
  how, seeds = run.config["active"], run.config["seeds"]
  asked, select = _positions(entry, seeds, number), _selector(found.arm)
  columns: dict[str, list[float]] = {}
  scores: dict[str, list[float]] = {}
  chosen = []
  for seed in range(seeds):
    said = rounds_lib.predictions(found, job, trained, seed)
    for name, value in said["scores"].items():
      scores.setdefault(name, []).append(value)
    if number == how["rounds"]:
      continue
    pool, places = rounds_lib.look(found, said, seed, asked, how)
    own = np.sort(select(np.random.default_rng((run.config["seed"], seed, number, 61)), pool, how["queries"]))
    chosen.append(places[own].tolist())
    for name, value in rounds_lib.figures_of(pool, own, found.task.data.y[places[own]]).items():
      columns.setdefault(name, []).append(value)
  record = {"answers": int(found.start.shape[1] + asked.shape[1]), "scores": scores, **columns}
  record["ids"] = [found.task.data.ids[np.asarray(one)].tolist() for one in chosen]
  return record, chosen or None


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for label in run.config["order"]:
    c, arm, how = run.config, run.config["arms"][label], run.config["active"]
    found = job_plan.plan_of(run, _shapes(run, label))
    rows.append(
      (
        f"{label}: {c['seeds']} x {how['rounds'] + 1} trainings of {arm['student']['name']} "
        f"({found.parameters:,} parameters), {how['queries']} queries by {arm['selector']['name']} between them",
        f"{found.cost(c['seeds'])} in the last round",
      )
    )
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  del record
  c, task = run.config, run.task()
  reference, compared = grid.compared(run, _FILE)
  for cell in compared.values():
    cell.pop("asked", None)
    cell["rounds"] = [{k: v for k, v in one.items() if k != "ids"} for one in cell.get("rounds", [])]
  whole = {label: cell for label, cell in compared.items() if "failed" not in cell}
  columns = {
    "right answers": {label: _mean(cell, "right") for label, cell in whole.items()},
    "classes": {label: _mean(cell, "classes", 2) for label, cell in whole.items()},
    "gain": {label: _mean(cell, "gain") for label, cell in whole.items()},
    "seconds": {label: f"{cell['seconds']:.1f}" for label, cell in whole.items()},
  }
  table = comparison.table(compared, task.metric, reference, columns=columns)
  said = comparison.verdict(compared, run.subject, reference, task.metric, task.higher)
  text = (
    f"{said}.\n\nMean ± standard deviation over {c['seeds']} seeds after {c['active']['rounds']} rounds of "
    f"{c['active']['queries']} queries, on the test examples. Seeds are paired: a seed has the same labelled start, "
    "initial students and order in every arm. Right answers are the share of the queried examples whose class the "
    "teacher gets right, classes is how many classes the queries of a round are of, gain is their mean 1 - margin when "
    "they were asked about."
  )
  sections = [Section("Result", text, table, _figures(run, whole, task.metric)), _by_round(whole, task.metric)]
  return Part({"reference": reference, "arms": compared}, table, said, sections=sections)


def _mean(cell: Mapping[str, Any], name: str, digits: int = 3) -> str:
  values = [np.mean(one[name]) for one in cell["rounds"] if name in one]
  return f"{np.mean(values):.{digits}f}" if values else ""


def _by_round(cells: Mapping[str, Any], metric: str) -> Section:
  """The mean score of every round."""
  most = max((len(cell["rounds"]) for cell in cells.values()), default=0)
  rows = [
    [label, *(f"{np.mean(one['scores'][metric]):.4f}" for one in cell["rounds"])] for label, cell in cells.items()
  ]
  text = "Mean over seeds on the test examples, by round; nothing was chosen by these figures."
  return Section("Rounds", text, (["arm", *map(str, range(most))], rows))


def _figures(run: Run, cells: Mapping[str, Any], metric: str) -> list[tuple[str, Path]]:
  if not cells:
    return []
  bars, file = (run.workdir / "curves" / name for name in ("arms.png", "rounds.png"))
  comparison.bars(bars, {"": cells}, metric)
  series = {
    label: (
      [one["answers"] for one in cell["rounds"]],
      [float(np.mean(one["scores"][metric])) for one in cell["rounds"]],
    )
    for label, cell in cells.items()
  }
  curves(file, series, metric, xlabel="examples with an answer")
  return [
    (f"{metric} of all arms; bars start above zero, whiskers are standard deviations over seeds", bars),
    (f"{metric} by examples with an answer, mean over seeds", file),
  ]


STAGE = Stage(
  "active",
  lambda run: on_first(lambda: _run(run)),
  Declared(
    schema.fields(Keys),
    rounds_lib.SECTIONS | {"active": Plain(schema.fields(How))},
    ("arms",),
    rounds_lib.ARMS.expand,
  ),
  (f"stages/{_FILE}",),
  _check,
  lambda run: grid.check_metrics(run, grid.load(run, _FILE)),
  _plan,
  _report,
)
