"""The arms of a run: their sections, and the training of one arm's students on some seeds."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog
from jdistill.base import Batch, DataPolicy, Outputs, PyTree, TargetSource, UserError, Variables
from jdistill.config import Named, sections
from jdistill.config.arms import NO_START, SELECTED, Arms
from jdistill.config.common import RUN, TRAIN
from jdistill.data.policies import Chosen
from jdistill.jobs import (
  checkpoints,
  choices,
  exhibits,
  job_plan,
  networks,
  patched,
  sampling,
  subset,
  targets,
  train,
  weights,
  written,
)
from jdistill.jobs.networks import Teachers, recipe_of
from jdistill.jobs.sections import TEACHERS, check_policy, check_train
from jdistill.methods.knowledge import Recipe
from jdistill.models.predict import predict
from jdistill.runs.run import Run
from jdistill.schema import near_matches
from jdistill.tasks import Finished, Task, Writer

SECTIONS = {
  "method": sections.method(stage="students"),
  "task": RUN.sections["task"],
  "student": sections.network(),
  "student_weights": checkpoints.SECTION,
  "train": TRAIN,
  "data_policy": sections.data_policy(),
  "targets": targets.SECTION,
  "patches": patched.SECTION,
  "start_method": Named(
    lambda: [*catalog.names("students"), NO_START],
    lambda name: {} if name == NO_START else catalog.row(name).fields(),
    {"name": NO_START},
  ),
  "start_train": TRAIN,
  "start_data_policy": sections.data_policy(),
  **TEACHERS,
  **subset.SECTIONS,
}


def _check(prefix: str, arm: dict[str, Any], committee: Mapping[str, Any]) -> None:
  """Refuses what does not go together in one arm."""
  for section in ("train", "teacher_train", *(["start_train"] if arm["start_train"] else [])):
    check_train(f"{prefix}{section}", arm[section])
  check_policy(prefix, arm["teacher_data_policy"])
  if arm["proxy_train"]:
    check_train(f"{prefix}proxy_train", arm["proxy_train"])
  teachers = arm["teachers"]
  targets.check_section(prefix, arm)
  patched.check_section(prefix, arm, committee)
  checkpoints.check_section(prefix, arm["student_weights"])
  for label in teachers["also"]:
    if label not in committee:
      cure = near_matches(label, committee) if committee else ", which is empty; name its teachers there"
      raise UserError(f"{prefix}teachers.also={teachers['also']}: no teacher {label!r} in committee{cure}")
  if teachers["stored"] is not None and (teachers["count"] > 1 or teachers["also"]):
    raise UserError(f"{prefix}teachers.stored={teachers['stored']!r}: stands alone; set count=1 and also=()")


ARMS = Arms(SECTIONS, _check)


def train_arm(
  run: Run, label: str, words: str, arm: Mapping[str, Any], seeds: list[int], data: Batch, stage: str
) -> tuple[list[dict[str, float]], dict[str, Any]]:
  """Trains one arm's students and scores each of them.

  `words` tell in messages what is tried of the arm, `data` is what the students are scored on. Gives the scores of
  each, and figures.
  """
  predict, figures = trained(run, label, words, arm, seeds, stage)
  task, source = run.task(arm["task"]), None
  if task.against is not None and "teacher" in recipe_of(arm["method"]).needs:
    source = targets.source(run, networks.load(run, label, arm), arm["targets"], task)
  score = scorer(task, data, source)
  scores = [score(predict(index), seed) for index, seed in enumerate(seeds)]
  if task.beside is not None and (teacher := _teacher_scores(run, label, arm, data)):
    scores = [one | dict(task.beside(one, teacher)) for one in scores]
  return scores, figures


def scorer(task: Task, data: Batch, source: TargetSource | None) -> Callable[[Callable, int], dict[str, float]]:
  """`(predict, seed) -> figures` on these examples, with those that compare with the first teacher if it can write."""

  @functools.cache
  def against() -> Callable:
    if task.against is None or source is None or not source.language:
      return lambda predict: {}
    return task.against(Writer(source.language[0], source.arrays[0].params), data)

  def figures(predict: Callable, seed: int) -> dict[str, float]:
    own = data if task.judged_by is None else task.judged_by(seed, data)
    return dict(task.score(predict, own)) | dict(against()(predict))

  return figures


def _teacher_scores(run: Run, label: str, arm: Mapping[str, Any], data: Batch) -> Mapping[str, float]:
  """What the first teacher of an arm is worth on some examples; nothing where no arm of the run has that one."""
  one, task = networks.specs_of(run, label, arm)[0], run.task(arm["task"])
  if not networks.is_made(run, one):
    return {}

  def ask() -> Mapping[str, float]:
    found = networks.trained(run, one)
    asked = functools.partial(predict, found.networks[0], found.variables[0])
    return dict(task.score(asked, data))

  name = ("teacher scores", json.dumps(networks.identity(run, one), sort_keys=True), run.fingerprint(data))
  return run.once(name, ask)


def trained(
  run: Run, label: str, words: str, arm: Mapping[str, Any], seeds: list[int], stage: str
) -> tuple[Callable[[int], Callable], dict[str, Any]]:
  """Trains one arm's students, or takes them from their last checkpoint; see `train_arm`.

  Returns:
    `(place of a seed -> (inputs -> logits), figures)`.
  """
  task, teachers = run.task(arm["task"]), networks.load(run, label, arm)
  found = choices.ready(run, label, arm, seeds, stage)
  chosen, images = None if found is None else found.chosen, patched.ready(run, label, arm, stage)
  data = task.data if images is None else task.data._replace(x=images.x)
  start, first_seconds = weights.student_start(run, arm, seeds), 0.0
  if arm["start_train"]:
    # named by what determines it, not by the arm: arms that start alike share it
    first = {name: value for name, value in arm.items() if name not in ("method", "train", "data_policy")}
    first |= {} if "teacher" in recipe_of(arm["start_method"]).needs else dict.fromkeys(TEACHERS)
    first |= {} if arm["start_data_policy"]["name"] == SELECTED else dict.fromkeys(subset.SECTIONS)
    given = taught(run, teachers, arm, "start_", task)
    job = job_of(run, "start", arm, "start_", seeds, *given, start=start, chosen=chosen, data=data)
    directory = _checkpoints(run, [stage, "start", first | weights.student_digest(arm)])
    done, figures = train.run(run, job, run.key("start"), directory, stage=stage)
    start, first_seconds = done.variables["student"], figures["seconds"]
  given = taught(run, teachers, arm, "", task)
  data, texts = written.ready(run, label, arm["method"], data, teachers, stage)
  job = job_of(run, label + words, arm, "", seeds, *given, start=start, chosen=chosen, data=data)
  job = _with_traced(run, label, arm["method"], job)
  directory = _checkpoints(run, [stage, label, arm | weights.student_digest(arm)])
  students, figures = train.run(run, job, run.key("students"), directory, stage=stage)
  figures["seconds"] += first_seconds
  if task.kind == "tokens":
    figures |= _work(run, job, figures["steps"], arm["targets"]["source"])
    own = found.about if found is not None else {}
    figures |= {name: own[name] for name in ("teacher_flops", "reference_flops") if name in own and not given[0]}
  figures |= {"metrics": directory.name, "target_bytes": job.targets.nbytes if job.targets else 0}
  kept = len(task.members(seeds[0])) if found is None else int(np.mean((chosen.weights > 0).sum(1)))
  figures |= patched.stored(run, arm, kept, None if images is None else images.about)
  figures |= texts
  before = [found.proxy_seconds, found.select_seconds] if found is not None else []
  before += [images.about["seconds"]] if images is not None else []
  before += [texts["written_seconds"]] if texts else []
  figures |= {"prepare_seconds": sum(before)} if before else {}
  if job.targets is not None and (kept := targets.about(run, teachers, arm["targets"], task)):
    figures["targets"] = kept
  if task.text is not None and (seconds := figures["seconds_per_step"]):
    rows = min(arm["train"]["batch_size"], len(task.members(seeds[0])))
    figures["tokens_per_second"] = rows * task.input_shape[0] / seconds
  if task.exhibit is not None:
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), students.variables["student"].params)
    first = Finished(train.predictions(job, students, 0), job.network.language, own)
    figures["sample"] = exhibits.made(run, directory.name, task.exhibit, first)
  figures |= sampling.costs(job, students, task.test.x)
  return lambda index: train.predictions(job, students, index), figures


def _work(run: Run, job: train.Job, steps: int, source: str) -> dict[str, float]:
  """FLOPs of one seed's training: of the student, and of teachers that look at batches, or once at all examples."""
  plan = job_plan.plan_of(run, job._replace(recipe=job.recipe._replace(prepare=None)))
  batches = steps if source == "online" else len(job.data.ids) / min(job.train["batch_size"], job.members.shape[1])
  found = {"student_flops": steps * (plan.flops - plan.teacher_flops)}
  return found | ({"teacher_flops": batches * plan.teacher_flops} if plan.teacher_flops else {})


