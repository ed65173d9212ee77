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
  return bool({TEACHER, REFERENCE} & set(subset.needs(arm)))


def identity_of(run: Run, arm: Mapping[str, Any]) -> dict[str, Any]:
  """All that determines the scores of an arm: models, corpus and what is set aside of it, but no student."""
  task, needs = run.task(arm["task"]), subset.needs(arm)
  own = {"model": arm["proxy"], "train": arm["proxy_train"]} if REFERENCE in needs else None
  return {
    "data": run.fingerprint(task.data),
    "pool": sha256_arrays({"pool": subset.pool(run, arm)}),
    "teacher": networks.identity(run, scorer(run, arm)) if TEACHER in needs else None,
    "reference": own,
    "seed": run.config["seed"],
  }


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


def ready(run: Run, label: str, arm: Mapping[str, Any], stage: str) -> tuple[Path, dict]:
  """Where the scores of an arm lie, and their record; they are made first where missing."""
  identity = identity_of(run, arm)
  path = run.artefact("scores", **identity)
  return path, artefacts.ready(run, stage, path, _RECORD, identity, lambda: _make(run, label, arm, path, identity))


def evidence(run: Run, arm: Mapping[str, Any], path: Path) -> Evidence:
  """What is known of the chunks that may be chosen."""
  found = read_npz(path / _ARRAYS)
  losses = {name: found[name] for name in (TEACHER, REFERENCE) if name in found}
  return Evidence(np.zeros(len(found["ids"]), np.int32), **losses)


def _make(run: Run, label: str, arm: Mapping[str, Any], path: Path, identity: Mapping[str, Any]) -> None:
  begin, task, needs = time.monotonic(), run.task(arm["task"]), subset.needs(arm)
  pool, aside = subset.pool(run, arm), subset.set_aside(run, arm)
  ids = np.asarray(task.data.ids)
  arrays, work = {"ids": ids[pool], "positions": pool.astype(np.int32)}, {}
  if TEACHER in needs:
    found = networks.trained(run, scorer(run, arm))
    arrays[TEACHER] = _losses(found.networks[0], found.variables[0], task.data, pool)
    work["teacher_flops"] = _forward_flops(found.networks[0], task.data, len(pool))
  if REFERENCE in needs:
    check_disjoint(ids[aside], ids[pool])
    job = job_of(run, label, arm)
    trained, figures = train.run(
      run, job, run.key("reference"), run.workdir / "checkpoints" / f"reference_{path.name}", stage="select"
    )
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), trained.variables["student"])
    arrays[REFERENCE] = _losses(job.network, variables, task.data, pool)
    training = job_plan.plan_of(run, job).flops * figures["steps"]
    work["reference_flops"] = training + _forward_flops(job.network, task.data, len(pool))
  seconds = time.monotonic() - begin

  def write() -> None:
    write_npz(path / _ARRAYS, arrays)
    about = {"seconds": seconds, "set_aside": len(aside), "losses": _by_domain(task, arrays, pool), **work}
    artefacts.write(path, _RECORD, identity, (_ARRAYS,), **about)

  on_first(write)


def _by_domain(task: Task, arrays: Mapping[str, np.ndarray], pool: np.ndarray) -> dict[str, dict[str, float]]:
  """Mean losses per token of the chunks of every domain, and how well the difference tells them from the others."""
  domain = task.data.extra.get("domain")
  if domain is None:
    return {}
  means = {name: arrays[name][0] / np.maximum(arrays[name][1], 1) for name in (TEACHER, REFERENCE) if name in arrays}
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
