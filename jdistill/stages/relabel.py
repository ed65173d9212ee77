"""Stage `relabel`: the teachers label every augmented batch of a training run ahead, to be replayed by students.

Labels may also be stored once per image, be asked of the teachers or of a projector while students train, or be the
classes of the images in the same training: `relabel.store`.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jdistill import schema
from jdistill.augment import cell_sides
from jdistill.base import UserError
from jdistill.config import Declared, Plain
from jdistill.evaluation import predict
from jdistill.evaluation.diversity import within_class_distance
from jdistill.files import format_bytes
from jdistill.jobs import networks
from jdistill.methods.optimizers import OPTIMIZERS
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Above, Choice, NonNegative, Range
from jdistill.stages import build, distill, labels, project, shown, voting
from jdistill.stages.stage import Part, Stage
from jdistill.synthetic import random_real
from jdistill.teachers import static
from jdistill.teachers.frozen import check_parts

_LEAVES = ("stages/records.npz",)


class Relabel(NamedTuple):
  """What is stored, and how students train on it."""

  store: Literal[labels.STORES] = "float16"
  teachers: Literal["finished", "weak"] = "finished"
  recorded: Annotated[int, Range(1)] | None = None
  top_k: Annotated[int, Range(1)] | None = None
  rank: Annotated[int, Range(1)] | None = None
  dbr_temperature: Annotated[float, Above(0)] = 1.0
  dbr_weight: Annotated[float, Range(0)] = 1.0
  dbr_norm: Literal["absolute", "squared"] = "absolute"
  epochs: Annotated[int, Range(1)] = 300
  batch_size: Annotated[int, Range(1)] = 128
  loss: Literal["kl", "mse"] = "kl"
  temperature: Annotated[float, Above(0)] = 20.0
  ce_weight: NonNegative = 0.0
  teacher_mode: Literal["eval", "train"] = "eval"
  parts: Annotated[int, Range(1)] = 1
  augment: str = "none"
  strips: Annotated[int, Range(1)] = 1
  cells: Annotated[int, Range(1)] = 1
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = 0.08
  flip: bool = True
  mix: Literal["cutmix", "mixup", "none"] = "cutmix"
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "adamw"
  lr: Annotated[float, Above(0)] = 1e-3
  weight_decay: Annotated[float, Range(0)] = 0.01
  decay_all: bool = True
  warmup_epochs: Annotated[float, Range(0)] = 0.0
  eta: Annotated[float, Range(1)] = 1.0


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  voting.complete(given, out)
  c = out["relabel"]
  if c["teacher_mode"] == "train" and c["batch_size"] < 2:
    raise UserError(
      f"relabel.batch_size={c['batch_size']}: a teacher in train mode normalises by the batch, and one image has no "
      "statistics; use at least 2, or relabel.teacher_mode='eval'"
    )
  for store, key in (("top_k", "top_k"), ("low_rank", "rank")):
    if c["store"] == store and c[key] is None:
      raise UserError(f"relabel.{key}=None: store={store!r} needs how many numbers it keeps; give relabel.{key}")
    if c["store"] != store and c[key] is not None:
      raise UserError(f"relabel.{key}={c[key]}: is for relabel.store={store!r}; leave it out")
  if c["store"] == "static":
    static.refuse_cutmix(c["mix"], "relabel.mix")
    if c["teacher_mode"] == "train":
      raise UserError(
        "relabel.teacher_mode='train': static labels are of single images, which have no statistics; set 'eval'"
      )
  _complete_store(c, out)


def _complete_store(c: Mapping[str, Any], out: Mapping[str, Any]) -> None:
  """Refuses options that this kind of store does not know."""
  store = c["store"]
  if store == "projector" and "projector" not in out:
    raise UserError(f"relabel.store='projector': {out['method']['name']} fits no projector; take method hello")
  if store == "projector" and c["teacher_mode"] == "train":
    raise UserError("relabel.teacher_mode='train': a projector's statistics are frozen; set 'eval'")
  if store == "dbr" and (c["loss"] != "kl" or c["ce_weight"]):
    key = "loss" if c["loss"] != "kl" else "ce_weight"
    raise UserError(f"relabel.{key}={c[key]!r}: store='dbr' has a loss of its own (relabel.dbr_weight); leave it out")
  if c["recorded"] is not None and store not in labels.RECORDED:
    raise UserError(f"relabel.recorded={c['recorded']}: store={store!r} records no epochs; leave it out")
  if c["recorded"] is not None and c["recorded"] > c["epochs"]:
    raise UserError(f"relabel.recorded={c['recorded']}: more than the {c['epochs']} epochs of students; lower it")
  if c["teachers"] == "weak" and not out["teachers"]["weak"]:
    raise UserError(
      "relabel.teachers='weak': there are none; set teachers.weak to the epochs after which they are kept"
    )
  if c["teachers"] == "weak" and out["voting"]["label_weights"] == "prior":
    raise UserError("voting.label_weights='prior': weighs finished teachers; set 'equal' for relabel.teachers='weak'")


def _check(run: Run) -> None:
  """Refuses a committee, batches and stores that cannot work with this data."""
  c, task = run.config["relabel"], run.task()
  _check_teachers(run)
  voting.check(run)
  cell_sides(task.input_shape[:2], c["cells"], key="relabel.cells")
  shown.augmentation(c).sample(jax.random.key(0), (2, *task.input_shape))
  size = min(c["batch_size"], build.count(run))
  check_parts(size, c["parts"], key="relabel.batch_size", least=2 if c["teacher_mode"] == "train" else 1)
  for key in ("top_k", "rank"):
    if c[key] is not None and not c[key] < task.num_classes:
      raise UserError(f"relabel.{key}={c[key]}: must be below the {task.num_classes} classes")


def _check_teachers(run: Run) -> None:
  """Refuses to ask teachers that nobody trains."""
  known = "teachers" in run.config["stages"] or build.row_of(run).asks_teachers
  if not known and any(networks.is_missing(run, one) for one in networks.specs(run)):
    raise UserError(
      f"stages={run.config['stages']}: relabel asks teachers, and no stage trains them; add 'teachers', or leave "
      "'relabel' out for hard labels"
    )


def record(
  run: Run,
  images: np.ndarray,
  own: np.ndarray,
  key: jax.Array,
  *,
  kind: str | None = None,
  augment: str | None = None,
  real: bool = False,
) -> labels.Labels:
  """Labels of images in network space with classes `own`, for all epochs of a training run.

  Args:
    run: the run.
    images, own: the set.
    key: of the augmentations and of the order.
    kind, augment, real: see `jdistill.stages.labels.options`. Real images are trained on in as many updates as the
      distilled set, which may have more images than its budget.
  """
  c, begin = labels.options(run.config["relabel"], kind, augment=augment, real=real), time.monotonic()
  if real:
    c = dict(c) | {"epochs": labels.epochs_of(c, len(images), as_many_as=build.count(run))}
  stored = labels.record(run, c, images, own, key)
  found = labels.ready(run, c, labels.examples_with(images, own), stored)
  return found._replace(seconds=time.monotonic() - begin)


def load(run: Run) -> labels.Labels:
  """The labels of the distilled set, as left by this stage."""
  own, path = distill.load(run, "distilled"), run.workdir / _LEAVES[0]
  found = labels.load(run, run.config["relabel"], np.asarray(own.images), own.labels, path)
  return found._replace(seconds=(run.finished("relabel", _LEAVES) or {}).get("seconds", 0.0))


def record_again(run: Run, *, kind: str | None = None, augment: str | None = None) -> labels.Labels:
  """Other labels of the distilled set; those of the same augmentation see the same batches as its own."""
  own = distill.load(run, "distilled")
  return record(run, np.asarray(own.images), own.labels, run.key("relabel"), kind=kind, augment=augment)


def diversity(run: Run, images: np.ndarray, own: np.ndarray) -> dict[str, float]:
  """How different the images of a class are to the first teacher, of a set and of as many real images.

  Cosine distances of what enters the teacher's head (`jdistill.evaluation.diversity`); empty for one image per class.
  """
  if run.config["ipc"] < 2:
    return {}
  task, found = run.task(), networks.own(run)
  network, variables = found.networks[0], found.variables[0]
  embed = lambda variables, x: network.apply(variables.params, x, stats=variables.stats).embedding  # noqa: E731
  rng = np.random.default_rng((run.config["seed"], 5))
  picked = random_real(rng, task.teacher.y, run.config["ipc"], task.num_classes)
  own = np.asarray(own).argmax(-1) if np.ndim(own) == 2 else own
  sets = {"distilled": (images, own), "real": (task.teacher.x[picked], task.teacher.y[picked])}
  return {name: within_class_distance(predict(embed, variables, x), y) for name, (x, y) in sets.items()}


def _run(run: Run) -> None:
  begin = time.monotonic()
  own = distill.load(run, "distilled")
  images = np.asarray(own.images)
  examples = labels.examples_with(images, own.labels)
  c = run.config["relabel"]
  stored = labels.record(run, c, images, own.labels, run.key("relabel"))
  labels.save(run, c, stored, examples, run.workdir / _LEAVES[0])
  size = labels.ready(run, c, examples, stored).nbytes
  run.finish("relabel", begin, _LEAVES, label_bytes=size, diversity=diversity(run, images, own.labels))
  run.log(f"relabel: {c['store']}, {format_bytes(size)} of {_what(run)}")


def _what(run: Run) -> str:
  """What the bytes of labels are of."""
  return {"online": "teachers' parameters", "projector": "factors"}.get(run.config["relabel"]["store"], "labels")


def _plan(run: Run) -> list[tuple[str, str]]:
  c, count, task = run.config["relabel"], build.count(run), run.task()
  if c["store"] == "online":
    return [(f"labels of {count} images, asked while students train", "no labels are stored")]
  if c["store"] == "one_hot":
    return [(f"classes of {count} images", f"about {format_bytes(4 * count)}")]
  if c["store"] == "projector":
    return [(f"a projector that labels {count} images", f"about {format_bytes(4 * project.size(run))}")]
  if c["store"] == "static":
    return [(f"one label of each of {count} images", f"about {format_bytes(count * (4 * task.num_classes + 4))}")]
  epochs = c["recorded"] or c["epochs"]
  size = epochs * (-(-count // c["batch_size"])) * min(c["batch_size"], count)
  kept = {"float16": 2 * task.num_classes, "float32": 4 * task.num_classes, "dbr": 4}
  kept |= {"top_k": 4 * (c["top_k"] or 0) + 2, "low_rank": 2 * (c["rank"] or 0)}
  stored = size * (kept[c["store"]] + 8)
  return [(f"labels of {epochs} epochs of {count} images", f"about {format_bytes(stored)} without augmentations")]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  c, found = run.config["relabel"], record["diversity"]
  mode = c["teacher_mode"]
  halves = f", {c['parts']} parts of every batch each by itself" if c["parts"] > 1 else ""
  weak = "weak " if c["teachers"] == "weak" else ""
  lines = [f"the labels are those of {weak}teachers in {mode} mode{halves}; kept as {c['store']}"]
  if c["store"] == "projector":
    lines = ["a label projector is asked about what students see"]
  if c["recorded"] is not None:
    lines.append(f"{c['recorded']} epochs of labels are stored, which come again and again")
  if c["store"] == "one_hot":
    lines = ["students learn the classes of the images, mixed as the images are; no teacher is asked"]
  if c["store"] == "online":
    lines.append(f"students ask the teachers, whose {format_bytes(record['label_bytes'])} of parameters are counted")
  if found:
    lines.append(
      "mean cosine distance of two images of a class to the teacher: "
      f"{found['distilled']:.3f}, of as many random real images {found['real']:.3f}"
    )
  summary = {"label_bytes": record["label_bytes"], "store": c["store"], "counted": _what(run), "teacher_mode": mode}
  return Part(summary | {"diversity": found}, lines=lines)


STAGE = Stage(
  "relabel",
  lambda run: on_first(lambda: _run(run)),
  Declared(
    sections={"relabel": Plain(schema.fields(Relabel)), "voting": Plain(schema.fields(voting.Voting))},
    free=("committee",),
    complete=_complete,
  ),
  _LEAVES,
  _check,
  plan=_plan,
  report=_report,
)
