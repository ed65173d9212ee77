"""Stage `relabel`: the teachers label every augmented batch of a training run ahead, to be replayed by students."""

import time
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np

from jdistill import augment, schema
from jdistill.base import Augmentation, Batch, Diverged
from jdistill.config import Declared, Plain
from jdistill.config.common import Train
from jdistill.data.policies import shuffle
from jdistill.evaluation import examples_of
from jdistill.files import format_bytes
from jdistill.methods.knowledge.logits import stored_labels
from jdistill.schema import Above, Range
from jdistill.stages import build, distill, networks, train
from jdistill.stages.run import Run
from jdistill.stages.stage import Part, Stage
from jdistill.stages.workdir import on_first
from jdistill.teachers import fkd
from jdistill.teachers.frozen import committee

_LEAVES = ("stages/records.npz",)


class Relabel(NamedTuple):
  """What is stored, and how students train on it."""

  epochs: Annotated[int, Range(1)] = 300
  batch_size: Annotated[int, Range(1)] = 128
  temperature: Annotated[float, Above(0)] = 20.0
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = 0.08
  flip: bool = True
  mix: Literal["cutmix", "mixup", "none"] = "cutmix"
  optimizer: str = "adamw"
  lr: Annotated[float, Above(0)] = 1e-3
  weight_decay: Annotated[float, Range(0)] = 0.01


def augmentation(run: Run) -> Augmentation:
  """What batches go through before teachers and students see them."""
  c, parts = run.config["relabel"], []
  if c["crop_scale"] is not None:
    parts.append(augment.resized_crop((c["crop_scale"], 1.0)))
  if c["flip"]:
    parts.append(augment.flip())
  if c["mix"] != "none":
    parts.append({"cutmix": augment.cutmix, "mixup": augment.mixup}[c["mix"]]())
  return augment.compose(*parts)


def record(run: Run, images: np.ndarray, key: jax.Array) -> fkd.Records:
  """The teachers' labels of images in network space, for all epochs of a training run."""
  c = run.config["relabel"]
  found, examples = networks.own(run), _unlabelled(images)
  return fkd.record(
    committee(found.networks, found.variables),
    examples,
    shuffle(len(images), c["batch_size"], drop_last=False),
    key,
    epochs=c["epochs"],
    augment=augmentation(run),
    data=run.fingerprint(examples),
    teacher_hash=found.hash,
  )


def _unlabelled(images: np.ndarray) -> Batch:
  """Images whose labels nobody reads."""
  return examples_of(images, np.zeros(len(images), np.int32))


def job(run: Run, label: str, network, images: np.ndarray, records: fkd.Records, seeds: list[int]) -> train.Job:
  """The training of fresh networks on images with stored labels: their divergence at a temperature, without labels."""
  c = run.config["relabel"]
  names = ("epochs", "batch_size", "optimizer", "lr", "weight_decay")
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


def _run(run: Run) -> None:
  begin = time.monotonic()
  images = np.asarray(distill.load(run, "distilled").images)
  records = record(run, images, run.key("relabel"))
  if not np.isfinite(records.logits).all():
    raise Diverged("relabel: the teachers' logits are not finite; lower teacher_train.lr")
  fkd.save(records, run.workdir / _LEAVES[0])
  run.finish("relabel", begin, _LEAVES, label_bytes=records.nbytes)
  steps, epochs = len(records.index), run.config["relabel"]["epochs"]
  run.log(f"relabel: {steps:,} batches of {epochs} epochs, {format_bytes(records.nbytes)} of labels")


def _plan(run: Run) -> list[tuple[str, str]]:
  c, count = run.config["relabel"], build.count(run)
  size = c["epochs"] * (-(-count // c["batch_size"])) * min(c["batch_size"], count)
  stored = size * (2 * run.task().num_classes + 8)
  return [(f"labels of {c['epochs']} epochs of {count} images", f"about {format_bytes(stored)} without augmentations")]


STAGE = Stage(
  "relabel",
  lambda run: on_first(lambda: _run(run)),
  Declared(sections={"relabel": Plain(schema.fields(Relabel))}),
  _LEAVES,
  plan=_plan,
  report=lambda run, record: Part({"label_bytes": record["label_bytes"]}),
)
