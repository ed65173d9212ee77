"""Stage `teachers`: trains what a run learns from, or finds it among the artefacts: networks, or their trajectories."""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill import augment, catalog
from jdistill.base import PyTree, UserError
from jdistill.config import Declared
from jdistill.evaluation import embeddings
from jdistill.files import format_bytes, read_npz, write_npz
from jdistill.jobs import job_plan, networks, train, trajectories, weights
from jdistill.jobs.job import probe
from jdistill.jobs.networks import TeacherSpec, recipe_of
from jdistill.jobs.sections import TEACHERS, check_policy, check_train
from jdistill.methods.knowledge import Trained
from jdistill.reporting import Section
from jdistill.runs import locked
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.stages.stage import Part, Stage
from jdistill.tasks import Task
from jdistill.teachers.checks import check_knowledge

TRAJECTORY = "trajectory"


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  check_train("teacher_train", out["teacher_train"])
  check_policy("", out["teacher_data_policy"])
  own = out["teachers"]
  if "arms" not in out and own.get("stored"):
    raise UserError("teachers.stored: is for runs with arms; leave it out")
  if "committee" not in out and own.get("also"):
    raise UserError(
      f"teachers.also={own['also']}: {out['method']['name']} learns from teachers of one kind; leave it out"
    )
  _check_weak(own, out)


def _check_weak(own: Mapping[str, Any], out: Mapping[str, Any]) -> None:
  """Refuses weak teachers that no training leaves, or that nothing learns from."""
  if not (weak := own["weak"]):
    return
  key, epochs = f"teachers.weak={tuple(weak)}", out["teacher_train"]["epochs"]
  if "relabel" not in out:
    raise UserError(f"{key}: is for runs whose labels are made ahead, by stage relabel; leave it out")
  if sorted(set(weak)) != list(weak) or weak[-1] > epochs:
    raise UserError(f"{key}: must be rising numbers of epochs in 1..{epochs}, as many as teacher_train.epochs")
  if own["weights"] is not None and not own["tune"]:
    raise UserError(f"{key}: weights that are taken as they are have no training; set teachers.tune=True")


def keeps(run: Run) -> str:
  """What the teachers of a run leave: `"networks"` or `"trajectory"`."""
  return catalog.row(run.config["method"]["name"]).keep


def _run(run: Run) -> None:
  if keeps(run) == TRAJECTORY:
    trajectories.record(run)
    return
  begin, records = time.monotonic(), []
  for one in networks.specs(run):
    made(run, one)
    found = judged(run, one)
    records.append(_record(run, one, one.name, found))
    if one.weak:
      weak = networks.weak(run)
      records.append(_record(run, one, f"{one.name}, weak", weak._replace(scores=_scores(run, one, weak))))
  run.finish("teachers", begin, teachers=records)


def made(run: Run, one: TeacherSpec) -> None:
  """Trains teachers of one kind where they are missing."""
  if networks.is_missing(run, one):
    with locked.artefact(run, networks.directory(run, one)):
      if networks.is_missing(run, one):  # another run may have made it meanwhile
        _train(run, one)


def _record(run: Run, one: TeacherSpec, name: str, found: networks.Teachers) -> dict[str, Any]:
  """What a report tells of teachers, which is logged, too."""
  model = networks.model_of(one)["name"]
  for scores in found.scores:
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    run.log(f"{name}: {model}, {shown}; hash {found.hash}")
  return {"name": name, "model": model, "hash": found.hash, "scores": found.scores}


def _scores(run: Run, one: TeacherSpec, found: networks.Teachers) -> list[dict[str, float]]:
  """What networks are worth on the test examples."""
  task = run.task(one.sections["task"])
  pairs = zip(found.networks, found.variables, strict=True)
  return [dict(task.score(networks.predictor(one, network, own), task.test)) for network, own in pairs]


def _verify(run: Run) -> None:
  if keeps(run) == TRAJECTORY:
    trajectories.verify(run)
    return
  for one in networks.specs(run):
    if one.stored is None:
      networks.check_kept(run, one)
    networks.read(run, one)


def first(run: Run) -> networks.Teachers:
  """The run's own teachers and their committee; those that are missing are trained before."""
  if any(networks.is_missing(run, one) for one in networks.specs(run)):
    _run(run)
  return networks.own(run)


def weak(run: Run) -> networks.Teachers:
  """What the run's own teachers were after the epochs `teachers.weak`; they are trained before where missing."""
  first(run)
  return networks.weak(run)


_LOGITS = {"relabel", "evaluate", "tune", "students", "active"}  # stages that ask teachers for logits


def _train(run: Run, one: TeacherSpec) -> None:
  count = one.count
  if one.weights.path is not None and not one.weights.tuned:
    network, found = weights.as_they_are(run, one.sections, one.weights)
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], found)
    _judge(run, one, stacked, [networks.predictor(one, network, found)], {})
    return
  job = networks.job_of(run, one, list(range(count)))
  checkpoints = run.workdir / "checkpoints" / f"teacher_{networks.directory(run, one).name}"
  if one.weak:
    on_way = _OnTheWay(checkpoints.with_name(f"weak_{checkpoints.name}"), one.weak)
    options = {"stage": "teachers", "on_epoch": on_way}
    trained, figures = train.run_leaving(run, job, run.key(one.key), checkpoints, on_way.files, **options)
  else:
    trained, figures = train.run(run, job, run.key(one.key), checkpoints, stage="teachers")
  variables = trained.variables["student"]
  predicts = [train.predictions(job, trained, index) for index in range(count)]
  _judge(run, one, variables, predicts, figures, on_way.variables(variables) if one.weak else None)


