"""Stage `relabel`: the teachers label every augmented batch of a training run ahead, to be replayed by students."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment, schema
from jdistill.base import Augmentation, Batch, DataPolicy, Diverged, UserError
from jdistill.config import Declared, Plain
from jdistill.config.common import Train
from jdistill.data.policies import walk
from jdistill.evaluation import examples_of, predict
from jdistill.evaluation.diversity import within_class_distance
from jdistill.files import format_bytes
from jdistill.methods.knowledge.logits import stored_labels
from jdistill.schema import Above, Range
from jdistill.stages import build, distill, networks, train
from jdistill.stages.run import Run
from jdistill.stages.stage import Part, Stage
from jdistill.stages.workdir import on_first
from jdistill.synthetic import random_real
from jdistill.teachers import fkd
from jdistill.teachers.frozen import committee

_LEAVES = ("stages/records.npz",)


class Relabel(NamedTuple):
  """What is stored, and how students train on it."""

  epochs: Annotated[int, Range(1)] = 300
  batch_size: Annotated[int, Range(1)] = 128
  temperature: Annotated[float, Above(0)] = 20.0
  teacher_mode: Literal["eval", "train"] = "eval"
  augment: str = "none"
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = 0.08
  flip: bool = True
  mix: Literal["cutmix", "mixup", "none"] = "cutmix"
  optimizer: str = "adamw"
  lr: Annotated[float, Above(0)] = 1e-3
  weight_decay: Annotated[float, Range(0)] = 0.01
  warmup_epochs: Annotated[float, Range(0)] = 0.0


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  c = out["relabel"]
  if c["teacher_mode"] == "train" and c["batch_size"] < 2:
    raise UserError(
      f"relabel.batch_size={c['batch_size']}: a teacher in train mode normalises by the batch, and one image has no "
      "statistics; use at least 2, or relabel.teacher_mode='eval'"
    )


def augmentation(run: Run) -> Augmentation:
  """What batches go through before teachers and students see them."""
  c, parts = run.config["relabel"], []
  if c["augment"] != "none":
    parts.append(augment.named(c["augment"], key="relabel.augment"))
  if c["crop_scale"] is not None:
    parts.append(augment.resized_crop((c["crop_scale"], 1.0)))
  if c["flip"]:
    parts.append(augment.flip())
  if c["mix"] != "none":
    parts.append({"cutmix": augment.cutmix, "mixup": augment.mixup}[c["mix"]]())
  return augment.compose(*parts)


def _check(run: Run) -> None:
  augmentation(run)


def record(run: Run, images: np.ndarray, key: jax.Array) -> fkd.Records:
  """The teachers' labels of images in network space, for all epochs of a training run."""
  c = run.config["relabel"]
  found, examples = networks.own(run), _unlabelled(images)
  return fkd.record(
    committee(found.networks, found.variables, train=c["teacher_mode"] == "train"),
    examples,
    _order(len(images), c["batch_size"]),
    key,
    epochs=c["epochs"],
    augment=augmentation(run),
    data=run.fingerprint(examples),
    teacher_hash=found.hash,
  )


def _order(size: int, batch_size: int) -> DataPolicy:
  """All images in random order; what fills up the last batch are other images, as batch norm looks at them, too."""
  batch_size, every = min(batch_size, size), jnp.ones(size, bool)
  draw = lambda key, state, epoch, look: (walk(key, every, batch_size), state)  # noqa: E731
  return DataPolicy(lambda key: (), draw, -(-size // batch_size))


def _unlabelled(images: np.ndarray) -> Batch:
  """Images whose labels nobody reads."""
  return examples_of(images, np.zeros(len(images), np.int32))


def job(run: Run, label: str, network, images: np.ndarray, records: fkd.Records, seeds: list[int]) -> train.Job:
  """The training of fresh networks on images with stored labels: their divergence at a temperature, without labels."""
  c = run.config["relabel"]
  names = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "warmup_epochs")
  return train.Job(
    label=label,
    network=network,
    recipe=stored_labels(c["temperature"]),
    train=Train()._asdict() | {name: c[name] for name in names},
    policy=lambda size, batch_size: fkd.policy(records),
    data=_unlabelled(images),
    members=np.tile(np.arange(len(images)), (len(seeds), 1)),
    seeds=seeds,
    targets=fkd.replayed(records),
    section="relabel",
    record=augmentation(run),
  )


def load(run: Run) -> fkd.Records:
  """The labels of the distilled set, as left by this stage."""
  return fkd.load(run.workdir / _LEAVES[0], augmentation(run))


def diversity(run: Run, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
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
  labels = np.asarray(labels).argmax(-1) if np.ndim(labels) == 2 else labels
  sets = {"distilled": (images, labels), "real": (task.teacher.x[picked], task.teacher.y[picked])}
  return {name: within_class_distance(predict(embed, variables, x), y) for name, (x, y) in sets.items()}


def _run(run: Run) -> None:
  begin = time.monotonic()
  own = distill.load(run, "distilled")
  images = np.asarray(own.images)
  records = record(run, images, run.key("relabel"))
  if not np.isfinite(records.logits).all():
    raise Diverged("relabel: the teachers' logits are not finite; lower teacher_train.lr")
  fkd.save(records, run.workdir / _LEAVES[0])
  found = diversity(run, images, own.labels)
  run.finish("relabel", begin, _LEAVES, label_bytes=records.nbytes, diversity=found)
  steps, epochs = len(records.index), run.config["relabel"]["epochs"]
  run.log(f"relabel: {steps:,} batches of {epochs} epochs, {format_bytes(records.nbytes)} of labels")


def _plan(run: Run) -> list[tuple[str, str]]:
  c, count = run.config["relabel"], build.count(run)
  size = c["epochs"] * (-(-count // c["batch_size"])) * min(c["batch_size"], count)
  stored = size * (2 * run.task().num_classes + 8)
  return [(f"labels of {c['epochs']} epochs of {count} images", f"about {format_bytes(stored)} without augmentations")]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  mode, found = run.config["relabel"]["teacher_mode"], record["diversity"]
  lines = [f"the stored labels are those of teachers in {mode} mode"]
  if found:
    lines.append(
      "mean cosine distance of two images of a class to the teacher: "
      f"{found['distilled']:.3f}, of as many random real images {found['real']:.3f}"
    )
  return Part({"label_bytes": record["label_bytes"], "teacher_mode": mode, "diversity": found}, lines=lines)


STAGE = Stage(
  "relabel",
  lambda run: on_first(lambda: _run(run)),
  Declared(sections={"relabel": Plain(schema.fields(Relabel))}, complete=_complete),
  _LEAVES,
  _check,
  plan=_plan,
  report=_report,
)
