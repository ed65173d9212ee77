"""Stage `teacher`: trains the teachers, or finds them among the artefacts, and prints what they are worth."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog
from jdistill.base import Network, Teacher, UserError, Variables
from jdistill.files import read_json, read_npz, write_json, write_npz
from jdistill.methods.knowledge import Recipe
from jdistill.stages.context import lead
from jdistill.stages.knowledge import train
from jdistill.stages.knowledge.context import Context
from jdistill.tasks.task import Task
from jdistill.teachers.cache import cached, record, top_k
from jdistill.teachers.checks import check_knowledge
from jdistill.teachers.frozen import committee, variables_hash

SECTIONS = ("teacher", "teacher_method", "teacher_train")


class Teachers(NamedTuple):
  """Trained teachers.

  Attributes:
    networks, variables: of each.
    hash: of all parameters.
    scores: what each is worth on the test examples; empty where it was not asked.
  """

  networks: tuple[Network, ...]
  variables: tuple[Variables, ...]
  hash: str
  scores: list[dict[str, float]]


class Want(NamedTuple):
  """Teachers of one kind that a run needs.

  Attributes:
    name: how the run calls them.
    sections: `teacher`, `teacher_method`, `teacher_train` and `task`.
    count: how many, with seeds from 0.
    stored: where they lie, if they were made elsewhere.
  """

  name: str
  sections: Mapping[str, Any]
  count: int
  stored: str | None = None


def recipe_of(section: Mapping[str, Any]) -> Recipe:
  """The recipe of a section `method`, `teacher_method` or `start_method`."""
  options = dict(section)
  return catalog.row(options.pop("name")).build()(**options)


def has_teacher(arm: Mapping[str, Any]) -> bool:
  """Whether an arm, or the phase before it, learns from teachers."""
  methods = [arm["method"], *([arm["start_method"]] if arm["start_train"] else [])]
  return any("teacher" in recipe_of(method).needs for method in methods)


def wants_of(ctx: Context, label: str, arm: Mapping[str, Any]) -> list[Want]:
  """The teachers of one arm: its own, then those of the committee that it names."""
  c = ctx.config
  own = {section: arm[section] for section in SECTIONS}
  name = "teacher" if own == {section: c[section] for section in SECTIONS} else f"teacher of {label}"
  targets, task = arm["targets"], {"task": arm["task"]}
  others = [Want(f"teacher {other}", c["committee"][other] | task, 1) for other in targets["also"]]
  return [Want(name, own | task, targets["count"], targets["stored"]), *others]


def wants(ctx: Context) -> list[Want]:
  """All teachers of a run, each kind once and as many of it as the arm that wants most; the run's own first."""
  c, found = ctx.config, {}
  for label in c["order"]:
    if not has_teacher(c["arms"][label]):
      continue
    for want in wants_of(ctx, label, c["arms"][label]):
      key = ctx.key_of(**_identity(ctx, want._replace(count=1)))
      known = found.setdefault(key, want)
      found[key] = known._replace(count=max(known.count, want.count))
  return sorted(found.values(), key=lambda want: want.name != "teacher")


def _identity(ctx: Context, want: Want) -> dict[str, Any]:
  """All that determines teachers of one kind."""
  if want.stored is not None:
    return {"stored": want.stored}
  return {
    "data": ctx.fingerprint(ctx.task(want.sections["task"]).teacher),
    "model": want.sections["teacher"],
    "method": want.sections["teacher_method"],
    "train": want.sections["teacher_train"],
    "count": want.count,
    "seed": ctx.config["seed"],
  }


def _directory(ctx: Context, want: Want) -> Path:
  """Where teachers lie: shared by all runs that want the same."""
  if want.stored is not None:
    return Path(want.stored).expanduser()
  return ctx.artefacts / "teachers" / ctx.key_of(**_identity(ctx, want))


def model_of(want: Want) -> Mapping[str, Any]:
  """The section `teacher` of teachers of one kind, also of stored ones.

  Raises:
    UserError: there is no stored teacher.
  """
  if want.stored is None:
    return want.sections["teacher"]
  path = Path(want.stored).expanduser()
  if not _is_complete(path):
    raise UserError(f"targets.stored={want.stored!r}: no teacher there; give a directory of artefacts/teachers")
  return read_json(path / "teacher.json")["identity"]["model"]


def run(ctx: Context) -> None:
  """Trains the teachers that are missing, and says what all of them are worth."""
  begin, records = time.monotonic(), []
  for want in wants(ctx):
    if want.stored is None and not lead(lambda want=want: _is_complete(_directory(ctx, want))):
      _train(ctx, want)
    found = judged(ctx, want)
    for number, scores in enumerate(found.scores):
      name = f"{want.name} {number}" if len(found.scores) > 1 else want.name
      figures = ", ".join(f"{key} {value:.4g}" for key, value in scores.items())
      ctx.say(f"{name}: {model_of(want)['name']}, {figures}; hash {found.hash}")
    records.append({"name": want.name, "model": model_of(want)["name"], "hash": found.hash, "scores": found.scores})
  ctx.finish("teacher", begin, teachers=records)


