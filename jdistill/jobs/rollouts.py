"""Smoke tests of teachers, and roll-outs of a student: evidence about responses, shared by all students and arms.

For every teacher a student is trained on its responses to the questions that are set aside, alike and from the same
starts. Held-out examples say how good these students are. The best teacher's first student then answers all other
questions several times.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, LanguageModel, PyTree, UserError, writers
from jdistill.evaluation.sources import compared
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.jobs import job_plan, networks, subset, train
from jdistill.jobs.job import predictions
from jdistill.language import Rows, generate, with_prompts
from jdistill.methods.language.responses import draw_prompts
from jdistill.models.predict import predict
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.selection.select import Evidence
from jdistill.selection.traces import best_source
from jdistill.tasks import Task, take

_RECORD, _ARRAYS = "rollouts.json", "rollouts.npz"
_AT_ONCE = 256  # roll-outs
NEEDS = ("origins", "responses", "own_scores", "smoke", "passes")


def is_asked(arm: Mapping[str, Any]) -> bool:
  """Whether the selector of an arm reads what students made of responses."""
  return bool(set(subset.needs(arm)) & set(NEEDS))


def identity_of(run: Run, arm: Mapping[str, Any]) -> dict[str, Any]:
  """All that determines the evidence: examples, students and roll-outs, but nothing of what is then chosen."""
  task, own = run.task(arm["task"]), arm["select"]
  return {
    "evidence": "rollouts",
    "data": run.fingerprint(task.data),
    "validation": run.fingerprint(task.validation),
    "pool": sha256_arrays({"pool": subset.pool(run, arm)}),
    "model": arm["proxy"],
    "train": arm["proxy_train"],
    "runs": own["runs"],
    "rollouts": own["rollouts"],
    "seed": run.config["seed"],
  }


def check(run: Run, arm: Mapping[str, Any]) -> None:
  """Refuses evidence that cannot be made.

  Raises:
    UserError: a task whose responses have no question and no verifier, a network that cannot write, no runs, or too few
      questions that are set aside.
  """
  name, task, own = arm["select"]["name"], run.task(arm["task"]), arm["select"]
  if task.verifier is None or not {"question", "domain", "own_score"} <= set(task.data.extra):
    raise UserError(
      f"select.name={name!r}: needs responses of several teachers to the same questions, and a verifier; set "
      "task.name='candidates'"
    )
  if not writers([run.network(arm["proxy"], task)]):
    raise UserError(f"proxy.name={arm['proxy']['name']!r}: students of the smoke test must write; use a decoder")
  if not own["runs"]:
    raise UserError(f"select.runs=0: {name} needs students of the smoke test; set at least 1, or 2 for a spread")
  members = _smoke_members(run, arm, task)
  if not len(members[0]):
    raise UserError(
      f"select.reference={own['reference']}: no question is set aside that all teachers answer rightly, and {name} "
      "tests teachers on these; set a share such as 0.2"
    )
  job_plan.plan_of(run, _job(run, "", arm, members[0], ""))  # refuses a network that does not fit


def _smoke_members(run: Run, arm: Mapping[str, Any], task: Task) -> list[np.ndarray]:
  """Positions of the responses that each teacher is tested by: the first to every question that all answered."""
  aside, extra = subset.set_aside(run, arm), task.data.extra
  question, source = np.asarray(extra["question"])[aside], np.asarray(extra["domain"])[aside]
  own = [aside[source == number] for number in range(len(task.domains))]
  asked = [np.unique(question[source == number], return_index=True) for number in range(len(task.domains))]
  common = functools.reduce(np.intersect1d, [found for found, _ in asked])
  return [mine[first[np.isin(found, common)]] for mine, (found, first) in zip(own, asked, strict=True)]


def _job(run: Run, label: str, arm: Mapping[str, Any], members: np.ndarray, teacher: str) -> train.Job:
  runs, task = arm["select"]["runs"], run.task(arm["task"])
  return train.Job(
    label=f"smoke test of {teacher}",
    network=run.network(arm["proxy"], task),
    recipe=networks.recipe_of({"name": "sft"}),
    train=arm["proxy_train"],
    data=task.data,
    members=np.repeat(members[None], runs, axis=0),
    seeds=list(range(runs)),
    section="proxy_train",
  )


def plan_row(run: Run, label: str, arm: Mapping[str, Any]) -> tuple[str, str]:
  """What the evidence of an arm would cost, but for the roll-outs."""
  task, own = run.task(arm["task"]), arm["select"]
  members = _smoke_members(run, arm, task)
  found = job_plan.plan_of(run, _job(run, label, arm, members[0], ""))
  count = len(members) * own["runs"]
  questions = len(_prompts(task, subset.pool(run, arm)).ids)
  what = f"smoke tests: {count} x {arm['proxy']['name']} ({found.parameters:,} parameters), {found.steps:,} steps on "
  what += f"{len(members[0]):,} responses; then {own['rollouts']} roll-outs of {questions:,} questions"
  return what, found.cost(count)


def ready(run: Run, label: str, arm: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """The record of the evidence of an arm, which is made first where it is missing."""
  identity = identity_of(run, arm)
  path = run.artefact("rollouts", **identity)
  make = functools.partial(_make, run, label, arm, path, identity, stage)
  return artefacts.ready(run, stage, path, _RECORD, identity, make)


def evidence(run: Run, arm: Mapping[str, Any]) -> Evidence:
  """What is known of the responses that may be chosen."""
  found = read_npz(run.artefact("rollouts", **identity_of(run, arm)) / _ARRAYS)
  task, pool = run.task(arm["task"]), subset.pool(run, arm)
  question, source, own = (np.asarray(task.data.extra[name])[pool] for name in ("question", "domain", "own_score"))
  mask = np.asarray(task.data.extra["mask"])[pool]
  return Evidence(
    np.zeros(len(pool), np.int32),
    origins=np.stack([question, source]),
    responses=np.where(mask, np.asarray(task.data.y)[pool], -1).T,
    own_scores=own[None],
    smoke=found["smoke"][:, source],
    passes=found["passes"][:, np.searchsorted(found["questions"], question)],
  )


def _make(run: Run, label: str, arm: Mapping[str, Any], path: Path, identity: Mapping[str, Any], stage: str) -> None:
  begin, task, work, scores, students = time.monotonic(), run.task(arm["task"]), 0.0, {}, []
  for teacher, members in zip(task.domains, _smoke_members(run, arm, task), strict=True):
    job = _job(run, label, arm, members, teacher)
    directory = run.workdir / "checkpoints" / f"smoke_{teacher}_{path.name}"
    trained, figures = train.run(run, job, run.key("smoke"), directory, stage=stage)
    work += job_plan.plan_of(run, job).flops * figures["steps"] * len(job.seeds)
    scores[teacher] = [_score(task, predictions(job, trained, index)) for index in range(len(job.seeds))]
    students.append(jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), trained.variables["student"]))
  smoke = np.array(list(scores.values()), np.float64).T  # [runs, teachers]
  if not np.isfinite(smoke).all():
    raise UserError(f"{label}: a student of the smoke test has a score that is not finite; lower proxy_train.lr")
  best = best_source(np.arange(smoke.shape[1]), smoke)
  prompts = _prompts(task, subset.pool(run, arm))
  given = run.key("rollouts"), students[best].params
  passes = _roll_out(*writers([job.network]), given, task, prompts, arm["select"]["rollouts"])
  text = compared(scores).text if len(smoke) > 1 else f"{task.domains[best]} has the best student, of one run each"
  seconds = time.monotonic() - begin

  def write() -> None:
    questions = np.asarray(prompts.extra["question"])
    write_npz(path / _ARRAYS, {"smoke": smoke, "passes": passes, "questions": questions})
    about = {"smoke": _table(task, scores), "text": text, "pass_rate": float(passes.mean())}
    artefacts.write(path, _RECORD, identity, (_ARRAYS,), seconds=seconds, flops=work, about=about)

  on_first(write)
  run.log(f"{stage}: {label}: smoke test: {text}; its student answers {passes.mean():.1%} of the questions")


def _score(task: Task, predict: Callable) -> float:
  """The figure that counts, higher better."""
  return float(task.score(predict, task.validation)[task.metric]) * (1 if task.higher else -1)


def _table(task: Task, scores: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
  """By teacher: its own score, and those of its students."""
  source, own = np.asarray(task.data.extra["domain"]), np.asarray(task.data.extra["own_score"])
  return {
    teacher: {"own": float(own[np.argmax(source == number)]), "students": found}
    for number, (teacher, found) in enumerate(scores.items())
  }


def _prompts(task: Task, pool: np.ndarray) -> Batch:
  """One example of every question that may be chosen, by ascending question."""
  _, first = np.unique(np.asarray(task.data.extra["question"])[pool], return_index=True)
  return take(task.data, pool[first])


def _roll_out(model: LanguageModel, given: tuple[Key, PyTree], task: Task, prompts: Batch, count: int) -> np.ndarray:
  """Whether each of `count` samples of a student is right, `[count, questions]` float32."""
  mask = np.asarray(prompts.extra["mask"])
  room = int(mask.argmax(axis=1).max()) + 1  # tokens of the longest prompt
  program, (key, params) = _writer(model, mask.shape[1] - room, task.verifier.end_token), given
  found = []
  for number in range(count):
    rows, response = predict(program, (jax.random.fold_in(key, number), params), prompts, batch_size=_AT_ONCE)
    found.append(np.asarray(task.verifier.right(rows, response), np.float32))
  return np.stack(found)


@functools.lru_cache(maxsize=8)
def _writer(model: LanguageModel, max_new: int, end_token: int) -> Callable[[tuple, Batch], tuple[Rows, jax.Array]]:
  """`((key, parameters), examples) -> (prompts with what the model writes at temperature 1, mask of the responses)`."""

  def write(given: tuple[Key, PyTree], batch: Batch) -> tuple[Rows, jax.Array]:
    key, params = given
    prompts, there = draw_prompts(key, batch, 0, max_new)
    options = {"max_new": max_new, "prompt_mask": there, "end_token": end_token, "row_ids": batch.ids}
    return with_prompts(prompts, there, generate(model, params, prompts, key, **options))

  return write
