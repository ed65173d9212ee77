"""What an arm's training looks like without computing anything: shapes of its state, and what its parts refuse."""

from collections.abc import Mapping
from typing import Any

import jax

from jdistill.base import TargetSource, UserError
from jdistill.jobs import arms, checkpoints, job_plan, networks, subset, targets, train, written
from jdistill.jobs.job_plan import Plan
from jdistill.jobs.networks import recipe_of
from jdistill.methods.knowledge import Recipe
from jdistill.runs.run import Run
from jdistill.tasks.overlap import refuse_overlap
from jdistill.teachers.frozen import committee


def check(run: Run) -> None:
  """Traces all arms and the phases before them, so that losses and connectors can speak up before any work.

  Raises:
    UserError: what does not go together in one of them; held-out examples that are among those of the students.
  """
  for label in run.config["order"]:
    arm, task = run.config["arms"][label], run.task(run.config["arms"][label]["task"])
    checkpoints.check_student(arm.get("student_weights"), task)
    for name in networks.phases(arm):
      if recipe_of(arm[f"{name}method"]).outer is not None:
        refuse_overlap(task.data, task.validation)
      phase(run, label, arm, name)


def phase(run: Run, label: str, arm: Mapping[str, Any], name: str = "") -> Plan:
  """One phase of an arm, as shapes.

  Raises:
    UserError: what networks, connectors and losses refuse: taps that are not there, shapes and classes that differ.
  """
  try:
    own = job(run, label, arm, name)
    found = job_plan.plan_of(run, own, run.task(arm["task"]).test.x)
    if not targets.is_stored(arm):
      return found
    batches = len(own.data.ids) / min(own.train["batch_size"], own.members.shape[1])
    stored = {"flops": found.flops - found.teacher_flops, "once": batches * found.teacher_flops}
    return found._replace(**stored, teacher_flops=0.0)
  except ValueError as error:  # of pure losses while they are traced too, and of options that do not go together
    raise UserError(f"{label}: {error}") from error


def job(run: Run, label: str, arm: Mapping[str, Any], name: str = "") -> train.Job:
  """The training of one phase of an arm with shapes in place of teachers."""
  recipe = recipe_of(arm[f"{name}method"])
  source = target_shapes(run, label, arm) if "teacher" in recipe.needs else None
  written.check(recipe, run.task(arm["task"]).data, source)
  found = arms.job_of(run, label, arm, name, [0], source, chosen=subset.planned(run, arm))
  if source is not None and targets.is_stored(arm):
    kind = arm["targets"]["source"]
    found = found._replace(recipe=_plain_for_teachers(recipe, arm[f"{name}method"]["name"], kind))
  return found


def target_shapes(run: Run, label: str, arm: Mapping[str, Any]) -> TargetSource:
  """The targets of an arm with shapes in place of its teachers' parameters."""
  found, shapes = (), ()
  for one in networks.specs_of(run, label, arm):
    network = run.network(networks.model_of(one), run.task(arm["task"]))
    found += (network,) * one.count
    shapes += (jax.eval_shape(network.init, jax.random.key(0)),) * one.count
  return targets.shapes(committee(found, shapes), shapes[0].params, arm["targets"])


def _plain_for_teachers(recipe: Recipe, name: str, kind: str) -> Recipe:
  """Refuses inputs that show teachers anything but the examples themselves, of which the stored targets are."""
  if recipe.own is not None:
    raise UserError(f"targets.source={kind!r}: {name} asks its teacher about what is made in training; use 'online'")
  if recipe.sampled_batch is not None or recipe.written is not None:
    raise UserError(f"targets.source={kind!r}: {name} has its teacher read what is written in training; use 'online'")

  def call(key, batch):
    x, x_teacher = recipe.augmented_inputs(key, batch)
    if x_teacher is not batch.x:
      raise UserError(
        f"targets.source={kind!r}: {name} shows its teacher other inputs than the stored ones; use 'online'"
      )
    return x, x_teacher

  return recipe._replace(augmented_inputs=call)