def _with_traced(run: Run, label: str, method: Mapping[str, Any], job: train.Job) -> train.Job:
  """The numbers that the arm's grid searches as arguments of the program, where its builder marks them as `Traced`.

  All points of a grid and the students afterwards are then served by one compiled program.
  """
  fields = catalog.row(method["name"]).fields()
  names = [dotted.removeprefix("method/") for dotted in run.config["tune"].get(label, {})]
  traced = {name: method[name] for name in names if name in fields and fields[name].traced}
  if not traced:
    return job
  fixed = json.dumps({name: value for name, value in method.items() if name not in traced}, sort_keys=True)
  return job._replace(options=traced, recipe=recipe_of(json.loads(fixed)), rebuild=_rebuild(fixed))


@functools.lru_cache(maxsize=64)
def _rebuild(fixed: str) -> Callable[[Mapping[str, Any]], Recipe]:
  """`(options) -> recipe`, with these options beside the fixed ones; one object for all values of a search."""
  options = json.loads(fixed)
  builder = catalog.row(options.pop("name")).build()
  return lambda values: builder(**options, **values)


def _checkpoints(run: Run, identity: list) -> Path:
  name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
  return run.workdir / "checkpoints" / name


def job_of(
  run: Run,
  label: str,
  arm: Mapping[str, Any],
  phase: str,
  seeds: list[int],
  source: TargetSource | None = None,
  constants: PyTree = (),
  start: Variables | None = None,
  chosen: Chosen | None = None,
  data: Batch | None = None,
) -> train.Job:
  """One phase of an arm's students: `""`, or `"start_"` for the one before; what is optional is as in `train.Job`.

  `chosen` is for policies of a subset that was chosen before; without `data` the examples are those of the task.
  """
  recipe, task = recipe_of(arm[f"{phase}method"]), run.task(arm["task"])
  policy = networks.policy_of(arm[f"{phase}data_policy"], chosen, task.domains)
  members = np.stack([task.members(seed) for seed in seeds])
  looks = _looks_at_held_out(arm, phase, policy(members.shape[1], arm[f"{phase}train"]["batch_size"]), recipe)
  return train.Job(
    label=label,
    network=run.network(checkpoints.student_section(arm["student"], arm.get("student_weights")), task),
    recipe=recipe,
    train=arm[f"{phase}train"],
    policy=policy,
    data=task.data if data is None else data,
    members=members,
    seeds=seeds,
    targets=source,
    constants=constants,
    held_out=task.validation if recipe.outer is not None or looks or "held_out" in recipe.needs else None,
    start=start,
    section=f"{phase}train",
    score=scorer(task, task.validation, source) if run.config["score_every"] and not phase else None,
    score_every=run.config["score_every"],
  )


