"""Labels of a set by a run's teachers: stored ones of augmented batches or of images, or asked while students train."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment
from jdistill.base import Augmentation, Batch, DataPolicy, Diverged, TargetSource, UserError
from jdistill.config.common import Train
from jdistill.data.policies import walk
from jdistill.evaluation import examples_of
from jdistill.files import Damaged, read_record, write_record
from jdistill.methods.knowledge import Recipe
from jdistill.methods.knowledge.logits import stored_labels, two_distances
from jdistill.ops.voting import committee_weights
from jdistill.stages import networks, train, voting
from jdistill.stages.run import Run
from jdistill.teachers import codecs, fkd, static
from jdistill.teachers.frozen import averaged, committee

STORES = ("float16", "float32", "top_k", "low_rank", "dbr", "static", "online")
_SCHEDULE = (
  "epochs", "batch_size", "optimizer", "lr", "weight_decay", "decay_all", "warmup_epochs", "eta",
)  # fmt: skip
Stored = fkd.Records | static.StaticLabels


class Labels(NamedTuple):
  """Labels of one set, as students train on them.

  Attributes:
    examples: the set.
    targets: what the teachers say of it.
    policy: `(size, batch_size) -> DataPolicy`: the order that stored labels belong to, or any order.
  """

  examples: Batch
  targets: TargetSource
  policy: Callable[[int, int], DataPolicy]

  @property
  def nbytes(self) -> int:
    """What has to be kept beside the images: stored labels, or the parameters of teachers that are asked."""
    return self.targets.nbytes


def augmentation(run: Run) -> Augmentation:
  """What batches go through before teachers and students see them; the same object for equal options."""
  c = run.config["relabel"]
  return _augmentation(c["augment"], c["strips"], c["crop_scale"], c["flip"], c["mix"])


@functools.lru_cache(maxsize=8)
def _augmentation(name: str, strips: int, crop_scale: float | None, flip: bool, mix: str) -> Augmentation:
  parts = []
  if name != "none":
    parts.append(augment.named(name, key="relabel.augment"))
  if strips > 1:
    parts.append(augment.shuffle_strips(strips))
  if crop_scale is not None:
    parts.append(augment.resized_crop((crop_scale, 1.0)))
  if flip:
    parts.append(augment.flip())
  if mix != "none":
    parts.append({"cutmix": augment.cutmix, "mixup": augment.mixup}[mix]())
  return augment.compose(*parts)


def teacher(run: Run) -> tuple[TargetSource, str]:
  """The run's teachers as one, by the mean of their logits, and the hash of all that determines its labels."""
  c, votes, found = run.config["relabel"], run.config["voting"], networks.own(run)
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
  """Images with their classes, of which only DBR makes use."""
  labels = np.asarray(labels)
  return examples_of(images, labels.argmax(-1) if labels.ndim == 2 else labels)


def codec(run: Run) -> codecs.Codec:
  """What records keep of logits."""
  c = run.config["relabel"]
  if c["store"] == "top_k":
    return codecs.top_k(c["top_k"], num_classes=run.task().num_classes, temperature=c["temperature"])
  if c["store"] == "dbr":
    return codecs.two_scalars(temperature=c["dbr_temperature"])
  return codecs.full("float16" if c["store"] == "float16" else "float32")


def record(run: Run, images: np.ndarray, own: np.ndarray, key: jax.Array) -> Stored | None:
  """What a run stores of its teachers about images in network space; `None` where students ask them."""
  c, examples = run.config["relabel"], examples_with(images, own)
  if c["store"] == "online":
    return None
  source, digest = teacher(run)
  data = run.fingerprint(examples)
  if c["store"] == "static":
    return static.record_static(source, examples, data=data, teacher_hash=digest)
  found = fkd.record(
    source,
    examples,
    order(len(images), c["batch_size"]),
    key,
    epochs=c["epochs"],
    augment=augmentation(run),
    data=data,
    teacher_hash=digest,
    codec=codec(run),
  )
  if any(not np.isfinite(leaf).all() for leaf in found.labels.values()):
    raise Diverged("relabel: the teachers' logits are not finite; lower teacher_train.lr")
  return fkd.low_rank(found, c["rank"]) if c["store"] == "low_rank" else found


def save(run: Run, stored: Stored | None, examples: Batch, path: Path) -> None:
  """Writes what `record` gave; of online labels which images and teachers they belong to."""
  if stored is None:
    write_record(path, {"data": run.fingerprint(examples), "teacher": networks.own(run).hash})
  else:
    (static if isinstance(stored, static.StaticLabels) else fkd).save(stored, path)


def load(run: Run, images: np.ndarray, labels: np.ndarray, path: Path) -> Labels:
  """What `save` wrote, as labels of these images.

  Raises:
    UserError: labels of other images, by other teachers or of another augmentation.
  """
  store, examples = run.config["relabel"]["store"], examples_with(images, labels)
  if store == "online":
    _check_online(run, examples, path)
    return ready(run, examples, None)
  return ready(run, examples, static.load(path) if store == "static" else fkd.load(path, augmentation(run)))


def _check_online(run: Run, examples: Batch, path: Path) -> None:
  wanted = {"data": run.fingerprint(examples), "teacher": networks.own(run).hash}
  try:
    found = read_record(path)
  except Damaged as error:
    raise UserError(f"{error}; run the stage relabel again") from error
  for what, value in wanted.items():
    if found[what] != value:
      raise UserError(f"{path}: is for {what} {found[what]}, and this is {value}; run the stage relabel again")


def ready(run: Run, examples: Batch, stored: Stored | None) -> Labels:
  """Stored labels, or `None` for online ones, as students train on them."""
  c = run.config["relabel"]
  if stored is None:
    return Labels(examples, run.once(("online", networks.own(run).hash), lambda: teacher(run)[0]), order)
  same = {"data": run.fingerprint(examples), "teacher_hash": networks.own(run).hash}
  if isinstance(stored, static.StaticLabels):
    return Labels(examples, static.interpolated(stored, **same), order)
  size = min(c["batch_size"], len(examples.ids))
  return Labels(
    examples,
    fkd.replayed(stored, epochs=c["epochs"], batch_size=size, **same),
    lambda size, batch_size: fkd.policy(stored),
  )


def recipe(run: Run) -> Recipe:
  """The students' loss."""
  c = run.config["relabel"]
  if c["store"] == "dbr":
    return two_distances(c["dbr_temperature"], c["dbr_weight"], c["dbr_norm"], c["parts"])
  return stored_labels(c["temperature"], c["parts"])


def job(run: Run, label: str, network, found: Labels, seeds: list[int]) -> train.Job:
  """The training of fresh networks on labels of a set."""
  c: dict[str, Any] = run.config["relabel"]
  return train.Job(
    label=label,
    network=network,
    recipe=recipe(run),
    train=Train()._asdict() | {name: c[name] for name in _SCHEDULE},
    policy=found.policy,
    data=found.examples,
    members=np.tile(np.arange(len(found.examples.ids)), (len(seeds), 1)),
    seeds=seeds,
    targets=found.targets,
    section="relabel",
    record=augmentation(run),
  )
