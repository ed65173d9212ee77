"""Soft labels of augmented batches, stored once and replayed: which examples, which augmentation, which logits.

A record belongs to one batch of one epoch. Replaying it gives the pixels that the teacher saw, so its labels are valid
with any augmentation, also one that mixes images (`jdistill.augment.compose(resized_crop(), flip(), cutmix())`). A
student that learns from such labels takes the loss `kl_divergence(..., temperature=20, scale_t2=False)` in SRe2L.
What is kept of the logits is a matter of `jdistill.teachers.codecs`.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Augmentation, Batch, Block, DataPolicy, Key, Look, Outputs, PyTree, TargetSource, UserError
from jdistill.teachers import codecs
from jdistill.teachers.label_file import load_labels, save_labels

_WORDS = ("data", "teacher", "store")


class Records(NamedTuple):
  """Stored soft labels of all steps of some epochs.

  Attributes:
    labels: by name what is kept of the logits, with leading axes `[steps, teachers, B]`; `"logits"` where that is all.
    index: `[steps, B]` int32 positions among the examples.
    weight: `[steps, B]` float32; zero marks padding.
    augment: record of the augmentation, its leaves with a leading axis `steps`.
    ids: `[N]` int32 names of the examples.
    epochs: how many there are; each has `steps // epochs` steps.
    image_shape: `(height, width, channels)` of the examples.
    data: fingerprint of the data.
    teacher: hash of the teachers' parameters.
    store: which kind of labels they are: the name of a `Codec`, or `"low_rank"`.
    num_classes: of the teachers.
    shared: by name what all steps share: the `"basis"` of labels of low rank.
  """

  labels: Mapping[str, np.ndarray]
  index: np.ndarray
  weight: np.ndarray
  augment: PyTree
  ids: np.ndarray
  epochs: int
  image_shape: tuple[int, ...]
  data: str
  teacher: str
  store: str = "float16"
  num_classes: int = 0
  shared: Mapping[str, np.ndarray] = {}

  @property
  def logits(self) -> np.ndarray:
    """All logits, `[steps, teachers, B, classes]`, of stores that keep them."""
    return self.labels["logits"]

  @property
  def nbytes(self) -> int:
    """Bytes of all that has to be kept."""
    kept = (self.labels, self.shared, self.index, self.weight, self.augment, self.ids)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(kept))


def record(
  teacher: TargetSource,
  examples: Batch,
  policy: DataPolicy,
  key: Key,
  *,
  epochs: int,
  augment: Augmentation,
  data: str,
  teacher_hash: str,
  codec: codecs.Codec = codecs.full(),  # noqa: B008  (immutable)
) -> Records:
  """Asks the teachers about every augmented batch of some epochs.

  Args:
    teacher: of logits `[B, classes]`, the same classes for all networks of a committee.
    examples: all of them, in the order that `policy` counts in.
    policy: which examples each step sees; one that does not look at networks, with equally many steps in all epochs.
    key: decides the order and the augmentation of every batch.
    epochs: how many; a student cannot train for more.
    augment: drawn anew for every batch.
    data: fingerprint of the data.
    teacher_hash: of the teachers' parameters.
    codec: what is kept of their logits; all of them in float16 in SRe2L.

  Returns:
    `Records` in host memory.

  Raises:
    UserError: `epochs < 1`, a policy that looks or that changes its number of steps, or labels that are not finite in
      the type that they are kept in.

  References:
    Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition" (arXiv 2112.01528), as used by
    SRe2L (arXiv 2306.13092).
  """
  if epochs < 1:
    raise UserError(f"epochs={epochs}: record at least one epoch")
  if policy.looks:
    raise UserError("data_policy: it chooses by looking at networks, which cannot be recorded ahead; take another")
  key_policy, key_steps = jax.random.split(key)
  ask = _asker(teacher.targets, augment, codec)
  draw = jax.jit(lambda key, state, epoch: policy.next(jax.random.fold_in(key, epoch), state, epoch, None))
  state, parts, count = policy.init(key_policy), [], 0
  for epoch in range(epochs):
    block, state = draw(key_policy, state, jnp.int32(epoch))
    index, weight = np.asarray(block.index), np.asarray(block.weight)
    happens = weight.any(axis=1)
    index, weight = index[happens], weight[happens]
    if parts and len(index) != len(parts[0][0]):
      raise UserError(
        f"data_policy: epoch {epoch} has {len(index)} steps and epoch 0 has {len(parts[0][0])}; records need a policy "
        "with equally many in all epochs"
      )
    steps = np.arange(count, count + len(index), dtype=np.int32)
    labels, drawn = jax.device_get(ask(teacher.arrays, examples, key_steps, (index, weight, steps)))
    for found in labels.values():
      if not np.isfinite(found).all():
        limit = " (at most 65,504)" if found.dtype == np.float16 else ""
        raise UserError(
          f"teacher: its logits are not all finite in {found.dtype}{limit}; train it again, or scale them"
        )
    parts.append((index, weight, labels, drawn))
    count += len(index)
  index, weight, labels, drawn = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  shape = tuple(int(side) for side in examples.x.shape[1:])
  ids, num_classes = np.asarray(examples.ids, np.int32), _classes(teacher, examples, index.shape[1])
  return Records(labels, index, weight, drawn, ids, epochs, shape, data, teacher_hash, codec.name, num_classes)


def low_rank(records: Records, rank: int) -> Records:
  """Records whose logits are kept as coordinates in `rank` directions that all steps share.

  `2 r` bytes per image and teacher and `4 r C` once, instead of `2 C`; see `codecs.low_rank_arrays`.

  Args:
    records: with all logits, best in float32.
    rank: in `1..C - 1`.

  Raises:
    UserError: records that do not hold all logits, or a rank out of range.
  """
  if "logits" not in records.labels:
    raise UserError(f"low_rank: the records hold labels of kind {records.store!r}; give ones with all logits")
  coordinates, basis = codecs.low_rank_arrays(records.logits, rank)
  return records._replace(labels={"coordinates": coordinates}, shared={"basis": basis}, store="low_rank")


def _classes(teacher: TargetSource, examples: Batch, size: int) -> int:
  """Of how many classes the teachers' logits are, asked with a batch of `size` examples."""
  rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *np.shape(leaf)[1:]), leaf.dtype), examples)
  arguments = (teacher.arrays, jax.random.key(0), rows, None, jnp.zeros((), jnp.int32))
  return jax.eval_shape(teacher.targets, *arguments)[0].logits.shape[-1]


