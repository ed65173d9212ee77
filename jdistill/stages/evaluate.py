"""Stage `evaluate`: the distilled set and its controls, trained on by fresh networks under one protocol."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import augment, models, schema
from jdistill.base import Diverged, Network, UserError
from jdistill.config import Declared, Plain
from jdistill.evaluation import LOSSES, OPTIMIZERS, SCHEDULES, evaluate_seeds
from jdistill.files import Damaged, format_bytes, read_record, write_record
from jdistill.jobs import train
from jdistill.reporting import Progress, Section, comparison, mean_std, units
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Above, Choice, Range, near_matches
from jdistill.stages import build, labels, plan, sets, validation
from jdistill.stages.stage import Part, Stage

_FILE, _SECONDS = "evaluations.json", "curves/seconds.json"


class Eval(NamedTuple):
  """How sets are compared."""

  epochs: Annotated[int, Range(1)]
  full_epochs: Annotated[int, Range(1)]
  full_lr: Annotated[float, Above(0)]
  seeds: Annotated[int, Range(1, 10_000)] = 5
  batch_size: Annotated[int, Range(1)] = 128
  momentum: Annotated[float, Range(0, 0.999)] = 0.9
  weight_decay: Annotated[float, Range(0)] = 5e-4
  augment: str = "none"
  other_augment: str = "none"
  models: tuple[str, ...] = ("convnet",)
  sets: tuple[str, ...] = ()
  control_lrs: tuple[schema.Positive, ...] = (0.003, 0.01, 0.03, 0.1)
  choose_lr: bool = False
  full_batch_size: Annotated[int, Range(1)] = 128
  loss: Annotated[str, Choice(LOSSES)] = "ce"
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "sgd"
  view: str = "none"
  cells: Annotated[int, Range(1)] = 1
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = None
  flip: bool = False
  schedule: Annotated[str, Choice(SCHEDULES)] = "step"
  decay_all: bool = True


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  e = out["eval"]
  for name in e["models"]:
    if name not in models.names():
      raise UserError(f"eval.models: unknown network {name!r}{near_matches(name, models.names())}")
  if not e["models"]:
    raise UserError("eval.models: empty; name at least one network, such as 'convnet'")
  plain, known = sets.applicable(out)
  e["sets"] = e["sets"] or plain
  for name in e["sets"]:
    if name not in known:
      raise UserError(f"eval.sets: {out['method']['name']} has no set {name!r}{near_matches(name, known)}")
  if sets.OWN not in e["sets"]:
    raise UserError(f"eval.sets={e['sets']}: must contain {sets.OWN!r}")
  for key in ("models", "sets"):
    if len(set(e[key])) < len(e[key]):
      raise UserError(f"eval.{key}={e[key]}: names one of them twice; name each once")
  if e["loss"] == "mse" and sets.has_records(out):
    raise UserError("eval.loss='mse': sets with stored labels are trained on by the section relabel; set it to 'ce'")
  if e["view"] != "none" and sets.has_records(out):
    raise UserError(f"eval.view={e['view']!r}: stored labels are of images as they are; set it to 'none'")
  if not e["control_lrs"]:
    raise UserError("eval.control_lrs: empty; give at least one learning rate")


def _check(run: Run) -> None:
  task = run.task()
  if task.kind != "images":
    raise UserError(f"task.name={run.config['task']['name']!r}: sets are evaluated on images with one label each")
  for name in run.config["eval"]["models"]:
    run.network(name)
  for key in ("augment", "other_augment"):
    augment.named(run.config["eval"][key], key=f"eval.{key}")
  augment.cell_sides(task.input_shape[:2], run.config["eval"]["cells"], key="eval.cells")
  augment.view(run.config["eval"]["view"], key="eval.view", image_shape=task.input_shape)


def _choose_lr(run: Run, cell: str, network: Network, one: sets.Set, mesh: Mesh | None) -> float:
  """A learning rate: the best of a few on real training images outside the set, never on test images."""
  rates = [*run.config["eval"]["control_lrs"], *one.rates]
  seeds = 2 if run.config["eval"]["choose_lr"] else 1
  found = validation.accuracies(run, network, one, rates, seeds=seeds, mesh=mesh)
  finite = {rate: value for rate, value in found.items() if np.isfinite(value)}
  if not finite:
    raise Diverged(f"{cell}: training diverges at every rate of eval.control_lrs={tuple(rates)}; add lower ones")
  return max(finite, key=lambda rate: (finite[rate], -rate))


def _run(run: Run) -> None:
  """Evaluates every set with every network of `eval.models`; finished seeds are kept."""
  run.together(run.mesh("pool", run.config["eval"]["seeds"]), lambda: _cells(run))


def _cells(run: Run) -> None:
  e, task, found = run.config["eval"], run.task(), grid.Grid(run, "evaluate", _FILE)
  made, mesh = sets.Sets(run), run.mesh("pool", e["seeds"])
  of_one = mesh if jax.process_count() == 1 else None  # what one process does alone
  names = [f"{model}/{name}" for model in e["models"] for name in e["sets"]]
  progress = Progress("evaluate", len(names) * e["seeds"], stream=run.stream)

  def one(cell: str) -> dict[str, Any]:
    model, _, name = cell.partition("/")
    network, make = run.network(model), functools.partial(made.make, name)
    entry = found.cells.setdefault(cell, {"lr": None, "scores": {task.metric: []}, "begun": True})
    scores = entry["scores"][task.metric]
    while (seed := len(scores)) < e["seeds"]:
      done = sum(len(known["scores"][task.metric]) for known in found.cells.values() if "scores" in known)
      found.stop_if_asked(f"{done} of {len(names) * e['seeds']} evaluations are saved")
      first = make(seed)
      if entry["lr"] is None:
        choose = functools.partial(_choose_lr, run, cell, network, first, of_one)
        entry["lr"] = first.lr if first.lr is not None else on_first(choose)
      at_once = _at_once(name, e["seeds"] - seed, mesh)
      own_sets = [first, *(make(seed + other) for other in range(1, at_once) if sets.drawn_anew(name))]
      if first.records is not None:
        scores += _replayed(run, cell, network, own_sets, entry, list(range(seed, seed + at_once)))
      else:
        entry["label_bytes"] = int(np.asarray(first.labels).nbytes)
        examples = [validation.examples(run, one) for one in own_sets]
        examples = examples if len(examples) > 1 else examples[0]
        options = {"key": run.key("evaluate"), "seeds": at_once, "first": seed, "mesh": mesh}
        new = evaluate_seeds(network, first.protocol, examples, entry["lr"], task.test.x, task.test.y, **options)
        if not np.isfinite(new).all():
          raise Diverged(f"{cell}: training diverges at a learning rate of {entry['lr']:.3g}; {_cure(name)}")
        scores += new
      found.save()
      progress.update(done + at_once, {name: scores[-1]})
    return {key: value for key, value in entry.items() if key != "begun"}

  found.work(names, one)
  progress.close()
  found.finish()


def rate_of(run: Run, learned: float) -> float:
  """The rate for training on the set: the learned one, or with `eval.choose_lr` that of the first network's cell."""
  e = run.config.get("eval", {})
  if not e.get("choose_lr") or run.finished("evaluate", STAGE.leaves) is None:
    return learned
  return float(grid.load(run, _FILE)[f"{e['models'][0]}/{sets.OWN}"].get("lr", learned))


