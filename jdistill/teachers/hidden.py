"""A language model's last hidden states about every row, stored once: exact targets without logits.

A token takes `features` numbers in the place of a number per id. The head is applied where targets are used: as a whole
by methods that ask for logits, and a few columns at a time by those that know `Outputs.head`.
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, Network, Outputs, PyTree, TargetSource, UserError, Variables
from jdistill.files import read_npz, write_npz
from jdistill.models.predict import predict
from jdistill.ops.heads import head_arrays
from jdistill.ops.precision import widen
from jdistill.teachers.frozen import nbytes
from jdistill.teachers.look_up import known_rows, where_known

DTYPES = ("float16", "bfloat16", "float32")
_ROWS = 8  # looked at together


class HiddenStates(NamedTuple):
  """Stored hidden states of rows of tokens.

  Attributes:
    hidden: `[N, T, features]`, what enters the head.
    ids: `[N]` int32 names of the rows, ascending.
    data: fingerprint of the text: of all tokens, documents and targets.
    teacher: hash of the teacher's parameters.
  """

  hidden: np.ndarray
  ids: np.ndarray
  data: str
  teacher: str


def record_hidden(
  network: Network,
  variables: Variables,
  x: PyTree,
  ids: np.ndarray,
  *,
  data: str,
  teacher_hash: str,
  dtype: str = "float16",
  batch_size: int = _ROWS,
) -> HiddenStates:
  """Asks a language model once about every row.

  Args:
    network: of the teacher.
    variables: its parameters.
    x: pytree of arrays `[N, T]`, such as `Rows`.
    ids: `[N]` names of the rows, all different.
    data: fingerprint of the text.
    teacher_hash: of the teacher's parameters.
    dtype: in which states are stored, one of `DTYPES`: 2 bytes round them to 3 decimals (`"float16"`) or to fewer with
      float32's range (`"bfloat16"`).
    batch_size: rows at once.

  Raises:
    UserError: an id occurs twice, an unknown type, or states that are not finite in it.
  """
  if dtype not in DTYPES:
    raise UserError(f"targets.store={dtype!r}: unknown; choose one of {', '.join(DTYPES)}")
  ids = np.asarray(ids, np.int32)
  if len(np.unique(ids)) != len(ids):
    raise UserError("ids: a row's name occurs twice; give every row its own")

  def asked(variables: Variables, x: PyTree) -> jax.Array:
    return network.apply(variables.params, x, stats=variables.stats).embedding.astype(dtype)

  found = predict(asked, variables, jax.tree.map(np.asarray, x), batch_size=batch_size)
  if not np.isfinite(found.astype(np.float32)).all():
    raise UserError(f"targets.store={dtype!r}: the teacher's hidden states are not all finite in it; set 'bfloat16'")
  order = np.argsort(ids)
  return HiddenStates(found[order], ids[order], data, teacher_hash)


def hidden_targets(
  cache: HiddenStates, params: PyTree, *, data: str | None = None, teacher_hash: str | None = None
) -> TargetSource:
  """Stored hidden states as a `TargetSource`, with the teacher's head in `Outputs.head`.

  Logits are the head of the states, computed where they are used; a row whose name is not stored gets NaN.

  Args:
    cache: from `record_hidden` or `load`.
    params: of the teacher's decoder, of which the head is kept.
    data: fingerprint of the text at hand; `None` checks nothing.
    teacher_hash: of the teacher that is wanted; `None` checks nothing.

  Raises:
    UserError: states of another text or by another teacher.
  """
  for what, wanted, found in (("text", data, cache.data), ("teacher", teacher_hash, cache.teacher)):
    if wanted is not None and wanted != found:
      raise UserError(f"hidden states: of {what} {found}, and this is {wanted}; record them again")
  arrays = {"hidden": jnp.asarray(cache.hidden), "ids": jnp.asarray(cache.ids), "head": head_arrays(params)}
  return TargetSource(hidden_lookup, arrays, nbytes(arrays), f"hidden {cache.hidden.dtype}")


def hidden_lookup(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
  """`TargetSource.targets` of stored hidden states."""
  del key, record, step
  rows, known = known_rows(arrays["ids"], batch.ids)
  return (with_head(where_known(known, arrays["hidden"][rows].astype(jnp.float32)), arrays["head"]),)


def with_head(hidden: jax.Array, head: PyTree) -> Outputs:
  """Outputs of hidden states `[..., features]` and a head as `head_arrays` gives it; unused logits cost nothing."""
  (kernel,) = head.values()
  wide, axis = widen(hidden), 1 if "table" in head else 0
  logits = jax.lax.dot_general(wide, kernel.astype(wide.dtype), (((hidden.ndim - 1,), (axis,)), ((), ())))
  return Outputs(logits, hidden, head=head)


def save(cache: HiddenStates, path: str | os.PathLike) -> None:
  """Writes stored states as one `.npz`; bfloat16 as the integers of its bits."""
  kind = str(cache.hidden.dtype)
  bits = cache.hidden.view(np.uint16) if kind == "bfloat16" else cache.hidden
  words = {name: np.frombuffer(text.encode(), np.uint8) for name, text in _words(cache, kind).items()}
  write_npz(Path(path), {"hidden": bits, "ids": cache.ids} | words)


def _words(cache: HiddenStates, kind: str) -> dict[str, str]:
  return {"data": cache.data, "teacher": cache.teacher, "dtype": kind}


def load(path: str | os.PathLike) -> HiddenStates:
  """Reads stored states.

  Raises:
    UserError: the file is missing, damaged or holds no such states.
  """
  found = read_npz(Path(path))
  missing = {"hidden", "ids", "data", "teacher", "dtype"} - set(found)
  if missing:
    raise UserError(f"{path}: holds no hidden states ({', '.join(sorted(missing))} missing); record them again")
  words = {name: bytes(found[name]).decode() for name in ("data", "teacher", "dtype")}
  hidden = found["hidden"]
  hidden = hidden.view(jnp.bfloat16) if words["dtype"] == "bfloat16" else hidden
  return HiddenStates(hidden, found["ids"], words["data"], words["teacher"])