def verify(ctx: Context) -> None:
  """Refuses a finished stage whose teachers are gone or damaged."""
  for want in wants(ctx):
    _load(ctx, want)


def _is_complete(path: Path) -> bool:
  return (path / "teacher.json").exists() and (path / "variables.npz").exists()


def _train(ctx: Context, want: Want) -> None:
  task, identity = ctx.task(want.sections["task"]), _identity(ctx, want)
  directory, count = _directory(ctx, want), want.count
  job = train.Job(
    label=want.name,
    network=ctx.network(want.sections["teacher"], task),
    recipe=recipe_of(want.sections["teacher_method"]),
    train=want.sections["teacher_train"],
    data=task.teacher,
    members=np.tile(np.arange(len(task.teacher.y)), (count, 1)),
    seeds=list(range(count)),
  )
  checkpoints = ctx.workdir / "checkpoints" / f"teacher_{directory.name}"
  trained, figures = train.run(ctx, job, ctx.key("teacher"), checkpoints, stage="teacher")
  predicts = [train.predictions(job, trained, i) for i in range(count)]
  for predict in predicts:
    _check(predict, task, want.name)
  scores = [dict(task.score(predict, task.test)) for predict in predicts]

  def write():
    leaves = jax.tree.leaves(trained.variables["student"])
    write_npz(directory / "variables.npz", {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)})
    write_json(directory / "teacher.json", {"identity": identity, "scores": scores, **figures})

  lead(write)


def _check(predict, task: Task, name: str) -> None:
  """Refuses a teacher of classes that knows nothing, judged on held-out examples."""
  if task.metric == "accuracy" and len(task.validation.y):
    check_knowledge(predict(task.validation.x), task.validation.y, name=name)


def _load(ctx: Context, want: Want) -> Teachers:
  """Teachers of one kind.

  Raises:
    UserError: they are not there, damaged, or do not fit.
  """
  path = _directory(ctx, want)
  model = model_of(want)
  if not _is_complete(path):
    raise UserError(f"{path}: no teacher there; add 'teacher' to config.stages, or give the --artefacts of that run")
  task = ctx.task(want.sections["task"])
  found, kept = read_npz(path / "variables.npz"), read_json(path / "teacher.json")
  network = ctx.network(model, task)
  form = jax.eval_shape(network.init, jax.random.key(0))
  leaves = [found[name] for name in sorted(found)]
  if [leaf.shape[1:] for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(form)]:
    cure = "give a teacher of this data" if want.stored else "delete the directory"
    raise UserError(
      f"{path}/variables.npz: does not fit model {model['name']} with {task.num_classes} classes on inputs "
      f"{task.input_shape}; {cure}"
    )
  stacked = jax.tree.unflatten(jax.tree.structure(form), leaves)
  variables = tuple(jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), stacked) for i in range(len(leaves[0])))
  variables = variables[: want.count]
  scores = kept["scores"] if want.stored is None else []
  return Teachers((network,) * len(variables), variables, variables_hash(variables), scores)


def judged(ctx: Context, want: Want) -> Teachers:
  """Teachers of one kind with what they are worth here, wherever they were made.

  Raises:
    UserError: they are not there, do not fit, or know nothing about this data.
  """
  found = _load(ctx, want)
  if want.stored is None:
    return found
  task = ctx.task(want.sections["task"])
  return found._replace(scores=[_score(found.networks[0], v, task, want.name) for v in found.variables])


def _score(network: Network, variables: Variables, task: Task, name: str) -> dict[str, float]:
  """What a teacher that was made elsewhere is worth here."""
  ask = jax.jit(lambda v, x: network.apply(v.params, x, stats=v.stats).logits)

  def predict(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(ask(variables, x[i : i + 500])) for i in range(0, len(x), 500)])

  _check(predict, task, name)
  return dict(task.score(predict, task.test))


def load(ctx: Context, label: str, arm: Mapping[str, Any]) -> Teachers | None:
  """The teachers of an arm; `None` where it has none."""
  if not has_teacher(arm):
    return None
  whole = {ctx.key_of(**_identity(ctx, want._replace(count=1))): want for want in wants(ctx)}
  networks, variables, scores = (), (), []
  for want in wants_of(ctx, label, arm):
    found = _load(ctx, whole[ctx.key_of(**_identity(ctx, want._replace(count=1)))])
    networks, variables = networks + found.networks[: want.count], variables + found.variables[: want.count]
    scores += found.scores[: want.count]
  return Teachers(networks, variables, variables_hash(variables), scores)


def source(ctx: Context, found: Teachers, targets: Mapping[str, Any], task: Task) -> Teacher:
  """Teachers as a section `targets` wants them: online or stored."""
  online = committee(found.networks, found.variables)
  if targets["source"] == "online":
    return online
  own = ctx.fingerprint(task.data)
  stored = record(online, task.data.x, task.data.ids, data=own, teacher_hash=found.hash)
  if targets["top_k"] is not None:
    stored = top_k(stored, targets["top_k"])
  return cached(stored, data=own, teacher_hash=found.hash)
