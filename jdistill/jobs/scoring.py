"""Losses of all chunks of a corpus under a frozen teacher and a small reference: computed once, shared by all students.

The reference is trained on chunks that are set aside, and which nobody chooses from: it is over-fitted to these.
"""

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.evaluation.perplexity import token_losses
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.jobs import job_plan, networks, subset, train
from jdistill.models.predict import predict
from jdistill.reporting import flops
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.selection.corpus import check_disjoint, separation
from jdistill.selection.select import Evidence
from jdistill.tasks import Task

_RECORD, _ARRAYS = "scores.json", "scores.npz"
TEACHER, REFERENCE = "teacher_losses", "reference_losses"


def is_scored(arm: Mapping[str, Any]) -> bool:
  """Whether a selector of an arm reads losses of chunks."""
  return bool(kinds(arm))


def kinds(arm: Mapping[str, Any]) -> tuple[str, ...]:
  """Whose losses the selector of an arm reads."""
  return tuple(kind for kind in (TEACHER, REFERENCE) if kind in subset.needs(arm))


def identity_of(run: Run, arm: Mapping[str, Any], kind: str) -> dict[str, Any]:
  """All that determines losses of one kind: a model, the corpus and what is set aside of it, but no student."""
  task, shared = run.task(arm["task"]), {"losses": kind, "seed": run.config["seed"]}
  shared |= {"data": run.fingerprint(task.data), "pool": sha256_arrays({"pool": subset.pool(run, arm)})}
  if kind == TEACHER:
    return shared | {"teacher": networks.identity(run, scorer(run, arm))}
  return shared | {"model": arm["proxy"], "train": arm["proxy_train"]}


def scorer(run: Run, arm: Mapping[str, Any]) -> networks.TeacherSpec:
  """The teacher that scores: the first of the arm."""
  return networks.specs_of(run, "", arm)[0]._replace(count=1)


def job_of(run: Run, label: str, arm: Mapping[str, Any]) -> train.Job:
  """The training of the reference on what is set aside."""
  task = run.task(arm["task"])
  return train.Job(
    label=f"reference of {label}",
    network=run.network(arm["proxy"], task),
    recipe=networks.recipe_of({"name": "sft"}),
    train=arm["proxy_train"],
    data=task.data,
    members=subset.set_aside(run, arm)[None],
    seeds=[0],
    section="proxy_train",
  )


def check(run: Run, label: str, arm: Mapping[str, Any]) -> None:
  """Refuses scores that cannot be made, and says what is doubtful.

  Raises:
    UserError: a task without tokens, or nothing that a reference could be trained on.
  """
  name, needs = arm["select"]["name"], subset.needs(arm)
  task = run.task(arm["task"])
  if task.kind != "tokens" or "mask" not in task.data.extra:
    raise UserError(
      f"select.name={name!r}: scores rows of tokens, and task.name={arm['task']['name']!r} has others; choose another "
      "selector"
    )
  check_reference(run, arm)
  if len(set(subset.members(run, arm, [0])[0].tolist())) < len(task.data.y):
    raise UserError(f"select.name={name!r}: students of this task have examples of their own, and scores are for all")
  if REFERENCE in needs:
    found = job_plan.plan_of(run, job_of(run, label, arm))
    if TEACHER in needs and found.parameters > (own := _size(run, scorer(run, arm), task)):
      run.log(
        f"select: {label}: the reference has {found.parameters:,} parameters and the teacher {own:,}: the difference "
        "of their losses is meant for a small reference"
      )


def check_reference(run: Run, arm: Mapping[str, Any]) -> None:
  """Refuses what is set aside where it is too little for a reference, or where no task of tokens is."""
  name, share = arm["select"]["name"], arm["select"]["reference"]
  if share and run.task(arm["task"]).kind != "tokens":
    raise UserError(f"select.reference={share}: is set aside for language models; leave it out")
  if REFERENCE in subset.needs(arm) and not len(subset.set_aside(run, arm)):
    raise UserError(
      f"select.reference={share}: {name} needs examples that a reference is trained on, and that are not scored; set a "
      "share such as 0.05"
    )


def _size(run: Run, one: networks.TeacherSpec, task: Task) -> int:
  shapes = jax.eval_shape(run.network(networks.model_of(one), task).init, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes.params))


