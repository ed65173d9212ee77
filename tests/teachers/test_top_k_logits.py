"""The likeliest tokens of a teacher, recorded a few rows at a time: the kept numbers, and what they lose, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Outputs, TargetSource, UserError
from jdistill.teachers.cache import cached
from jdistill.teachers.top_k_logits import record_top_k

N, T, V, K = 5, 3, 7, 2
LOGITS = np.random.default_rng(0).normal(size=(N, T, V)).astype(np.float32) * 2
IDS = np.array([9, 2, 30, 4, 11], np.int32)
WHERE = np.arange(N * T).reshape(N, T) % 4 > 0


def teacher():
  def targets(arrays, key, batch, record, step):
    return (Outputs(arrays["z"][batch.x[:, 0]], jnp.zeros((len(batch.ids), T, 0))),)

  return TargetSource(targets, {"z": jnp.asarray(LOGITS)}, 0, "table")


def recorded(k=K, dtype="float32", ids=IDS):
  x = np.arange(N, dtype=np.int32)[:, None]
  return record_top_k(
    teacher(), x, ids, k, where=WHERE, num_classes=V, data="d", teacher_hash="t", dtype=dtype, batch_size=2
  )


def test_what_is_kept_and_what_it_loses():
  cache, lost = recorded()
  z = LOGITS.astype(np.float64)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  order = np.argsort(-log_p, axis=-1)[..., :K]
  filled = np.broadcast_to(
    np.log((1 - np.exp(np.take_along_axis(log_p, order, -1)).sum(-1)) / (V - K))[..., None], log_p.shape
  ).copy()
  np.put_along_axis(filled, order, np.take_along_axis(log_p, order, -1), -1)
  p = np.exp(log_p)
  want = {
    "kept_mass": np.take_along_axis(p, order, -1).sum(-1),
    "kl": (p * (log_p - filled)).sum(-1),
    "total_variation": np.abs(p - np.exp(filled)).sum(-1) / 2,
  }
  assert lost == {name: pytest.approx(value[WHERE].mean(), rel=1e-5) for name, value in want.items()}
  source = cached(cache, data="d", teacher_hash="t")
  batch = Batch(jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32), jnp.array([30, 9]))
  (out,) = source.targets(source.arrays, jax.random.key(0), batch, None, jnp.int32(0))
  np.testing.assert_allclose(out.logits, filled[[2, 0]], atol=1e-5)


def test_half_the_bytes_of_log_probabilities_and_its_rounding():
  half, whole = (recorded(dtype=dtype)[0].logits for dtype in ("float16", "float32"))
  assert half.nbytes * 2 == whole.nbytes
  np.testing.assert_allclose(half.astype(np.float32), whole, rtol=2**-11)


def test_more_tokens_than_there_are_and_ids_that_occur_twice_are_refused():
  for k in (0, V):
    with pytest.raises(UserError, match=rf"targets\.top_k={k}: must lie in 1\.\.6 for 7 tokens of the vocabulary"):
      recorded(k)
  with pytest.raises(UserError, match="ids: a row's name occurs twice"):
    recorded(ids=np.zeros(N, np.int32))
