"""Stages `tune` and `students`: every arm's choices on held-out examples, then its students on the test examples."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Outputs, UserError, Variables
from jdistill.config import knowledge as config_lib
from jdistill.files import read_json, write_json
from jdistill.methods.knowledge import Recipe
from jdistill.stages.context import lead
from jdistill.stages.knowledge import teacher, train
from jdistill.stages.knowledge.context import Context
from jdistill.tasks.overlap import refuse_overlap
from jdistill.tasks.task import Task


def run_tune(ctx: Context) -> None:
  """Tries every combination of every arm's grid on the validation examples; leaves `stages/tuned.json`."""
  begin, c = time.monotonic(), ctx.config
  path = ctx.workdir / "stages" / "tuned.json"
  found = lead(lambda: read_json(path) if path.exists() else {})
  for label, grid in c["tune"].items():
    trials = found.setdefault(label, [])
    for chosen, arm in config_lib.combinations(c["arms"][label], grid)[len(trials) :]:
      task = ctx.task(arm["task"])
      seeds = list(range(10_000, 10_000 + c["tune_seeds"]))  # others than the students'
      words = ", ".join(
        f"{name.partition('/')[2]}={value:g}" if isinstance(value, float) else f"{name.partition('/')[2]}={value}"
        for name, value in chosen.items()
      )
      try:
        scores, _ = _students(ctx, label, f" ({words})", arm, task, seeds, task.validation, "tune")
        values = [one[task.metric] for one in scores]
      except UserError as error:
        if "not finite" not in str(error):
          raise
        values = None  # this combination diverges, which is an answer
      trials.append({"chosen": chosen, "values": values})
      lead(lambda: write_json(path, found))
  lead(lambda: write_json(path, found))
  for label in found:
    best = best_trial(ctx, label, found[label])
    ctx.say(f"tune: {label}: {', '.join(f'{k}={v}' for k, v in best['chosen'].items())}")
  ctx.finish("tune", begin)


def best_trial(ctx: Context, label: str, trials: list[dict]) -> dict:
  """The trial with the best mean on the validation examples; of equals the first.

  Raises:
    UserError: every one of them diverged.
  """
  higher = ctx.task(ctx.config["arms"][label]["task"]).higher
  whole = [trial for trial in trials if trial["values"] is not None]
  if not whole:
    raise UserError(f"tune.{label}: no combination has a finite loss; lower train.lr, or change the grid")
  return max(whole, key=lambda trial: np.mean(trial["values"]) * (1 if higher else -1))


def tuned(ctx: Context) -> dict[str, dict]:
  """All arms, with what stage `tune` chose for them."""
  c = ctx.config
  arms = {label: json.loads(json.dumps(c["arms"][label])) for label in c["order"]}
  if "tune" in c["stages"] and c["tune"]:
    for label, trials in read_json(ctx.workdir / "stages" / "tuned.json").items():
      for dotted, value in best_trial(ctx, label, trials)["chosen"].items():
        config_lib.set_path(arms[label], dotted, value, f"tune.{label}")
  return arms


def run(ctx: Context) -> None:
  """Trains the students of all arms and scores them; finished arms are kept in `stages/results.json`."""
  begin, c = time.monotonic(), ctx.config
  path = ctx.workdir / "stages" / "results.json"
  results = lead(lambda: read_json(path) if path.exists() else {})
  arms = tuned(ctx)
  for label, arm in arms.items():
    if label in results:
      continue
    if ctx.stops():
      ctx.interrupt("students", begin, f"{len(results)} of {len(arms)} arms are saved")
    task = ctx.task(arm["task"])
    scores, figures = _students(ctx, label, "", arm, task, list(range(c["seeds"])), task.test, "students")
    results[label] = {"arm": arm, "scores": {k: [one[k] for one in scores] for k in scores[0]}, "figures": figures}
    lead(lambda: write_json(path, results))
    values = results[label]["scores"][task.metric]
    ctx.say(f"students: {label}: {task.metric} {np.mean(values):.4g} in {figures['seconds']:.1f} s")
  ctx.finish("students", begin)


