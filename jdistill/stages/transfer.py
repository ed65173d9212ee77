"""Stage `transfer`: networks trained on the set and its controls, and what their features are worth on other data."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from jdistill import augment, models, schema
from jdistill.base import UserError
from jdistill.config import Declared, Plain
from jdistill.config.common import Train
from jdistill.evaluation import OPTIMIZERS
from jdistill.jobs.sections import check_train
from jdistill.methods.knowledge.logits import ce
from jdistill.reporting import Progress, Section, comparison, units
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.schema import Above, Choice, Range, near_matches
from jdistill.stages import build, plan, pretrained
from jdistill.stages.pretrained import METRIC, OWN
from jdistill.stages.stage import Part, Stage

CONTROLS = ("random", "kmeans", "scratch")  # the best of these is what the set is compared with
LABELS = {
  OWN: "distilled",
  "random": "random real images, the target model's features",
  "kmeans": "images in the middle of k-means clusters, the target model's features",
  "scratch": "no pre-training",
  "target_model": "the target model itself",
}
_FILE = "transfers.json"
_RECIPE = ce()


class Transfer(NamedTuple):
  """Where trained networks are taken, and how they are judged there."""

  targets: tuple[str, ...] = ()
  seeds: Annotated[int, Range(1, 1000)] = 3
  sets: tuple[str, ...] = ()
  models: tuple[str, ...] = ()
  by: Literal["probe", "finetune"] = "probe"
  train_size: Annotated[int, Range(1)] | None = None
  test_size: Annotated[int, Range(1)] | None = None
  standardize: bool = True


class Pretrain(NamedTuple):
  """How a network is trained on a set with feature targets."""

  epochs: Annotated[int, Range(1)] = 1000
  batch_size: Annotated[int, Range(1)] = 256
  lr: Annotated[float, Above(0)] = 0.1
  momentum: Annotated[float, Range(0, 0.999)] = 0.9
  weight_decay: Annotated[float, Range(0)] = 1e-3
  augment: str = "none"
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "sgd"


def _training(**defaults: Any) -> Plain:
  fields = schema.fields(Train)
  return Plain(fields | {name: fields[name]._replace(default=value) for name, value in defaults.items()})


PROBE = _training(epochs=100, batch_size=512, optimizer="sgd", lr=0.2)
FINETUNE = _training(epochs=50, batch_size=256, optimizer="sgd", lr=0.01, weight_decay=5e-4)


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  t = out["transfer"]
  t["models"] = t["models"] or [out["model"]["name"]]
  t["sets"] = t["sets"] or list(LABELS)
  if not t["targets"]:
    raise UserError("transfer.targets: empty; name data sets that features are judged on, such as 'digits'")
  for key, known in (("models", models.names()), ("sets", list(LABELS))):
    for name in t[key]:
      if name not in known:
        raise UserError(f"transfer.{key}: there is no {name!r}{near_matches(name, known)}")
    if len(set(t[key])) < len(t[key]):
      raise UserError(f"transfer.{key}={t[key]}: names one of them twice; name each once")
  if OWN not in t["sets"]:
    raise UserError(f"transfer.sets={t['sets']}: must contain {OWN!r}")
  if t["by"] == "finetune" and "target_model" in t["sets"]:
    t["sets"] = [name for name in t["sets"] if name != "target_model"]  # it is another network
  stems = [pretrained.stem(name) for name in t["targets"]]
  if len(set(stems)) < len(stems) or METRIC in stems:
    raise UserError(f"transfer.targets={t['targets']}: two of them have one name in tables; rename a file")
  for name in ("probe", "finetune"):
    check_train(name, out[name])


def _check(run: Run) -> None:
  if run.task().kind != "images":
    raise UserError(f"task.name={run.config['task']['name']!r}: features are judged on images with one label each")
  for name in run.config["transfer"]["models"]:
    run.network(name)
  for section in ("pretrain", "finetune"):
    augment.named(run.config[section]["augment"], key=f"{section}.augment")
  pretrained.targets(run)


def _run(run: Run) -> None:
  """Judges every set with every network of `transfer.models` on every data set; finished seeds are kept."""
  run.together(None, lambda: _cells(run))


def _cells(run: Run) -> None:
  t, found = run.config["transfer"], grid.Grid(run, "transfer", _FILE)
  sets, where = pretrained.sets_of(run), pretrained.targets(run)
  names = [f"{model}/{name}" for model in t["models"] for name in t["sets"]]
  total = len(names) * t["seeds"]
  progress = Progress("transfer", total, stream=run.stream)

  def one(cell: str) -> dict[str, Any]:
    model, _, name = cell.partition("/")
    entry = found.cells.setdefault(cell, {"scores": {METRIC: [], **{target.name: [] for target in where}}})
    scores = entry["scores"]
    entry["begun"] = True
    while (seed := len(scores[METRIC])) < t["seeds"]:
      done = sum(len(known["scores"][METRIC]) for known in found.cells.values() if "scores" in known)
      found.stop_if_asked(f"{done} of {total} networks are saved")
      network, variables = pretrained.network_of(run, model, name, seed, sets)
      judged = {target.name: pretrained.judge(run, cell, network, variables, target, seed) for target in where}
      for key, value in (judged | {METRIC: float(np.mean(list(judged.values())))}).items():
        scores[key].append(value)
      found.save()
      progress.update(done + 1, {name: scores[METRIC][-1]})
    return {"scores": scores}

  found.work(names, one)
  progress.close()
  found.finish()


def _plan(run: Run) -> list[tuple[str, str]]:
  t, p = run.config["transfer"], run.config["pretrain"]
  trained = len([name for name in t["sets"] if name not in ("scratch", "target_model")])
  work = plan.gradient_flops(run) * build.count(run) * p["epochs"] * trained * t["seeds"]
  what = f"{len(t['sets'])} sets x {t['seeds']} networks x {len(t['models'])} architectures, {t['by']} on"
  names = ", ".join(map(pretrained.stem, t["targets"]))
  return [(f"{what} {names}", f"about {units.amount(work, 'FLOP')} to train {run.config['model']['name']} on sets")]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  cells, t = grid.load(run, _FILE), run.config["transfer"]
  compared: dict[str, dict] = {}
  references: list[str | None] = []
  for model in t["models"]:
    sets = {name: cells[f"{model}/{name}"] for name in t["sets"]}
    plain = comparison.compare(sets, METRIC, None)
    known = [name for name in CONTROLS if "mean" in plain.get(name, {})]
    references.append(max(known, key=lambda name, plain=plain: plain[name]["mean"]) if known else None)
    compared[model] = comparison.compare(sets, METRIC, references[-1])
  first, reference = compared[t["models"][0]], references[0]
  names = LABELS | {OWN: f"{run.config['method']['name'].upper()}, {build.count(run)} images"}
  table = comparison.table(first, METRIC, reference, first="pre-training set", names=names, columns=_others(compared))
  said = comparison.verdict(first, OWN, reference, METRIC, True, LABELS | {OWN: "the distilled set"})
  figure = run.workdir / "curves" / "transfer.png"
  comparison.bars(figure, compared, METRIC)
  summary = {"reference": reference, "arms": first, "models": compared}
  section = Section("Result", _text(run, said), table, [("means with standard deviations over networks", figure)])
  return Part(summary, table, said, sections=[section])


def _others(compared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
  """The further architectures as columns."""
  return {
    f"{model}: {METRIC}": {
      name: "failed" if "failed" in cell else f"{cell['mean']:.4f} ± {cell['std']:.4f}" for name, cell in sets.items()
    }
    for model, sets in list(compared.items())[1:]
  }


def _text(run: Run, said: str) -> str:
  t = run.config["transfer"]
  how = "a linear probe on frozen features" if t["by"] == "probe" else "the whole network, fine-tuned"
  return (
    f"{said}.\n\nTest accuracy of {how}: the mean over {len(t['targets'])} data sets, then each of them. Mean ± "
    f"standard deviation over {t['seeds']} fresh networks. A seed has the same initial network for every set that "
    "it is trained on; random sets and those of k-means differ between seeds. No choice was made on these data."
  )


STAGE = Stage(
  "transfer",
  _run,
  Declared(
    sections={
      "transfer": Plain(schema.fields(Transfer)),
      "pretrain": Plain(schema.fields(Pretrain)),
      "probe": PROBE,
      "finetune": FINETUNE,
    },
    complete=_complete,
  ),
  (f"stages/{_FILE}",),
  _check,
  plan=_plan,
  report=_report,
)
