"""Labels of a set: stored ones of its augmented batches or of images, those that teachers or a projector give, or hard.

All functions take the options of the section `relabel`, as they are or as `options` changes them for one more kind of
labels of the same images.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, DataPolicy, Diverged, TargetSource, UserError
from jdistill.config.common import Train
from jdistill.data.policies import walk
from jdistill.evaluation import examples_of
from jdistill.files import Damaged, read_record, write_record
from jdistill.jobs import networks, train
from jdistill.methods.knowledge import Recipe
from jdistill.methods.knowledge.logits import mixed_labels, stored_labels, two_distances
from jdistill.ops.voting import committee_weights
from jdistill.runs.run import Run
from jdistill.stages import project, shown, voting
from jdistill.teachers import codecs, fkd, hard, projector, static
from jdistill.teachers.frozen import averaged, committee
from jdistill.teachers.labelled import labelled

RECORDED = ("float16", "float32", "top_k", "low_rank", "dbr")  # of every augmented batch
STORES = (*RECORDED, "static", "projector", "online", "one_hot")
KINDS = ("one_hot", "float16", "dbr", "online")  # what the same images may be compared with beside their own labels
LIVE = ("online", "one_hot")  # made while students train: nothing of them is stored
_SCHEDULE = (
  "epochs", "batch_size", "optimizer", "lr", "weight_decay", "decay_all", "warmup_epochs", "eta",
)  # fmt: skip
Stored = fkd.Records | static.StaticLabels | projector.ProjectorLabels
_ROOMS = {fkd.Records: fkd, static.StaticLabels: static, projector.ProjectorLabels: projector}
Options = Mapping[str, Any]  # of the section `relabel`


class Labels(NamedTuple):
  """Labels of one set, as students train on them.

  Attributes:
    examples: the set.
    targets: what students learn of it.
    policy: `(size, batch_size) -> DataPolicy`: the order that stored labels belong to, or any order.
    options: of the section `relabel`, for these labels.
    seconds: that it took to make them, with compilation.
  """

  examples: Batch
  targets: TargetSource
  policy: Callable[[int, int], DataPolicy]
  options: Options
  seconds: float = 0.0

  @property
  def nbytes(self) -> int:
    """What has to be kept beside the images: stored labels, or the parameters of teachers that are asked."""
    return self.targets.nbytes


def options(c: Options, kind: str | None = None, *, augment: str | None = None, real: bool = False) -> Options:
  """The section `relabel` for other labels of the same images.

  Args:
    c: the section.
    kind: one of `KINDS` in the place of `relabel.store`; `None` for the labels that the section has.
    augment: an augmentation by name in the place of all that the section does to a batch; `None` for that.
    real: for whole real images, which have no cells.
  """
  changed: dict[str, Any] = {} if kind is None else {"store": kind, "top_k": None, "rank": None, "recorded": None}
  if augment is not None:
    changed |= {"augment": augment, "strips": 1, "cells": 1, "crop_scale": None, "flip": False, "mix": "none"}
  changed |= {"cells": 1} if real else {}
  return dict(c) | changed


def epochs_of(c: Options, size: int, *, as_many_as: int) -> int:
  """Epochs in which `size` images are trained on in as many updates as `as_many_as` images in those of the section.

  They are rounded, and the same number where there are as many images.
  """
  updates = lambda images: -(-images // min(c["batch_size"], images))  # noqa: E731
  return max(1, round(c["epochs"] * updates(as_many_as) / updates(size)))


def asked(run: Run, c: Options) -> networks.Teachers:
  """The teachers whose labels these are: the run's own, or what they were on the way."""
  return networks.weak(run) if c["teachers"] == "weak" else networks.own(run)


def digest(run: Run, c: Options) -> str:
  """The hash of what the labels come from."""
  return project.digest(run) if c["store"] == "projector" else asked(run, c).hash


def teacher(run: Run, c: Options) -> tuple[TargetSource, str]:
  """The run's teachers as one, by the mean of their logits, and the hash of all that determines its labels."""
  votes, found = run.config["voting"], asked(run, c)
  source = committee(found.networks, found.variables, train=c["teacher_mode"] == "train", parts=c["parts"])
  if len(found.networks) == 1:
    return source, found.hash
  weights = None
  if votes["label_weights"] == "prior":
    weights = np.asarray(committee_weights(voting.prior(run), temperature=votes["temperature"]))
  return averaged(source, weights), found.hash