def _students(
  ctx: Context, label: str, words: str, arm: dict, task: Task, seeds: list[int], data: Batch, stage: str
) -> tuple[list[dict[str, float]], dict[str, Any]]:
  """Trains one arm's students and scores each of them on `data`."""
  teachers = teacher.load(ctx, label, arm)
  start, first_seconds = None, 0.0
  if arm["start_train"]:
    # told by what determines it, not by the arm: arms that start alike share it
    first = {name: value for name, value in arm.items() if name not in ("method", "train")}
    first |= {} if "teacher" in teacher.recipe_of(arm["start_method"]).needs else dict.fromkeys(teacher.SECTIONS)
    job = _job(ctx, "start", teachers, arm["start_method"], arm["start_train"], arm, task, seeds)
    done, figures = train.run(ctx, job, ctx.key("start"), _checkpoints(ctx, [stage, "start", first]), stage=stage)
    start, first_seconds = done.variables["student"], figures["seconds"]
  job = _job(ctx, label + words, teachers, arm["method"], arm["train"], arm, task, seeds, start)
  directory = _checkpoints(ctx, [stage, label, arm])
  trained, figures = _train(ctx, label, arm["method"], job, directory, stage)
  scores = [dict(task.score(train.predictions(job, trained, i), data)) for i in range(len(seeds))]
  figures["seconds"] += first_seconds
  return scores, figures | {"metrics": directory.name, "target_bytes": job.teacher.nbytes if job.teacher else 0}


def _train(ctx: Context, label: str, method: dict, job: train.Job, directory: Path, stage: str):
  """`train.run` with the numbers that the arm's grid searches as arguments of the program, where its method allows.

  All points of a grid and the students afterwards are then served by one compiled program.
  """
  key, options = ctx.key("students"), {}
  for dotted, values in ctx.config["tune"].get(label, {}).items():
    section, _, name = dotted.partition("/")
    # a weight of 0 is the absence of a term, and so another program
    if section == "method" and all(isinstance(value, float) and value for value in values):
      options[name] = method[name]
  if options and label not in ctx.fixed:
    traced = job._replace(options=options, rebuild=lambda values: teacher.recipe_of(method | values))
    try:
      return train.run(ctx, traced, key, directory, stage=stage)
    except TypeError:  # of all kinds that traced numbers raise where Python decides; a real one comes again below
      ctx.fixed.add(label)
  return train.run(ctx, job, key, directory, stage=stage)


def _checkpoints(ctx: Context, identity: list) -> Path:
  name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
  return ctx.workdir / "checkpoints" / name


def _job(
  ctx: Context,
  label: str,
  teachers: teacher.Teachers | None,
  method: dict,
  schedule: dict,
  arm: dict,
  task: Task,
  seeds: list[int],
  start: Variables | None = None,
) -> train.Job:
  """One phase of an arm's students."""
  recipe = teacher.recipe_of(method)
  if recipe.outer is not None:
    refuse_overlap(task.data, task.validation)
  taught = "teacher" in recipe.needs
  return train.Job(
    label=label,
    network=ctx.network(arm["student"], task),
    recipe=recipe,
    train=schedule,
    data=task.data,
    members=np.stack([task.members(seed) for seed in seeds]),
    seeds=seeds,
    teacher=teacher.source(ctx, teachers, arm["targets"], task) if taught else None,
    constants=_prepare(recipe, teachers, task) if recipe.prepare is not None else (),
    held_out=task.validation if recipe.outer is not None else None,
    start=start,
  )


def _prepare(recipe: Recipe, teachers: teacher.Teachers, task: Task):
  """What a recipe computes once from the teachers on the training examples."""
  data, size = task.data, 500
  found = []
  for network, variables in zip(teachers.networks, teachers.variables, strict=True):
    ask = jax.jit(lambda v, x, n=network: n.apply(v.params, x, stats=v.stats)._replace(taps={}, norm_inputs={}))
    parts = [jax.device_get(ask(variables, data.x[i : i + size])) for i in range(0, len(data.x), size)]
    found.append(Outputs(*(jnp.concatenate([getattr(p, f) for p in parts]) for f in ("logits", "embedding"))))
  return jax.device_get(recipe.prepare(tuple(found), jnp.asarray(data.y), teachers.variables))
