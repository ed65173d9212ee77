"""The rounds of one arm of stage `active`: what a round trains on, what is known of its pool, and what it asks next."""

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jdistill import catalog
from jdistill.base import Batch, Network, PyTree, TargetSource, UserError
from jdistill.config import Named, Plain, sections
from jdistill.config.arms import Arms
from jdistill.config.common import RUN, TRAIN
from jdistill.data.policies import answered
from jdistill.evaluation import embeddings
from jdistill.jobs import arms, networks, targets, train
from jdistill.jobs.networks import recipe_of
from jdistill.jobs.sections import TEACHERS, check_train
from jdistill.methods.knowledge import Trained
from jdistill.runs.run import Run
from jdistill.selection import Pool, margin_gain
from jdistill.selection.queries import as_probabilities
from jdistill.tasks import Task

STAGE = "active"


def takes_unlabelled(method: str) -> bool:
  """Whether a recipe knows what to do with examples without a label: those that were made for rounds of queries do."""
  return STAGE in catalog.row(method).stages


def _check_sections(prefix: str, arm: dict[str, Any], committee: Mapping[str, Any]) -> None:
  del committee
  for section in ("train", "teacher_train"):
    check_train(f"{prefix}{section}", arm[section])
  if arm["teachers"]["also"] or arm["teachers"]["count"] > 1:
    raise UserError(f"{prefix}teachers: one teacher is asked; set count=1 and also=()")
  if arm["targets"]["source"] in targets.FILED:
    targets.check_section(prefix, arm)


SECTIONS = {
  "method": Named(lambda: [*catalog.names(STAGE), *catalog.names("students")], lambda name: catalog.row(name).fields()),
  "task": RUN.sections["task"],
  "student": sections.network(),
  "train": TRAIN,
  "selector": sections.selector(),
  "targets": Plain(arms.SECTIONS["targets"].fields),
  **TEACHERS,
}
ARMS = Arms(SECTIONS, _check_sections)


class Asked(NamedTuple):
  """What is known of the teacher of an arm; `None` in arms without one.

  Attributes:
    logits: `[n, C]` on all training examples.
    error: share of its mistakes on held-out examples; `None` without any.
  """

  logits: np.ndarray
  error: float | None


class Rounds(NamedTuple):
  """One arm, ready for its rounds.

  Attributes:
    label, arm: its name and its sections.
    task: data and score.
    network: the student.
    data: all examples twice, `[2 n]`: with their labels, then without.
    start: `[seeds, start]` positions of the labelled examples.
    targets, constants: what the recipe's teacher says; `None` and `()` without.
    teacher: see `Asked`.
  """

  label: str
  arm: Mapping[str, Any]
  task: Task
  network: Network
  data: Batch
  start: np.ndarray
  targets: TargetSource | None
  constants: PyTree
  teacher: Asked | None

  @property
  def size(self) -> int:
    """Examples that can have an answer."""
    return len(self.task.data.y)


def rounds_of(run: Run, label: str, seeds: int, students: dict[str, Network]) -> Rounds:
  """Reads an arm's teacher and data.

  Networks are kept in `students`: equal students of a run are one object, so that arms share compiled programs.
  """
  arm = run.config["arms"][label]
  task, teachers = run.task(arm["task"]), networks.load(run, label, arm)
  targets, constants = arms.taught(run, teachers, arm, "", task)
  known = None
  if teachers is not None:
    held = task.validation
    wrong = np.mean(networks.logits(teachers, held.x)[0].argmax(-1) != held.y) if len(held.y) else None
    known = Asked(networks.logits(teachers, task.data.x)[0], None if wrong is None else float(wrong))
  start = np.stack([task.members(seed) for seed in range(seeds)])
  name = json.dumps([arm["student"], arm["task"]], sort_keys=True)
  if name not in students:
    students[name] = run.network(arm["student"], task)
  return Rounds(label, arm, task, students[name], twice(task.data), start, targets, constants, known)


def twice(data: Batch) -> Batch:
  """All examples with their labels, then the same ones, of the same names, with the label -1."""

  def both(leaf: np.ndarray) -> np.ndarray:
    return np.concatenate([leaf, leaf])

  hidden = np.full_like(data.y, -1)
  extra = {name: both(np.asarray(value)) for name, value in data.extra.items()}
  return Batch(jax.tree.map(both, data.x), np.concatenate([data.y, hidden]), both(data.ids), extra=extra)