def _cure(name: str) -> str:
  if name == sets.OWN:
    return "lower the rates at which the method learns the set"
  return "lower eval.full_lr" if name == sets.FULL else "lower eval.control_lrs"


def _replayed(
  run: Run, cell: str, network: Network, own_sets: list[sets.Set], entry: dict[str, Any], seeds: list[int]
) -> list[float]:
  """Scores of networks trained on stored labels: all on one set, or each on its own."""
  task, out = run.task(), []
  shared = len(own_sets) == 1
  groups = [(own_sets[0], seeds)] if shared else [(one, [s]) for one, s in zip(own_sets, seeds, strict=True)]
  for one, own in groups:
    found = one.records()
    entry["label_bytes"] = found.nbytes
    on_first(lambda found=found, one=one: _spend(run, cell, label_seconds=found.seconds, select_seconds=one.seconds))
    job = labels.job(run, cell, network, found, own)
    trained, _ = train.run(run, job, run.key("evaluate"), None, stage="evaluate")
    predicts = [train.predictions(job, trained, index) for index in range(len(own))]
    out += [float(task.score(predict, task.test)[task.metric]) for predict in predicts]
  return out


def _spend(run: Run, cell: str, **seconds: float) -> None:
  """Notes what a set took, apart from results, which are the same bits whenever they are made."""
  (run.workdir / _SECONDS).parent.mkdir(parents=True, exist_ok=True)
  write_record(run.workdir / _SECONDS, _spent(run) | {cell: seconds})


