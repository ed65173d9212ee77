"""Stage `teacher`: trains the teachers, or finds them among the artefacts, and prints what they are worth."""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog
from jdistill.base import Network, Teacher, UserError, Variables
from jdistill.files import read_json, read_npz, write_json, write_npz
from jdistill.methods.knowledge import Trained
from jdistill.settings.setting import Setting
from jdistill.stages.context import lead
from jdistill.stages.knowledge import train
from jdistill.stages.knowledge.context import Context
from jdistill.teachers.cache import cached, record, top_k
from jdistill.teachers.frozen import committee, variables_hash


class Teachers(NamedTuple):
  """Trained teachers.

  Attributes:
    network: of all of them.
    variables: one set each.
    hash: of all parameters.
    scores: what each is worth on the test examples.
  """

  network: Network
  variables: tuple[Variables, ...]
  hash: str
  scores: list[dict[str, float]]


def identity(ctx: Context) -> dict:
  """The part of a run that determines its teachers."""
  c = ctx.config
  setting = ctx.setting(c["setting"])
  return {
    "data": ctx.fingerprint(setting.teacher),
    "model": c["teacher"],
    "method": c["teacher_method"],
    "train": c["teacher_train"],
    "count": max(arm["targets"]["count"] for arm in c["arms"].values()),
    "seed": c["seed"],
  }


def directory(ctx: Context) -> Path:
  """Where the teachers lie: shared by all runs that want the same."""
  return ctx.artefacts / "teachers" / ctx.key_of(**identity(ctx))


def run(ctx: Context) -> None:
  """Trains the teachers that are missing, and says what all of them are worth."""
  begin = time.monotonic()
  if not lead(lambda: _is_complete(directory(ctx))):
    _train(ctx, begin)
  found = load(ctx)
  metric = ctx.setting(ctx.config["setting"]).metric
  for number, scores in enumerate(found.scores):
    name = f"teacher {number}" if len(found.scores) > 1 else "teacher"
    figures = ", ".join(f"{key} {value:.4g}" for key, value in scores.items())
    ctx.say(f"{name}: {ctx.config['teacher']['name']}, {figures}; hash {found.hash}")
  _check(ctx, found, metric)
  ctx.finish("teacher", begin, hash=found.hash, scores=found.scores, directory=directory(ctx).name)


def _is_complete(path: Path) -> bool:
  return (path / "teacher.json").exists() and (path / "variables.npz").exists()


def _train(ctx: Context, begin: float) -> None:
  c, identity_ = ctx.config, identity(ctx)
  setting = ctx.setting(c["setting"])
  options = dict(c["teacher_method"])
  recipe = catalog.row(options.pop("name")).build()(**options)
  count = identity_["count"]
  job = train.Job(
    label="teacher",
    network=ctx.network(c["teacher"], setting),
    recipe=recipe,
    train=c["teacher_train"],
    data=setting.teacher,
    members=np.tile(np.arange(len(setting.teacher.y)), (count, 1)),
    seeds=list(range(count)),
  )
  trained, figures = train.run(ctx, job, ctx.key("teacher"), ctx.workdir / "checkpoints" / "teacher", stage="teacher")
  scores = [dict(setting.score(train.predictions(job, trained, i), setting.test)) for i in range(count)]

  def write():
    leaves = jax.tree.leaves(trained.variables["student"])
    write_npz(directory(ctx) / "variables.npz", {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)})
    write_json(directory(ctx) / "teacher.json", {"identity": identity_, "scores": scores, **figures})

  del begin
  lead(write)


def load(ctx: Context) -> Teachers:
  """The teachers of this run.

  Raises:
    UserError: they are not there, or damaged.
  """
  path = directory(ctx)
  if not _is_complete(path):
    raise UserError(f"{path}: no teacher there; add 'teacher' to config.stages, or give the --artefacts of that run")
  setting = ctx.setting(ctx.config["setting"])
  network = ctx.network(ctx.config["teacher"], setting)
  found, record_ = read_npz(path / "variables.npz"), read_json(path / "teacher.json")
  form = jax.eval_shape(network.init, jax.random.key(0))
  leaves = [found[name] for name in sorted(found)]
  if [leaf.shape[1:] for leaf in leaves] != [leaf.shape for leaf in jax.tree.leaves(form)]:
    raise UserError(f"{path}/variables.npz: does not fit model {ctx.config['teacher']['name']}; delete the directory")
  stacked = jax.tree.unflatten(jax.tree.structure(form), leaves)
  variables = tuple(jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), stacked) for i in range(len(leaves[0])))
  return Teachers(network, variables, variables_hash(variables), record_["scores"])


def source(ctx: Context, found: Teachers, targets: dict, setting: Setting) -> Teacher:
  """The teachers as a section `targets` wants them: online or stored, one or several."""
  chosen = found.variables[: targets["count"]]
  online = committee([found.network] * len(chosen), chosen)
  if targets["source"] == "online":
    return online
  own, digest = ctx.fingerprint(setting.data), variables_hash(chosen)
  stored = record(online, setting.data.x, setting.data.ids, data=own, teacher_hash=digest)
  if targets["top_k"] is not None:
    stored = top_k(stored, targets["top_k"])
  return cached(stored, data=own, teacher_hash=digest)


def _check(ctx: Context, found: Teachers, metric: str) -> None:
  """Refuses a teacher that knows nothing."""
  setting = ctx.setting(ctx.config["setting"])
  if metric != "accuracy":
    return
  for scores in found.scores:
    if scores["accuracy"] <= 1 / setting.num_classes:
      raise UserError(
        f"teacher: test accuracy {scores['accuracy']:.3f} is not above chance for {setting.num_classes} classes; "
        "train it longer (teacher_train.epochs), or check its labels"
      )


__all__ = ["Teachers", "Trained", "load", "run", "source"]