@functools.lru_cache(maxsize=8)
def _asker(targets: Callable, augment: Augmentation, codec: codecs.Codec) -> Callable:
  """`(arrays, examples, key, (index, weight, steps)) -> (labels, augmentation records)`, stacked on the steps."""

  @jax.jit
  def ask(arrays: PyTree, examples: Batch, key: Key, rows: tuple):
    def one(carry: None, row: tuple):
      index, weight, step = row
      batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], examples)._replace(weight=weight)
      key_augment, key_teacher = jax.random.split(jax.random.fold_in(key, step))
      drawn = augment.sample(key_augment, batch.x.shape)
      seen = batch._replace(x=augment.apply(drawn, batch.x))
      found = targets(arrays, key_teacher, seen, drawn, step)
      return carry, (codec.encode(jnp.stack([out.logits for out in found]), batch.y, drawn), drawn)

    return jax.lax.scan(one, None, rows)[1]

  return ask


def replayed(
  records: Records,
  *,
  epochs: int | None = None,
  batch_size: int | None = None,
  data: str | None = None,
  teacher_hash: str | None = None,
  again: bool = False,
) -> TargetSource:
  """Stored soft labels as a `TargetSource` that replays the augmentation of every step.

  Targets of examples other than those of the stored batch, and of steps that were not stored, are NaN. Use it with
  `policy`, which brings the stored batches.

  Args:
    records: from `record` or `load`; all of them lie in the memory of the device.
    epochs: of the training that is planned; `None` checks nothing, and so below.
    batch_size: of that training.
    data: fingerprint of the data at hand.
    teacher_hash: of the teacher that is wanted.
    again: after the last stored epoch the first one comes again, so that few stored epochs serve a long training.

  Raises:
    UserError: records of other data, of another teacher or batch size, or of fewer epochs; from `targets` at trace
      time, a batch of another size.
  """
  count, stored_size = records.index.shape
  for what, wanted, found in (("data", data, records.data), ("teacher", teacher_hash, records.teacher)):
    if wanted is not None and wanted != found:
      raise UserError(f"stored soft labels: made for {what} {found}, and this is {wanted}; record them again")
  if batch_size is not None and batch_size != stored_size:
    raise UserError(f"batch_size={batch_size}: the soft labels are those of batches of {stored_size}; use that")
  if epochs is not None and epochs > records.epochs and not again:
    raise UserError(f"epochs={epochs}: soft labels of {records.epochs} epochs are stored; record more, or train less")
  arrays = jax.tree.map(
    jnp.asarray,
    {
      "labels": records.labels,
      "shared": records.shared,
      "ids": records.ids[records.index],
      "augment": records.augment,
    },
  )
  targets, replay = _replaying(count, stored_size, records.store, records.num_classes, again)
  return TargetSource(targets, arrays, records.nbytes, "replayed", replay, same_pixels=True)