def _spent(run: Run) -> dict[str, Any]:
  """What sets took, as far as it is known: a damaged file costs these columns of the table."""
  try:
    found = read_record(run.workdir / _SECONDS) if (run.workdir / _SECONDS).exists() else {}
  except Damaged as error:
    run.log(f"evaluate: {error}; the table comes without the seconds of sets")
    return {}
  return {cell: seconds for cell, seconds in found.items() if isinstance(seconds, dict)}


def _at_once(name: str, remaining: int, mesh: Mesh | None) -> int:
  """How many seeds train together: few, as each is saved, where that costs nothing."""
  on_cpu, own_sets = jax.default_backend() == "cpu", sets.drawn_anew(name)
  if mesh is not None:
    return min(remaining, mesh.size) if on_cpu or own_sets else remaining
  # one after another on CPU; elsewhere at once, where all seeds see the same images
  return 1 if on_cpu or own_sets else remaining


def _plan(run: Run) -> list[tuple[str, str]]:
  e, c = run.config["eval"], run.config
  count = build.count(run)
  per_image = plan.gradient_flops(run)
  trained = per_image * count * (e["epochs"] + 1) * sum(name != sets.FULL for name in e["sets"])
  full = per_image * len(run.task().teacher.y) * (e["full_epochs"] + 1) * (sets.FULL in e["sets"])
  what = f"{len(e['sets'])} sets x {e['seeds']} networks x {len(e['models'])} architectures"
  return [(what, f"about {units.amount(e['seeds'] * (trained + full), 'FLOP')} for {c['model']['name']}")]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  task, e, spent = run.task(), run.config["eval"], _spent(run)
  cells = {name: cell | spent.get(name, {}) for name, cell in grid.load(run, _FILE).items()}
  compared, references = {}, []
  for model in e["models"]:
    found = {name: cells[f"{model}/{name}"] for name in e["sets"]}
    plain = comparison.compare(found, task.metric, None)
    known = [name for name in sets.CONTROLS if "mean" in plain.get(name, {})]
    references.append(max(known, key=lambda name, plain=plain: plain[name]["mean"]) if known else None)
    compared[model] = comparison.compare(found, task.metric, references[-1])
  first, reference = compared[e["models"][0]], references[0]
  names = sets.LABELS | {sets.OWN: f"{run.config['method']['name'].upper()}, {run.config['ipc']} per class"}
  columns = {
    f"{model}: {task.metric}": {
      name: "failed" if "failed" in cell else f"{cell['mean']:.3f} ± {cell['std']:.3f}" for name, cell in found.items()
    }
    for model, found in list(compared.items())[1:]
  }
  whole = {name: cell for name, cell in first.items() if "lr" in cell}
  columns["learning rate"] = {name: f"{cell['lr']:.3g}" for name, cell in whole.items()}
  columns["label bytes"] = {name: format_bytes(cell["label_bytes"]) for name, cell in whole.items()}
  table = comparison.table(first, task.metric, reference, first="training set", names=names, columns=columns, digits=3)
  shown = sets.LABELS | {sets.OWN: "the distilled set"}
  said = comparison.verdict(first, sets.OWN, reference, task.metric, task.higher, shown)
  figure = run.workdir / "curves" / "sets.png"
  comparison.bars(figure, compared, task.metric)
  text = (
    f"{said}.\n\nMean ± standard deviation over {e['seeds']} fresh networks. Seeds are paired: a seed has the same "
    "initial network and order for every set. Random controls draw other images for every network; learning rates of "
    "controls were chosen on training images outside the set, the distilled set has its own"
    f"{', or one that was chosen likewise' if e['choose_lr'] else ''}."
  )
  ranking = sets.ranking(first, task.metric)
  words = [f"{name.replace('_', '-', 1).replace('_', ' ')} {mean_std(values)}" for name, values in ranking.items()]
  text += f"\n\nDD-Ranking (arXiv 2505.13300): {', '.join(words)}." if ranking else ""
  summary = {"reference": reference, "arms": first, "models": compared} | ({"ranking": ranking} if ranking else {})
  section = Section("Result", text, table, [("means with standard deviations over networks", figure)])
  return Part(summary, table, said, sections=[section])


STAGE = Stage(
  "evaluate",
  _run,
  Declared(sections={"eval": Plain(schema.fields(Eval))}, complete=_complete),
  (f"stages/{_FILE}",),
  _check,
  plan=_plan,
  report=_report,
)
