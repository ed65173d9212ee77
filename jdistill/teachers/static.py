"""One stored logit vector per image, which is valid for its crops and mirror images, and interpolated under mixup."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.augment import mix_targets, mixed
from jdistill.base import Batch, Key, Outputs, PyTree, TargetSource, UserError
from jdistill.models.predict import predict
from jdistill.teachers.frozen import ask
from jdistill.teachers.label_file import load_labels, save_labels

_WORDS = ("data", "teacher")


class StaticLabels(NamedTuple):
  """Stored labels of images.

  Attributes:
    logits: `[N, classes]` float32.
    ids: `[N]` int32 names of the images, ascending.
    data: fingerprint of the images.
    teacher: hash of the teachers' parameters.
  """

  logits: np.ndarray
  ids: np.ndarray
  data: str
  teacher: str

  @property
  def nbytes(self) -> int:
    """Bytes of all that has to be kept."""
    return self.logits.nbytes + self.ids.nbytes


def record_static(teacher: TargetSource, examples: Batch, *, data: str, teacher_hash: str) -> StaticLabels:
  """The mean over the teachers of their logits on every image as it is.

  Args:
    teacher: networks in evaluation mode (`jdistill.teachers.frozen.committee`), or their weighted mean (`averaged`).
    examples: the images, each with a name of its own.
    data: fingerprint of the images.
    teacher_hash: of the teachers' parameters.

  Raises:
    UserError: two images of one name, or logits that are not finite.

  References:
    Zhang et al., "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator" (arXiv
    2408.06927), static labels.
  """
  ids = np.asarray(examples.ids, np.int32)
  if len(np.unique(ids)) != len(ids):
    raise UserError("ids: an image's name occurs twice; give every image its own")

  def asked(arrays: PyTree, named: tuple[jax.Array, jax.Array]) -> jax.Array:
    found = ask(teacher._replace(arrays=arrays), *named)
    return jnp.mean(jnp.stack([out.logits for out in found]), axis=0)

  logits = np.asarray(predict(asked, teacher.arrays, (np.asarray(examples.x), ids)), np.float32)
  if not np.isfinite(logits).all():
    raise UserError("teacher: its logits are not all finite; train it again with a lower learning rate")
  order = np.argsort(ids)
  return StaticLabels(logits[order], ids[order], data, teacher_hash)


def interpolated(labels: StaticLabels, *, data: str | None = None, teacher_hash: str | None = None) -> TargetSource:
  """Static labels as a `TargetSource`: under mixup `share z_i + (1 - share) z_partner(i)`, of logits.

  An image whose name is not there gets NaN.

  Args:
    labels: from `record_static` or `load`.
    data: fingerprint of the images at hand; `None` checks nothing.
    teacher_hash: of the teachers that are wanted; `None` checks nothing.

  Raises:
    UserError: labels of other images or by other teachers; from `targets` at trace time, cutmix, under which the label
      of an image says nothing about the part of it that is seen.
  """
  for what, wanted, found in (("data", data, labels.data), ("teacher", teacher_hash, labels.teacher)):
    if wanted is not None and wanted != found:
      raise UserError(f"static labels: made for {what} {found}, and this is {wanted}; record them again")
  arrays = {"logits": jnp.asarray(labels.logits), "ids": jnp.asarray(labels.ids)}
  return TargetSource(_targets, arrays, labels.nbytes, "static")


def refuse_cutmix(mix: str, key: str) -> None:
  """Raises `UserError` for the mixing `"cutmix"`, which has no interpolation of labels of whole images."""
  if mix == "cutmix":
    raise UserError(
      f"{key}='cutmix': static labels are of whole images, and a pasted box has none; use 'mixup' or 'none', or stored "
      "labels of augmented batches"
    )


def _targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
  del key, step
  rows = jnp.minimum(jnp.searchsorted(arrays["ids"], batch.ids), arrays["ids"].shape[0] - 1)
  known = arrays["ids"][rows] == batch.ids
  logits = jnp.where(known[:, None], arrays["logits"][rows], jnp.nan)
  mix = mixed(record)
  if mix is not None:
    logits = mix_targets(mix, logits)
  return (Outputs(logits, jnp.zeros((logits.shape[0], 0), logits.dtype)),)


def save(labels: StaticLabels, path: str | os.PathLike) -> None:
  """Writes labels as one `.npz` with a checksum over all arrays."""
  save_labels(path, {"logits": labels.logits, "ids": labels.ids}, {name: getattr(labels, name) for name in _WORDS})


def load(path: str | os.PathLike) -> StaticLabels:
  """Reads labels.

  Raises:
    UserError: the file is missing, damaged, or holds no static labels.
  """
  found, words = load_labels(path, "static labels", ("logits", "ids"), _WORDS)
  return StaticLabels(found["logits"], found["ids"], **words)