@functools.lru_cache(maxsize=32)
def _replaying(count: int, stored_size: int, store: str, num_classes: int, again: bool) -> tuple[Callable, Callable]:
  """`TargetSource.targets` and `replay` of records of one form; the same objects, and so programs, for equal forms."""
  decode = codecs.decoder(store, num_classes)
  place_of = lambda step: step % count if again else jnp.minimum(step, count - 1)  # noqa: E731

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    del key, record
    if batch.ids.shape != (stored_size,):
      raise UserError(f"batch of {batch.ids.shape[0]}: the soft labels are those of batches of {stored_size}; use that")
    place = place_of(step)
    known = (arrays["ids"][place] == batch.ids) & (again | (step < count))
    labels, drawn = jax.tree.map(lambda leaf: leaf[place], (arrays["labels"], arrays["augment"]))
    found = decode({**labels, **arrays["shared"]}, batch, drawn)
    return tuple(out._replace(logits=jnp.where(known[:, None], out.logits, jnp.nan)) for out in found)

  def replay(arrays: PyTree, step: jax.Array) -> PyTree:
    place = place_of(step)
    return jax.tree.map(lambda leaf: leaf[place], arrays["augment"])

  return targets, replay


def policy(records: Records, *, again: bool = False) -> DataPolicy:
  """The stored order as a `DataPolicy`: the block of an epoch is the one that was recorded, whatever the key.

  Epochs that were not recorded have no steps; with `again` they are those that were, from the first one on.
  """
  steps = records.index.shape[0] // records.epochs
  index, weight = (leaf.reshape(records.epochs, steps, -1) for leaf in (records.index, records.weight))

  def next_block(key: Key, state: PyTree, epoch: jax.Array, look: Look | None) -> tuple[Block, PyTree]:
    del key, look
    place = epoch % records.epochs if again else jnp.minimum(epoch, records.epochs - 1)
    present = (again | (epoch < records.epochs)).astype(jnp.float32)
    return Block(jnp.asarray(index)[place], present * jnp.asarray(weight)[place]), state

  hint = f"soft labels of {records.epochs} epochs are stored; train for at most as many, or record more"
  return DataPolicy(lambda key: (), next_block, steps, hint=hint)


def save(records: Records, path: str | os.PathLike) -> None:
  """Writes records as one `.npz` with a checksum over all arrays."""
  arrays = {name: getattr(records, name) for name in ("index", "weight", "ids")}
  arrays |= {f"label_{name}": leaf for name, leaf in records.labels.items()}
  arrays |= {f"shared_{name}": leaf for name, leaf in records.shared.items()}
  arrays |= {f"augment_{n}": leaf for n, leaf in enumerate(jax.tree.leaves(records.augment))}
  arrays |= {"epochs": np.int64(records.epochs), "image_shape": np.array(records.image_shape, np.int64)}
  arrays |= {"num_classes": np.int64(records.num_classes)}
  save_labels(path, arrays, {name: getattr(records, name) for name in _WORDS})


def load(path: str | os.PathLike, augment: Augmentation) -> Records:
  """Reads records.

  Args:
    path: where they lie.
    augment: the augmentation that they were recorded with; its records have the structure that the file leaves out.

  Raises:
    UserError: the file is missing, damaged, no records, or of another augmentation.
  """
  names = ("index", "weight", "ids", "epochs", "image_shape", "num_classes")
  found, words = load_labels(path, "stored soft labels", names, _WORDS)
  shape = tuple(int(side) for side in found["image_shape"])
  steps, size = found["index"].shape
  wanted = jax.eval_shape(lambda: augment.sample(jax.random.key(0), (size, *shape)))
  leaves, structure = jax.tree.flatten(wanted)
  stored = [found[f"augment_{n}"] for n in range(len(_under("augment_", found)))]
  if [((steps, *leaf.shape), leaf.dtype) for leaf in leaves] != [(leaf.shape, leaf.dtype) for leaf in stored]:
    raise UserError(f"{path}: recorded with another augmentation; configure the same one, or record them again")
  arrays = {name: found[name] for name in ("index", "weight", "ids")}
  return Records(
    labels=_under("label_", found),
    **arrays,
    augment=jax.tree.unflatten(structure, stored),
    epochs=int(found["epochs"]),
    image_shape=shape,
    num_classes=int(found["num_classes"]),
    shared=_under("shared_", found),
    **words,
  )


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}
