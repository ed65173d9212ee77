"""What teachers said of every training example, stored once and looked up by the example's id.

A cache knows for which data and by which networks it was made, so that targets of other data are refused. It is exact
only where the teacher sees the stored pixels: without augmentation, or with one the teacher does not see.
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, Outputs, PyTree, TargetSource, UserError
from jdistill.files import read_npz, write_npz
from jdistill.models.predict import predict
from jdistill.ops.top_k import spread
from jdistill.teachers.frozen import ask, nbytes
from jdistill.teachers.look_up import known_rows, where_known


class TargetCache(NamedTuple):
  """Stored teacher outputs.

  Attributes:
    logits: `[teachers, N, classes]`, or `[teachers, N, k]` of the `k` greatest; of sequences and maps with the axes of
      their positions after `N`, and so are `classes`, `rest` and `embedding`.
    classes: `[teachers, N, k]` int32, to which class each stored logit belongs; `None` where all are stored.
    rest: `[teachers, N]`, log of the probability of all other classes together; `None` where all are stored.
    embedding: `[teachers, N, features]`, or `None`.
    ids: `[N]` int32 names of the examples, ascending.
    num_classes: of the teachers.
    data: fingerprint of the data.
    teacher: hash of the teachers' parameters.
  """

  logits: np.ndarray
  classes: np.ndarray | None
  rest: np.ndarray | None
  embedding: np.ndarray | None
  ids: np.ndarray
  num_classes: int
  data: str
  teacher: str


def record(
  teacher: TargetSource,
  x: PyTree,
  ids: np.ndarray,
  *,
  data: str,
  teacher_hash: str,
  embedding: bool = True,
  batch_size: int = 500,
) -> TargetCache:
  """Asks the teachers once about every example.

  Args:
    teacher: from `committee`.
    x: pytree of arrays `[N, ...]`, inputs as the teacher shall see them.
    ids: `[N]` names of the examples, all different.
    data: fingerprint of the data.
    teacher_hash: of the teachers' parameters.
    embedding: store the embeddings, too (all teachers then need the same width).
    batch_size: examples at once.

  Raises:
    UserError: an id occurs twice, or a teacher's logits are not finite.
  """
  ids = np.asarray(ids, np.int32)
  if len(np.unique(ids)) != len(ids):
    raise UserError("ids: an example's name occurs twice; give every example its own")

  def asked(arrays: PyTree, named: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, ...], ...]:
    return tuple(_kept(out, embedding) for out in ask(teacher._replace(arrays=arrays), *named))

  found = predict(asked, teacher.arrays, (jax.tree.map(np.asarray, x), ids), batch_size=batch_size)
  joined = [np.stack(leaves) for leaves in zip(*found, strict=True)]
  if not np.isfinite(joined[0]).all():
    raise UserError("teacher: its logits are not all finite; train it again with a lower learning rate")
  order = np.argsort(ids)
  stored = [leaf[:, order] for leaf in joined]
  return TargetCache(
    stored[0].astype(np.float32),
    None,
    None,
    stored[1].astype(np.float32) if embedding else None,
    ids[order],
    stored[0].shape[-1],
    data,
    teacher_hash,
  )


def _kept(out: Outputs, embedding: bool) -> tuple[jax.Array, ...]:
  return (out.logits, out.embedding) if embedding else (out.logits,)


def top_k(cache: TargetCache, k: int) -> TargetCache:
  """Keeps the `k` greatest logits of every example, and the probability of the rest, which is then shared evenly.

  Args:
    cache: with all logits.
    k: below the number of classes; `2 k + 1` numbers per example instead of `classes`.

  Raises:
    UserError: `k` outside `1..classes - 1`, or a cache that has already been cut.
  """
  if cache.classes is not None:
    raise UserError("top_k: the cache holds the greatest logits only; cut a whole one")
  if not 1 <= k < cache.num_classes:
    raise UserError(f"top_k={k}: must lie in 1..{cache.num_classes - 1} for {cache.num_classes} classes")
  classes = np.argsort(-cache.logits, axis=-1, kind="stable")[..., :k].astype(np.int32)
  shifted = cache.logits - cache.logits.max(-1, keepdims=True)
  log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  kept = np.take_along_axis(log_probs, classes, -1)
  rest = np.log(np.maximum(1.0 - np.exp(kept).sum(-1), np.finfo(np.float32).tiny))
  return cache._replace(logits=kept.astype(np.float32), classes=classes, rest=rest.astype(np.float32), embedding=None)


def cached(cache: TargetCache, *, data: str | None = None, teacher_hash: str | None = None) -> TargetSource:
  """A cache as a `TargetSource`; its logits of a cut cache are log-probabilities, which is the same to every softmax.

  An example whose name is not in it gets NaN.

  Args:
    cache: from `record` or `top_k`.
    data: fingerprint of the data at hand; `None` checks nothing.
    teacher_hash: of the teacher that is wanted; `None` checks nothing.

  Raises:
    UserError: the cache is for other data or by another teacher.
  """
  for what, wanted, found in (("data", data, cache.data), ("teacher", teacher_hash, cache.teacher)):
    if wanted is not None and wanted != found:
      raise UserError(f"cached targets: made for {what} {found}, and this is {wanted}; record them again")
  names = ("logits", "classes", "rest", "embedding")
  stored = {name: jnp.asarray(getattr(cache, name)) for name in names if getattr(cache, name) is not None}
  arrays = stored | {"ids": jnp.asarray(cache.ids)}
  count, num_classes = cache.logits.shape[0], cache.num_classes

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    del key, record, step
    ids = batch.ids
    rows, known = known_rows(arrays["ids"], ids)
    found = []
    for t in range(count):
      logits = arrays["logits"][t, rows].astype(jnp.float32)
      if "classes" in arrays:
        logits = _spread(logits, arrays["classes"][t, rows], arrays["rest"][t, rows], num_classes)
      embedding = arrays["embedding"][t, rows] if "embedding" in arrays else jnp.zeros((ids.shape[0], 0), logits.dtype)
      found.append(Outputs(*(where_known(known, values) for values in (logits, embedding))))
    return tuple(found)

  k = "" if cache.classes is None else f" top {cache.classes.shape[-1]}"
  return TargetSource(targets, arrays, nbytes(arrays), f"cached{k}")


def _spread(kept: jax.Array, classes: jax.Array, rest: jax.Array, num_classes: int) -> jax.Array:
  even = rest - jnp.log(jnp.asarray(num_classes - kept.shape[-1], kept.dtype))
  return spread(kept, classes, jnp.broadcast_to(even[..., None], (*even.shape, num_classes)))


def save(cache: TargetCache, path: str | os.PathLike) -> None:
  """Writes a cache as one `.npz`."""
  arrays = {name: value for name, value in cache._asdict().items() if isinstance(value, np.ndarray)}
  named = {"num_classes": np.asarray(cache.num_classes), "data": _text(cache.data), "teacher": _text(cache.teacher)}
  write_npz(Path(path), arrays | named)


def load(path: str | os.PathLike) -> TargetCache:
  """Reads a cache.

  Raises:
    UserError: the file is missing, damaged or no cache.
  """
  found = read_npz(Path(path))
  missing = {"logits", "ids", "num_classes", "data", "teacher"} - set(found)
  if missing:
    raise UserError(f"{path}: holds no cached targets ({', '.join(sorted(missing))} missing); record them again")
  words = {name: bytes(found[name]).decode() for name in ("data", "teacher")}
  optional = {name: found.get(name) for name in ("classes", "rest", "embedding")}
  return TargetCache(found["logits"], ids=found["ids"], num_classes=int(found["num_classes"]), **optional, **words)


def _text(value: str) -> np.ndarray:
  return np.frombuffer(value.encode(), np.uint8)