@functools.lru_cache(maxsize=8)
def order(size: int, batch_size: int) -> DataPolicy:
  """All images in random order; what fills up the last batch are other images, as batch norm looks at them, too."""
  batch_size, every = min(batch_size, size), jnp.ones(size, bool)
  draw = lambda key, state, epoch, look: (walk(key, every, batch_size), state)  # noqa: E731
  return DataPolicy(lambda key: (), draw, -(-size // batch_size))


def examples_with(images: np.ndarray, labels: np.ndarray) -> Batch:
  """Images with their classes, of which DBR and hard labels make use."""
  labels = np.asarray(labels)
  return examples_of(images, labels.argmax(-1) if labels.ndim == 2 else labels)


def codec(c: Options, num_classes: int) -> codecs.Codec:
  """What records keep of logits."""
  if c["store"] == "top_k":
    return codecs.top_k(c["top_k"], num_classes=num_classes, temperature=c["temperature"])
  if c["store"] == "dbr":
    return codecs.two_scalars(temperature=c["dbr_temperature"])
  return codecs.full("float16" if c["store"] == "float16" else "float32")


def record(run: Run, c: Options, images: np.ndarray, own: np.ndarray, key: jax.Array) -> Stored | None:
  """What a run stores of its teachers about images in network space; `None` where labels are made in training."""
  examples = examples_with(images, own)
  if c["store"] in LIVE:
    return None
  if c["store"] == "projector":
    return project.ready(run).labels
  source, teacher_hash = teacher(run, c)
  data = run.fingerprint(examples)
  if c["store"] == "static":
    return static.record_static(source, examples, data=data, teacher_hash=teacher_hash)
  found = fkd.record(
    source,
    examples,
    order(len(images), c["batch_size"]),
    key,
    epochs=c["recorded"] or c["epochs"],
    augment=shown.augmentation(c),
    data=data,
    teacher_hash=teacher_hash,
    codec=codec(c, run.task().num_classes),
  )
  if any(not np.isfinite(leaf).all() for leaf in found.labels.values()):
    raise Diverged("relabel: the teachers' logits are not finite; lower teacher_train.lr")
  return fkd.low_rank(found, c["rank"]) if c["store"] == "low_rank" else found


def save(run: Run, c: Options, stored: Stored | None, examples: Batch, path: Path) -> None:
  """Writes what `record` gave; where that is nothing, which images and teachers the labels belong to."""
  if stored is None:
    write_record(path, {"data": run.fingerprint(examples), "teacher": digest(run, c)})
  else:
    _ROOMS[type(stored)].save(stored, path)


def load(run: Run, c: Options, images: np.ndarray, labels: np.ndarray, path: Path) -> Labels:
  """What `save` wrote, as labels of these images.

  Raises:
    UserError: labels of other images, by other teachers or of another augmentation.
  """
  examples = examples_with(images, labels)
  if c["store"] in LIVE:
    _check_live(run, c, examples, path)
    return ready(run, c, examples, None)
  if c["store"] in ("static", "projector"):
    return ready(run, c, examples, (static if c["store"] == "static" else projector).load(path))
  return ready(run, c, examples, fkd.load(path, shown.augmentation(c)))


def _check_live(run: Run, c: Options, examples: Batch, path: Path) -> None:
  wanted = {"data": run.fingerprint(examples), "teacher": digest(run, c)}
  try:
    found = read_record(path)
  except Damaged as error:
    raise UserError(f"{error}; run the stage relabel again") from error
  for what, value in wanted.items():
    if found[what] != value:
      raise UserError(f"{path}: is for {what} {found[what]}, and this is {value}; run the stage relabel again")


def ready(run: Run, c: Options, examples: Batch, stored: Stored | None) -> Labels:
  """Stored labels, or `None` for those that are made in training, as students train on them."""
  found = _ready(run, c, examples, stored)
  if not _with_classes(c):
    return found
  return found._replace(targets=labelled(found.targets, np.asarray(examples.y).nbytes))


def _with_classes(c: Options) -> bool:
  """Whether students learn classes beside the targets, as far as the targets do not bring them."""
  return c["ce_weight"] > 0 and c["store"] not in ("one_hot", "dbr")


def _ready(run: Run, c: Options, examples: Batch, stored: Stored | None) -> Labels:
  if c["store"] == "one_hot":
    return Labels(examples, hard.one_hot(run.task().num_classes, count=len(examples.ids)), order, c)
  if stored is None:
    return Labels(examples, run.once(("online", digest(run, c)), lambda: teacher(run, c)[0]), order, c)
  if isinstance(stored, projector.ProjectorLabels):
    _check_projector(run, c, stored)
    make = lambda: project.source(project.with_labels(run, stored))  # noqa: E731
    return Labels(examples, run.once(("projector", stored.projector), make), order, c)
  same = {"data": run.fingerprint(examples), "teacher_hash": digest(run, c)}
  if isinstance(stored, static.StaticLabels):
    return Labels(examples, static.interpolated(stored, **same), order, c)
  size, again = min(c["batch_size"], len(examples.ids)), c["recorded"] is not None
  return Labels(
    examples,
    fkd.replayed(stored, epochs=c["epochs"], batch_size=size, again=again, **same),
    lambda size, batch_size: fkd.policy(stored, again=again),
    c,
  )


def _check_projector(run: Run, c: Options, stored: projector.ProjectorLabels) -> None:
  if stored.projector != (wanted := digest(run, c)):
    raise UserError(
      f"stages/records.npz: is projector {stored.projector}, and this run's is {wanted}; run the stage relabel again"
    )


def recipe(c: Options) -> Recipe:
  """The students' loss."""
  if c["store"] == "one_hot":
    return mixed_labels(c["parts"])
  if c["store"] == "dbr":
    return two_distances(c["dbr_temperature"], c["dbr_weight"], c["dbr_norm"], c["parts"])
  return stored_labels(c["temperature"], c["parts"], loss=c["loss"], ce_weight=c["ce_weight"])


def job(run: Run, label: str, network, found: Labels, seeds: list[int]) -> train.Job:
  """The training of fresh networks on labels of a set."""
  c = found.options
  return train.Job(
    label=label,
    network=network,
    recipe=recipe(c),
    train=Train()._asdict() | {name: c[name] for name in _SCHEDULE},
    policy=found.policy,
    data=found.examples,
    members=np.tile(np.arange(len(found.examples.ids)), (len(seeds), 1)),
    seeds=seeds,
    targets=found.targets,
    section="relabel",
    record=shown.augmentation(c),
  )