class _OnTheWay:
  """Keeps the networks of a training after some of its epochs, so that an interrupted one has them."""

  def __init__(self, directory: Path, epochs: Sequence[int]):
    self.files = [directory / f"{epoch:05d}.npz" for epoch in epochs]
    self._epochs = epochs

  def __call__(self, epoch: int, trained: Trained) -> None:
    if epoch in self._epochs:
      leaves = jax.tree.leaves(trained.variables["student"])
      arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
      on_first(lambda: write_npz(self.files[self._epochs.index(epoch)], arrays))

  def variables(self, like: PyTree) -> PyTree:
    """All of them on one leading axis."""
    found = on_first(lambda: [[arrays[n] for n in sorted(arrays)] for arrays in map(read_npz, self.files)])
    return jax.tree.unflatten(jax.tree.structure(like), [np.concatenate(leaves) for leaves in zip(*found, strict=True)])


def _judge(
  run: Run, one: TeacherSpec, variables, predicts: Sequence, figures: dict[str, Any], weak: PyTree | None = None
) -> None:
  """Keeps teachers with what they are worth, unless they know nothing."""
  task = run.task(one.sections["task"])
  for one_predict in predicts:
    _check_knowledge(one_predict, task, one)
  scores = [dict(task.score(one_predict, task.test)) for one_predict in predicts]
  on_first(lambda: networks.write(run, one, variables, scores, figures, weak))


def _check_knowledge(logits, task: Task, one: TeacherSpec) -> None:
  """Refuses a teacher of classes that knows nothing, judged on held-out examples."""
  if task.metric == "accuracy" and len(task.validation.y) and one.classifies:
    check_knowledge(logits(task.validation.x), task.validation.y, name=one.name)


def judged(run: Run, one: TeacherSpec) -> networks.Teachers:
  """Teachers of one kind with what they are worth here, wherever they were made.

  Raises:
    UserError: they are not there, do not fit, or know nothing about this data.
  """
  found = networks.read(run, one)
  if one.stored is None:
    return found
  task, scores = run.task(one.sections["task"]), []
  probed = recipe_of(networks.method_of(one)).probed
  for network, variables in zip(found.networks, found.variables, strict=True):
    logits = networks.predictor(one, network, variables)
    if probed:
      features = functools.partial(embeddings, network, variables)
      logits = probe(features, network, task.teacher, np.arange(len(task.teacher.y)))
    _check_knowledge(logits, task, one)
    scores.append(dict(task.score(logits, task.test)))
  return found._replace(scores=scores)


def _trace(run: Run, one: TeacherSpec) -> None:
  try:
    job_plan.plan_of(run, networks.job_of(run, one, [0]), run.task(one.sections["task"]).test.x)
  except ValueError as error:
    raise UserError(f"{one.name}: {error}") from error


def _check(run: Run) -> None:
  """Refuses teachers that would need a teacher, and stored ones that do not fit or know nothing of this data."""
  for one in networks.specs(run):
    weights.check(run, one.sections, one.weights, count=one.count, stored=one.stored)
    if one.weak and keeps(run) == TRAJECTORY:
      raise UserError(f"teachers.weak={one.weak}: trajectories have all of their epochs; leave it out")
    if one.weights.path is not None and keeps(run) == TRAJECTORY:
      raise UserError(
        f"teachers.weights={one.weights.path!r}: {run.config['method']['name']} matches trainings from new parameters; "
        "leave it out"
      )
    if one.stored is not None:
      judged(run, one)
      continue
    method = one.sections["teacher_method"]
    if "teacher" in recipe_of(method).needs:
      raise UserError(f"{one.name}: teacher_method.name={method['name']!r}: learns from a teacher itself; choose 'ce'")
    if recipe_of(method).probed and one.classifies and _LOGITS & set(run.config["stages"]):
      raise UserError(
        f"{one.name}: teacher_method.name={method['name']!r}: learns features and no logits, for which "
        f"{run.config['method']['name']} asks its teachers; choose 'ce'"
      )
    augment.named(one.sections["teacher_train"]["augment"], key="teacher_train.augment")
    if networks.makes_samples(method):  # else what it refuses would be seen after the training
      _trace(run, one)
    size, total = one.sections["teacher_train"]["batch_size"], len(run.task(one.sections["task"]).teacher.y)
    if size > total and keeps(run) == TRAJECTORY:  # elsewhere a batch is then the whole set
      raise UserError(f"teacher_train.batch_size={size}: larger than the {total} training images; lower it")


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for one in networks.specs(run):
    if one.stored is not None:
      rows.append((f"{one.name}: stored in {one.stored}", ""))
      continue
    found = job_plan.plan_of(run, networks.job_of(run, one, [0]))
    schedule = one.sections["teacher_train"]
    kept = found.parameters * 4 * one.count
    kept *= schedule["epochs"] + 1 if keeps(run) == TRAJECTORY else 1
    rows.append(
      (
        f"{one.name}: {one.count} x {one.sections['teacher']['name']} ({found.parameters:,} parameters), "
        f"{schedule['epochs']} epochs of {one.sections['teacher_method']['name']}, batch {schedule['batch_size']}",
        f"{found.cost(one.count)}, keeps {format_bytes(kept)}",
      )
    )
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  teachers = record["teachers"]
  lines = [
    f"- {one['name']} ({one['model']}, hash `{one['hash']}`): {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}"
    for one in teachers
    for scores in one["scores"]
  ]
  section = Section("Teachers", "On the test examples.\n\n" + "\n".join(lines))
  return Part({"teachers": teachers}, sections=[section] if lines else [])


STAGE = Stage("teachers", _run, Declared(sections=TEACHERS, complete=_complete), (), _check, _verify, _plan, _report)
