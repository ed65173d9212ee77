"""Stage `evaluate`: the distilled set and its controls, trained on by fresh networks under one protocol."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import augment, models, schema
from jdistill.base import Batch, Diverged, Network, UserError, View
from jdistill.config import Declared, Plain
from jdistill.data.subset import balanced_indices
from jdistill.evaluation import LOSSES, OPTIMIZERS, Protocol, evaluate_seeds, examples_of
from jdistill.files import format_bytes
from jdistill.reporting import Progress, Section, comparison, units
from jdistill.schema import Above, Choice, Range, near_matches
from jdistill.stages import build, distill, grid, networks, plan, relabel, train, trajectories
from jdistill.stages.run import Run
from jdistill.stages.stage import Part, Stage
from jdistill.stages.workdir import on_first
from jdistill.synthetic import expert_label_logits, random_real
from jdistill.teachers import fkd

OWN = "distilled"
CONTROLS = ("random_hard", "random_soft", "random_relabelled")  # the best of these is what the set is compared with
LABELS = {
  OWN: "distilled",
  "random_hard": "random real images, hard labels",
  "distilled_hard": "the distilled images, hard labels",
  "random_soft": "random real images, teachers' soft labels",
  "random_relabelled": "random real images, stored labels as the set's",
  "initial": "the initialisation",
  "full_data": "full data",
}
_FILE = "evaluations.json"
_VALIDATION = 1000  # real training images on which the controls' learning rates are chosen


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
  models: tuple[str, ...] = ("convnet",)
  sets: tuple[str, ...] = ()
  control_lrs: tuple[schema.Positive, ...] = (0.003, 0.01, 0.03, 0.1)
  choose_lr: bool = False
  full_batch_size: Annotated[int, Range(1)] = 128
  loss: Annotated[str, Choice(LOSSES)] = "ce"
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "sgd"
  view: str = "none"


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  e = out["eval"]
  for name in e["models"]:
    if name not in models.names():
      raise UserError(f"eval.models: unknown network {name!r}{near_matches(name, models.names())}")
  if not e["models"]:
    raise UserError("eval.models: empty; name at least one network, such as 'convnet'")
  known = _applicable(out)
  e["sets"] = e["sets"] or known
  for name in e["sets"]:
    if name not in known:
      raise UserError(f"eval.sets: {out['method']['name']} has no set {name!r}{near_matches(name, known)}")
  if OWN not in e["sets"]:
    raise UserError(f"eval.sets={e['sets']}: must contain {OWN!r}")
  for key in ("models", "sets"):
    if len(set(e[key])) < len(e[key]):
      raise UserError(f"eval.{key}={e[key]}: names one of them twice; name each once")
  if e["loss"] == "mse" and "relabel" in out:
    raise UserError("eval.loss='mse': sets with stored labels are trained on by the section relabel; set it to 'ce'")
  if e["view"] != "none" and "relabel" in out:
    raise UserError(f"eval.view={e['view']!r}: stored labels are of images as they are; set it to 'none'")
  if not e["control_lrs"]:
    raise UserError("eval.control_lrs: empty; give at least one learning rate")


def _applicable(out: Mapping[str, Any]) -> list[str]:
  """The sets that a run can compare: soft labels need teachers, stored ones the stage `relabel`."""
  if "relabel" in out:
    return [OWN, "distilled_hard", "random_hard", "random_relabelled", "full_data"]
  return [OWN, "random_hard", *(["random_soft"] if "teachers" in out else []), "initial", "full_data"]


class _Set(NamedTuple):
  """One set to train on.

  Attributes:
    images, labels: of the set.
    protocol: how networks are trained on it.
    lr: learning rate; `None` asks for a choice on validation images.
    rates: what is tried beside `eval.control_lrs`.
    used: positions of real images that validation must not contain.
    records: makes the stored labels that networks are trained on instead, by stage `relabel`.
    view: what networks are shown in the place of each image; `None` for the image.
  """

  images: np.ndarray
  labels: np.ndarray
  protocol: Protocol
  lr: float | None = None
  rates: tuple[float, ...] = ()
  used: Sequence[int] = ()
  records: Callable[[], fkd.Records] | None = None
  view: View | None = None


def _check(run: Run) -> None:
  task = run.task()
  if task.kind != "images":
    raise UserError(f"task.name={run.config['task']['name']!r}: sets are evaluated on images with one label each")
  for name in run.config["eval"]["models"]:
    run.network(name)
  augment.named(run.config["eval"]["augment"], key="eval.augment")
  augment.view(run.config["eval"]["view"], key="eval.view", image_shape=task.input_shape)


def soft_labels(run: Run) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """`(images, labels) -> label logits [n, classes]`, the mean over the teachers that classify an image correctly."""
  if build.row_of(run).keep == "trajectory":
    buffer, count = trajectories.ready(run), run.config["teachers"]["count"]
    logits = lambda images: trajectories.logits(run, buffer, images, range(count))  # noqa: E731
  else:
    found = networks.own(run)
    logits = lambda images: networks.logits(found, images)  # noqa: E731
  return lambda images, labels: expert_label_logits(logits(images), labels)


def _sets(run: Run) -> dict[str, Callable[[int], _Set]]:
  """Builders of the sets by name and seed; each random control draws other real images for every seed."""
  c, task, e = run.config, run.task(), run.config["eval"]
  protocol = Protocol(
    e["epochs"], e["batch_size"], e["momentum"], e["weight_decay"], augment.named(e["augment"]), e["loss"],
    e["optimizer"],
  )  # fmt: skip
  full = protocol._replace(epochs=e["full_epochs"], batch_size=e["full_batch_size"])
  own, initial = distill.load(run, "distilled"), distill.load(run, "initial")
  view = augment.view(e["view"]).view
  soften = soft_labels(run) if "random_soft" in e["sets"] else None

  def random_control(seed: int) -> _Set:
    rng = np.random.default_rng((c["seed"], 3, seed))
    picked = random_real(rng, task.teacher.y, c["ipc"], task.num_classes)
    return _Set(task.teacher.x[picked], task.teacher.y[picked], protocol, used=picked)

  def softened(seed: int) -> _Set:
    one = random_control(seed)
    return one._replace(labels=soften(one.images, one.labels))

  def relabelled(seed: int) -> _Set:
    one, key = random_control(seed), jax.random.fold_in(run.key("random records"), seed)
    return one._replace(lr=c["relabel"]["lr"], records=lambda: relabel.record(run, one.images, key))

  def distilled(seed: int) -> _Set:
    if "relabel" in c:
      return _Set(own.images, own.labels, protocol, c["relabel"]["lr"], records=lambda: relabel.load(run))
    rate = float(own.lr)
    return _Set(own.images, own.labels, protocol, None if e["choose_lr"] else rate, rates=(rate,), view=view)

  builders = {
    OWN: distilled,
    "distilled_hard": lambda seed: _Set(own.images, own.labels, protocol),
    "random_hard": random_control,
    "random_soft": softened,
    "random_relabelled": relabelled,
    "initial": lambda seed: _Set(initial.images, initial.labels, protocol, view=view),
    "full_data": lambda seed: _Set(task.teacher.x, task.teacher.y, full, e["full_lr"]),
  }
  return {name: builders[name] for name in e["sets"]}


def _examples(run: Run, one: _Set) -> Batch:
  """Small sets have labels of the same form, so that they share their programs."""
  small, loss = len(one.labels) < len(run.task().teacher.y), one.protocol.loss
  classes = run.task().num_classes if small or loss == "mse" else None
  return examples_of(one.images, one.labels, num_classes=classes, loss=loss, view=one.view)


def _choose_lr(run: Run, cell: str, network: Network, one: _Set, mesh: Mesh | None) -> float:
  """A learning rate: the best of a few on real training images outside the set, never on test images."""
  task, rates = run.task(), [*run.config["eval"]["control_lrs"], *one.rates]
  free = np.setdiff1d(np.arange(len(task.teacher.y)), one.used)
  labels = task.teacher.y[free]
  least = int(np.bincount(labels, minlength=task.num_classes).min())
  count = min(_VALIDATION, least * task.num_classes)
  if count >= task.num_classes:
    picked = balanced_indices(labels, count, task.num_classes, seed=run.config["seed"], key="validation")
    free, labels = free[picked], labels[picked]
  if not len(free):
    return float(rates[0])
  examples, options = _examples(run, one), {"key": run.key("validation"), "mesh": mesh}
  options["seeds"] = 2 if run.config["eval"]["choose_lr"] else 1
  found = [
    float(np.mean(evaluate_seeds(network, one.protocol, examples, lr, task.teacher.x[free], labels, **options)))
    for lr in rates
  ]
  if not np.isfinite(found).any():
    raise Diverged(f"{cell}: training diverges at every rate of eval.control_lrs={tuple(rates)}; add lower ones")
  return float(rates[int(np.nanargmax(found))])


def _run(run: Run) -> None:
  """Evaluates every set with every network of `eval.models`; finished seeds are kept."""
  run.together(run.mesh("pool", run.config["eval"]["seeds"]), lambda: _cells(run))


def _cells(run: Run) -> None:
  e, task, found = run.config["eval"], run.task(), grid.Grid(run, "evaluate", _FILE)
  sets, mesh = _sets(run), run.mesh("pool", e["seeds"])
  of_one = mesh if jax.process_count() == 1 else None  # what one process does alone
  names = [f"{model}/{name}" for model in e["models"] for name in sets]
  progress = Progress("evaluate", len(names) * e["seeds"], stream=run.stream)

  def one(cell: str) -> dict[str, Any]:
    model, _, name = cell.partition("/")
    network, make = run.network(model), sets[name]
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
      own_sets = [first, *(make(seed + other) for other in range(1, at_once) if name.startswith("random_"))]
      if first.records is not None:
        scores += _replayed(run, cell, network, own_sets, entry, list(range(seed, seed + at_once)))
      else:
        entry["label_bytes"] = int(np.asarray(first.labels).nbytes)
        examples = [_examples(run, one) for one in own_sets]
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
  return float(grid.load(run, _FILE)[f"{e['models'][0]}/{OWN}"].get("lr", learned))


def _cure(name: str) -> str:
  if name == OWN:
    return "lower the rates at which the method learns the set"
  return "lower eval.full_lr" if name == "full_data" else "lower eval.control_lrs"


def _replayed(
  run: Run, cell: str, network: Network, sets: list[_Set], entry: dict[str, Any], seeds: list[int]
) -> list[float]:
  """Scores of networks trained on stored labels: all on one set, or each on its own."""
  task, out = run.task(), []
  groups = [(sets[0], seeds)] if len(sets) == 1 else [(one, [seed]) for one, seed in zip(sets, seeds, strict=True)]
  for one, own in groups:
    records = one.records()
    entry["label_bytes"] = records.nbytes
    job = relabel.job(run, cell, network, one.images, records, own)
    trained, _ = train.run(run, job, run.key("evaluate"), None, stage="evaluate")
    predicts = [train.predictions(job, trained, index) for index in range(len(own))]
    out += [float(task.score(predict, task.test)[task.metric]) for predict in predicts]
  return out


def _at_once(name: str, remaining: int, mesh: Mesh | None) -> int:
  """How many seeds train together: few, as each is saved, where that costs nothing."""
  on_cpu, own_sets = jax.default_backend() == "cpu", name.startswith("random_")
  if mesh is not None:
    return min(remaining, mesh.size) if on_cpu or own_sets else remaining
  # one after another on CPU; elsewhere at once, where all seeds see the same images
  return 1 if on_cpu or own_sets else remaining


def _plan(run: Run) -> list[tuple[str, str]]:
  e, c = run.config["eval"], run.config
  count = build.count(run)
  per_image = plan.gradient_flops(run)
  trained = per_image * count * (e["epochs"] + 1) * sum(name != "full_data" for name in e["sets"])
  full = per_image * len(run.task().teacher.y) * (e["full_epochs"] + 1) * ("full_data" in e["sets"])
  what = f"{len(e['sets'])} sets x {e['seeds']} networks x {len(e['models'])} architectures"
  return [(what, f"about {units.amount(e['seeds'] * (trained + full), 'FLOP')} for {c['model']['name']}")]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  cells, task, e = grid.load(run, _FILE), run.task(), run.config["eval"]
  compared, references = {}, []
  for model in e["models"]:
    sets = {name: cells[f"{model}/{name}"] for name in e["sets"]}
    plain = comparison.compare(sets, task.metric, None)
    known = [name for name in CONTROLS if "mean" in plain.get(name, {})]
    references.append(max(known, key=lambda name, plain=plain: plain[name]["mean"]) if known else None)
    compared[model] = comparison.compare(sets, task.metric, references[-1])
  first, reference = compared[e["models"][0]], references[0]
  names = LABELS | {OWN: f"{run.config['method']['name'].upper()}, {run.config['ipc']} per class"}
  columns = {
    f"{model}: {task.metric}": {
      name: "failed" if "failed" in cell else f"{cell['mean']:.3f} ± {cell['std']:.3f}" for name, cell in sets.items()
    }
    for model, sets in list(compared.items())[1:]
  }
  whole = {name: cell for name, cell in first.items() if "lr" in cell}
  columns["learning rate"] = {name: f"{cell['lr']:.3g}" for name, cell in whole.items()}
  columns["label bytes"] = {name: format_bytes(cell["label_bytes"]) for name, cell in whole.items()}
  table = comparison.table(first, task.metric, reference, first="training set", names=names, columns=columns, digits=3)
  said = comparison.verdict(first, OWN, reference, task.metric, task.higher, LABELS | {OWN: "the distilled set"})
  figure = run.workdir / "curves" / "sets.png"
  comparison.bars(figure, compared, task.metric)
  text = (
    f"{said}.\n\nMean ± standard deviation over {e['seeds']} fresh networks. Seeds are paired: a seed has the same "
    "initial network and order for every set. Random controls draw other images for every network; learning rates of "
    "controls were chosen on training images outside the set, the distilled set has its own"
    f"{', or one that was chosen likewise' if e['choose_lr'] else ''}."
  )
  summary = {"reference": reference, "arms": first, "models": compared}
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
