"""What a run of knowledge distillation would train: networks, sizes and steps, without training."""

import math

import jax

from jdistill.files import format_bytes
from jdistill.reporting import format_table
from jdistill.stages.knowledge import form, teacher
from jdistill.stages.knowledge.context import Context


def run(ctx: Context) -> None:
  """Prints the plan of a run; reads the data and traces every arm, trains and writes nothing."""
  c = ctx.config
  task = ctx.task(c["task"])
  print(f"{c['method']['name']} on {c['dataset']}, {task.num_classes} classes, inputs {task.input_shape}")
  for note in task.notes:
    print(note)
  rows = [
    [want.name, want.stored or want.sections["teacher"]["name"], str(want.count), _epochs(want)]
    for want in teacher.wants(ctx)
  ]
  if rows:
    print("\n" + format_table(["teacher", "network", "count", "training"], rows, align="llrl"))
  headers = ["arm", "student", "parameters", "extra", "teachers' weights", "state", "steps", "trials"]
  print("\n" + format_table(headers, [_row(ctx, label) for label in c["order"]], align="llrrrrrr"))
  print(
    f"\nsteps: of one student, of {c['seeds']} seeds; trials: combinations that are tried with {c['tune_seeds']} "
    "seeds each on held-out examples; state: weights, optimisers and what a method remembers, per student"
  )


def _row(ctx: Context, label: str) -> list[str]:
  c, arm = ctx.config, ctx.config["arms"][label]
  found = form.trace(ctx, label, arm, arm["method"], arm["train"])
  steps = found.steps
  if arm["start_train"]:
    steps += form.trace(ctx, label, arm, arm["start_method"], arm["start_train"]).steps
  trials = math.prod(len(values) for values in c["tune"][label].values()) if label in c["tune"] else 0
  held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found.state))
  return [
    label,
    arm["student"]["name"],
    f"{found.parameters:,}",
    f"{found.extra:,}",
    f"{found.teachers:,}",
    format_bytes(held),
    f"{steps:,}",
    str(trials or ""),
  ]


def _epochs(want: teacher.Want) -> str:
  train = want.sections["teacher_train"]
  return "stored" if want.stored else f"{train['epochs']} epochs of {want.sections['teacher_method']['name']}"