def ready(run: Run, label: str, arm: Mapping[str, Any], stage: str) -> dict[str, dict[str, Any]]:
  """The records of the losses that an arm reads, by kind; they are computed first where missing."""
  found = {}
  for kind in kinds(arm):
    identity = identity_of(run, arm, kind)
    path = run.artefact("scores", **identity)
    make = functools.partial(_make, run, label, arm, kind, path, identity)
    found[kind] = artefacts.ready(run, stage, path, _RECORD, identity, make)
  return found


def evidence(run: Run, arm: Mapping[str, Any]) -> Evidence:
  """What is known of the chunks that may be chosen.

  Raises:
    UserError: models that scored other chunks.
  """
  found = {kind: read_npz(run.artefact("scores", **identity_of(run, arm, kind)) / _ARRAYS) for kind in kinds(arm)}
  ids = [one["ids"] for one in found.values()]
  if any(not np.array_equal(one, ids[0]) for one in ids):
    raise UserError("select: teacher and reference scored other chunks; delete the directory artefacts/scores")
  return Evidence(np.zeros(len(ids[0]), np.int32), **{kind: one["losses"] for kind, one in found.items()})


def about(run: Run, arm: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """What a report tells of the scores of an arm: their work, and losses by domain."""
  work = {f"{kind.partition('_')[0]}_flops": one["flops"] for kind, one in records.items()}
  means = _by_domain(run.task(arm["task"]), evidence(run, arm), subset.pool(run, arm))
  return work | ({"losses": means} if means else {})


def _make(run: Run, label: str, arm: Mapping[str, Any], kind: str, path: Path, identity: Mapping[str, Any]) -> None:
  begin, task, pool = time.monotonic(), run.task(arm["task"]), subset.pool(run, arm)
  ids, work = np.asarray(task.data.ids), 0.0
  if kind == TEACHER:
    found = networks.trained(run, scorer(run, arm))
    network, variables = found.networks[0], found.variables[0]
  else:
    check_disjoint(ids[subset.set_aside(run, arm)], ids[pool])
    job = job_of(run, label, arm)
    directory = run.workdir / "checkpoints" / f"reference_{path.name}"
    trained, figures = train.run(run, job, run.key("reference"), directory, stage="select")
    network, variables = job.network, jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), trained.variables["student"])
    work = job_plan.plan_of(run, job).flops * figures["steps"]
  losses = _losses(network, variables, task.data, pool)
  work += _forward_flops(network, task.data, len(pool))
  seconds = time.monotonic() - begin

  def write() -> None:
    write_npz(path / _ARRAYS, {"ids": ids[pool], "positions": pool.astype(np.int32), "losses": losses})
    artefacts.write(path, _RECORD, identity, (_ARRAYS,), seconds=seconds, flops=work)

  on_first(write)


def _by_domain(task: Task, known: Evidence, pool: np.ndarray) -> dict[str, dict[str, float]]:
  """Mean losses per token of the chunks of every domain, and how well the difference tells them from the others."""
  domain = task.data.extra.get("domain")
  if domain is None:
    return {}
  means = {kind: getattr(known, kind) for kind in (TEACHER, REFERENCE)}
  means = {kind: one[0] / np.maximum(one[1], 1) for kind, one in means.items() if one is not None}
  if len(means) == 2:
    means["difference"] = means[REFERENCE] - means[TEACHER]
  found = {}
  for number, name in enumerate(task.domains):
    mine = np.asarray(domain)[pool] == number
    if mine.any() and not mine.all():
      found[name] = {kind: float(values[mine].mean()) for kind, values in means.items()}
      found[name] |= {"auc": separation(means["difference"], mine)} if "difference" in means else {}
  return found


def _losses(network, variables, data, pool: np.ndarray) -> np.ndarray:
  """`[2, n]`: nats of each chunk, and its tokens that count."""
  take = lambda leaf: np.asarray(leaf)[pool]  # noqa: E731
  mask = take(data.extra["mask"])
  asked = functools.partial(predict, network, variables)
  values = token_losses(asked, jax.tree.map(take, data.x), take(data.y), mask)
  return np.stack([values.sum(1), mask.sum(1)]).astype(np.float64)


def _forward_flops(network, data, rows: int) -> float:
  """Of reading so many chunks."""
  x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *np.shape(leaf)[1:]), np.asarray(leaf).dtype), data.x)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  return rows * flops.count(lambda v, x: network.apply(v.params, x, stats=v.stats).logits, variables, x)
