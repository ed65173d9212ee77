"""The likeliest tokens of a teacher about every row, without ever holding all its logits, and what that loses."""

import jax
import numpy as np

from jdistill.base import PyTree, TargetSource, UserError
from jdistill.losses.top_k import top_k_fidelity, top_k_targets
from jdistill.models.predict import predict
from jdistill.teachers.cache import TargetCache
from jdistill.teachers.frozen import ask

_ROWS = 4  # looked at together: 512 tokens and 49,152 ids are 100 MB of logits


def record_top_k(
  teacher: TargetSource,
  x: PyTree,
  ids: np.ndarray,
  k: int,
  *,
  where: np.ndarray,
  num_classes: int,
  data: str,
  teacher_hash: str,
  dtype: str = "float16",
  batch_size: int = _ROWS,
) -> tuple[TargetCache, dict[str, float]]:
  """Asks one teacher once about every row and keeps the log-probabilities of its `k` likeliest tokens.

  Args:
    teacher: from `committee`, of one network.
    x: pytree of arrays `[N, T]`.
    ids: `[N]` names of the rows, all different.
    k: below the number of ids.
    where: `[N, T]` bool, the tokens that count.
    num_classes: ids of the vocabulary.
    data: fingerprint of the text.
    teacher_hash: of the teacher's parameters.
    dtype: of the log-probabilities that are stored.
    batch_size: rows at once.

  Returns:
    The cache, and means over the tokens that count of `jdistill.losses.top_k_fidelity`, of what is stored.

  Raises:
    UserError: `k` outside `1..num_classes - 1`, or an id that occurs twice.
  """
  if not 1 <= k < num_classes:
    raise UserError(f"targets.top_k={k}: must lie in 1..{num_classes - 1} for {num_classes} tokens of the vocabulary")
  ids = np.asarray(ids, np.int32)
  if len(np.unique(ids)) != len(ids):
    raise UserError("ids: a row's name occurs twice; give every row its own")

  def asked(arrays: PyTree, named: tuple[PyTree, jax.Array]):
    (out,) = ask(teacher._replace(arrays=arrays), *named)
    kept = top_k_targets(out.logits, k)
    stored = kept._replace(log_probs=kept.log_probs.astype(dtype))
    return stored, top_k_fidelity(out.logits, stored)

  found, lost = predict(asked, teacher.arrays, (jax.tree.map(np.asarray, x), ids), batch_size=batch_size)
  counts = np.asarray(where, bool)
  named = {"kept_mass": lost.kept_mass, "kl": lost.divergence, "total_variation": lost.total_variation}
  means = {name: float(np.mean(value[counts], dtype=np.float64)) for name, value in named.items()}
  order = np.argsort(ids)
  logits, classes, rest = (leaf[order][None] for leaf in found)
  return TargetCache(logits, classes, rest, None, ids[order], num_classes, data, teacher_hash), means