def _looks_at_held_out(arm: Mapping[str, Any], phase: str, policy: DataPolicy, recipe: Recipe) -> bool:
  """Whether the policy of a phase looks at held-out examples, which it asks student and teacher about."""
  if not policy.held_out:
    return False
  name = f"{phase}data_policy.name={arm[f'{phase}data_policy']['name']!r}"
  if "teacher" not in recipe.needs:
    raise UserError(
      f"{name}: compares with a teacher, and {arm[f'{phase}method']['name']} has none; choose a "
      f"{phase}method.name that has, such as 'fkl'"
    )
  if arm["targets"]["source"] != "online":
    raise UserError(f"{name}: asks the teacher about held-out examples, too; set targets.source='online'")
  return True


def taught(run: Run, teachers: Teachers | None, arm: Mapping[str, Any], phase: str, task: Task):
  """The targets of a phase, and what its recipe computes once from the teachers."""
  recipe = recipe_of(arm[f"{phase}method"])
  if "teacher" not in recipe.needs:
    return None, ()
  found = targets.source(run, teachers, arm["targets"], task)
  return found, () if recipe.prepare is None else _prepare(recipe, teachers, task)


def _prepare(recipe: Recipe, teachers: Teachers, task: Task):
  """What a recipe computes once from the teachers on the training examples."""
  found = []
  for network, variables in zip(teachers.networks, teachers.variables, strict=True):

    def ask(variables, x, network=network):
      out = network.apply(variables.params, x, stats=variables.stats)
      return Outputs(out.logits, out.embedding)

    found.append(jax.tree.map(jnp.asarray, predict(ask, variables, task.data.x)))
  found = tuple(found)
  return jax.device_get(recipe.prepare(found, jnp.asarray(task.data.y), teachers.variables))