def members(rounds: Rounds, asked: np.ndarray, how: Mapping[str, Any]) -> tuple[np.ndarray, int]:
  """Positions `[seeds, m]` in `Rounds.data` of what a round trains on, and how many of them, first, have an answer.

  Args:
    rounds: the arm.
    asked: `[seeds, k]` positions of what was asked about.
    how: the section `active`.
  """
  known = rounds.start, asked + (rounds.size if how["answers"] == "teacher" else 0)
  own = np.concatenate(known, axis=1)
  if not how["unlabelled"] or not takes_unlabelled(rounds.arm["method"]["name"]):
    return own, own.shape[1]
  return np.concatenate([own, rounds.size + pools(rounds, asked)], axis=1), own.shape[1]


def pools(rounds: Rounds, asked: np.ndarray) -> np.ndarray:
  """`[seeds, n]` positions of what has no answer yet, ascending."""
  everything = np.arange(rounds.size)
  gone = np.concatenate([rounds.start, asked], axis=1)
  return np.stack([np.setdiff1d(everything, own) for own in gone])


def job_of(rounds: Rounds, asked: np.ndarray, how: Mapping[str, Any], number: int, start: Any = None) -> train.Job:
  """The training of one round."""
  own, labelled = members(rounds, asked, how)
  schedule = rounds.arm["train"]
  beside = how["unlabelled"] if own.shape[1] > labelled else 0
  return train.Job(
    label=f"{rounds.label}, round {number}",
    network=rounds.network,
    recipe=recipe_of(rounds.arm["method"]),
    train=schedule,
    policy=lambda size, _: _policy(size, schedule["batch_size"], labelled, beside, how["steps"]),
    data=rounds.data,
    members=own,
    seeds=list(range(len(own))),
    targets=rounds.targets,
    constants=rounds.constants,
    start=start,
  )


@functools.lru_cache(maxsize=64)
def _policy(size: int, batch_size: int, labelled: int, beside: int, steps: int | None):
  """The same object for equal arguments, so that arms share the compiled draw."""
  return answered(size, batch_size, labelled=labelled, unlabelled=beside, steps=steps)


def predictions(rounds: Rounds, job: train.Job, trained: Trained, seed: int) -> dict[str, Any]:
  """What one student says: scores on the test examples, and probabilities and features of all training examples."""
  predict = train.predictions(job, trained, seed)
  own = jax.tree.map(lambda leaf: leaf[seed], trained.variables["student"])
  return {
    "scores": dict(rounds.task.score(predict, rounds.task.test)),
    "probabilities": as_probabilities(predict(rounds.task.data.x)),
    "embedding": embeddings(rounds.network, own, rounds.task.data.x),
  }


def look(rounds: Rounds, said: Mapping[str, Any], seed: int, asked: np.ndarray, how: Mapping[str, Any]):
  """`(Pool, positions of the pool)` of one seed."""
  pool, task, teacher = pools(rounds, asked)[seed], rounds.task, rounds.teacher
  known = np.concatenate([rounds.start[seed], asked[seed]])
  labels = answers(rounds, asked, how)[seed]
  p, h = said["probabilities"], said["embedding"]
  mistakes = right = None
  if teacher is not None:
    mistakes = None if teacher.error is None else teacher.error * len(pool)
    right = teacher.logits[pool].argmax(-1) == task.data.y[pool]
  counts = np.bincount(labels, minlength=task.num_classes)
  return Pool(p[pool], h[pool], p[known], h[known], counts, mistakes, right), pool


def answers(rounds: Rounds, asked: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
  """`[seeds, start + k]` classes that were answered: labels, or what the teacher holds likeliest."""
  labels = rounds.task.data.y
  later = rounds.teacher.logits.argmax(-1) if how["answers"] == "teacher" else labels
  return np.concatenate([labels[rounds.start], later[asked]], axis=1)


def figures_of(pool: Pool, chosen: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """What the queries of one seed are like: gain, classes, and how often the teacher is right about them.

  Args:
    pool: what they were chosen from.
    chosen: `[q]` positions in it.
    labels: `[q]` their right classes.
  """
  out = {"gain": float(np.mean(margin_gain(pool.probabilities[chosen]))), "classes": float(len(np.unique(labels)))}
  if pool.right is not None:
    out |= {"right": float(pool.right[chosen].mean()), "pool_right": float(pool.right.mean())}
  if pool.teacher_mistakes is not None:
    out["mistakes"] = float(pool.teacher_mistakes)
  return out


def blank_pool(rounds_size: int, start: int, classes: int, teacher: bool, held_out: bool) -> Pool:
  """A pool about which nothing is known, for what selectors refuse before any work."""
  even = np.full((rounds_size, classes), 1 / classes)
  return Pool(
    even,
    np.zeros((rounds_size, 1)),
    even[:start],
    np.zeros((start, 1)),
    np.zeros(classes, np.int64),
    0.0 if teacher and held_out else None,
    np.ones(rounds_size, bool) if teacher else None,
  )
