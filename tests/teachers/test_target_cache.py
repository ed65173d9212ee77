"""Stored targets: what the teacher itself would say, found by name, of this data and this teacher only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Outputs, TargetSource, UserError
from jdistill.teachers import cache as caches
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(0)
N, CLASSES = 23, 5
X = RNG.normal(size=(N, 2, 2, 1)).astype(np.float32)
IDS = RNG.permutation(1000)[:N].astype(np.int32)  # names, in no order
NETWORKS = [models.build("mlp", num_classes=CLASSES, image_shape=(2, 2, 1), widths=(4,)) for _ in range(2)]
ONLINE = committee(NETWORKS, [network.init(jax.random.key(i)) for i, network in enumerate(NETWORKS)])
CACHE = caches.record(ONLINE, X, IDS, data="pixels", teacher_hash="two", batch_size=10)


def logits_teacher(logits):
  """A teacher that says fixed logits `[N, ...]` by id."""

  def targets(arrays, key, batch, record, step):
    return (Outputs(arrays[batch.ids], batch.x),)

  return TargetSource(targets, jnp.float32(logits), 0, "fixed")


def asked(teacher, rows, ids=None):
  return ask(teacher, jnp.zeros((len(rows), 1)), jnp.asarray(IDS[rows] if ids is None else ids))


def log_softmax(z):
  z = np.asarray(z, np.float64)
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_says_what_the_teachers_say_whatever_the_order():
  rows = RNG.permutation(N)[:9]
  found = asked(caches.cached(CACHE), rows)
  want = ask(ONLINE, jnp.asarray(X[rows]), jnp.asarray(IDS[rows]))
  assert len(found) == len(want) == 2
  for mine, theirs in zip(found, want, strict=True):
    close(mine.logits, theirs.logits)
    close(mine.embedding, theirs.embedding)
  assert np.abs(np.asarray(found[0].logits - found[1].logits)).max() > 0.01  # two teachers, not one twice


def test_the_order_in_which_it_was_recorded_does_not_matter():
  order = RNG.permutation(N)
  other = caches.record(ONLINE, X[order], IDS[order], data="pixels", teacher_hash="two", batch_size=7)
  np.testing.assert_array_equal(other.ids, np.sort(IDS))
  close(other.logits, CACHE.logits)


@pytest.mark.parametrize("k", [None, 2], ids=["whole", "top 2"])
def test_an_unknown_name_gets_no_neighbours_targets(k):
  unknown = np.setdiff1d(np.arange(1000), IDS)[[0, 100, -1]]
  names = np.int32([unknown[0], IDS[3], unknown[1], unknown[2], 5000])
  found = asked(caches.cached(CACHE if k is None else caches.top_k(CACHE, k)), names, names)
  for out in found:
    assert np.isfinite(out.logits[1]).all() and np.isnan(out.logits[np.array([0, 2, 3, 4])]).all()
    assert np.isfinite(out.embedding[1]).all() and np.isnan(out.embedding[np.array([0, 2, 3, 4])]).all()


def test_other_data_and_other_teachers_are_refused_in_one_line():
  caches.cached(CACHE, data="pixels", teacher_hash="two")
  for wanted, words in (
    ({"data": "noise"}, "data pixels, and this is noise"),
    ({"teacher_hash": "one"}, "teacher two"),
  ):
    with pytest.raises(UserError, match=words) as error:
      caches.cached(CACHE, **wanted)
    assert "record them again" in str(error.value) and "\n" not in str(error.value)


def test_the_greatest_k_keep_their_log_probabilities_and_the_rest_is_shared_evenly():
  found = asked(caches.cached(caches.top_k(CACHE, 2)), np.arange(N))
  whole = asked(caches.cached(CACHE), np.arange(N))
  for mine, theirs in zip(found, whole, strict=True):
    want = log_softmax(theirs.logits)
    for row in want:
      others = np.argsort(-row)[2:]
      row[others] = np.log(np.exp(row[others]).sum() / len(others))
    close(mine.logits, want)
    close(np.exp(np.asarray(mine.logits)).sum(-1), np.ones(N))
    assert mine.embedding.shape == (N, 0)


def test_all_but_one_class_is_exact():
  found = asked(caches.cached(caches.top_k(CACHE, CLASSES - 1)), np.arange(N))
  close(found[0].logits, log_softmax(asked(caches.cached(CACHE), np.arange(N))[0].logits))


def test_a_certain_teacher_stays_finite_when_cut():
  logits = np.zeros((2, 3), np.float32)
  logits[:, 1] = 200.0
  stored = caches.record(logits_teacher(logits), np.zeros((2, 1), np.float32), [0, 1], data="d", teacher_hash="t")
  found = caches.cached(caches.top_k(stored, 1))
  out = ask(found, jnp.zeros((2, 1)), jnp.int32([1, 0]))[0].logits
  assert np.isfinite(out).all()
  close(jax.nn.softmax(out), [[0, 1, 0]] * 2)


def test_positions_of_sequences_and_maps_are_cut_one_by_one():
  logits = RNG.normal(size=(4, 3, 2, CLASSES)).astype(np.float32)
  stored = caches.record(logits_teacher(logits), np.zeros((4, 1), np.float32), np.arange(4), data="d", teacher_hash="t")
  found = caches.cached(caches.top_k(stored, CLASSES - 1))
  out = ask(found, jnp.zeros((3, 1)), jnp.int32([2, 9, 0]))[0].logits
  close(out[np.array([0, 2])], log_softmax(logits[[2, 0]]))
  assert np.isnan(out[1]).all()


@pytest.mark.parametrize("k", [0, CLASSES, -1])
def test_k_must_leave_something_out(k):
  with pytest.raises(UserError, match=rf"top_k={k}: must lie in 1..4 for 5 classes"):
    caches.top_k(CACHE, k)


def test_a_cut_cache_is_not_cut_again():
  with pytest.raises(UserError, match="cut a whole one"):
    caches.top_k(caches.top_k(CACHE, 3), 2)


def test_bytes_are_those_of_what_is_stored():
  """Of float32 logits and embeddings; cut ones are k values, k class numbers and one rest."""
  width = CACHE.embedding.shape[-1]
  whole, cut = caches.cached(CACHE), caches.cached(caches.top_k(CACHE, 2))
  names = 4 * N
  assert whole.nbytes == 2 * N * (CLASSES + width) * 4 + names
  assert cut.nbytes == 2 * N * (2 * 2 + 1) * 4 + names
  for teacher in (whole, cut):
    assert teacher.nbytes == sum(leaf.nbytes for leaf in jax.tree.leaves(teacher.arrays))
  assert (whole.name, cut.name) == ("cached", "cached top 2")
  logits = caches.record(ONLINE, X, IDS, data="pixels", teacher_hash="two", embedding=False)
  assert logits.embedding is None and caches.cached(logits).nbytes == 2 * N * CLASSES * 4 + names


@pytest.mark.parametrize("k", [None, 3], ids=["whole", "top 3"])
def test_a_file_holds_all_of_it(tmp_path, k):
  stored = CACHE if k is None else caches.top_k(CACHE, k)
  caches.save(stored, tmp_path / "sub" / "targets.npz")
  back = caches.load(tmp_path / "sub" / "targets.npz")
  for name, value in stored._asdict().items():
    np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
  assert type(back.data) is str and type(back.num_classes) is int
  rows = np.array([4, 0, 7])
  jax.tree.map(np.testing.assert_array_equal, asked(caches.cached(back), rows), asked(caches.cached(stored), rows))


def test_files_that_are_no_cache_are_refused(tmp_path):
  path = tmp_path / "targets.npz"
  with pytest.raises(UserError, match=r"targets\.npz"):
    caches.load(path)
  np.savez(path, logits=np.zeros((1, 2, 3)), ids=np.arange(2))
  with pytest.raises(UserError, match=r"holds no cached targets \(data, num_classes, teacher missing\)"):
    caches.load(path)
  path.write_bytes(b"PK no archive")
  with pytest.raises(UserError, match=r"targets\.npz"):
    caches.load(path)


def test_names_must_differ_and_logits_be_finite():
  with pytest.raises(UserError, match="name occurs twice"):
    caches.record(ONLINE, X, np.zeros(N, np.int32), data="d", teacher_hash="t")
  with pytest.raises(UserError, match="not all finite"):
    caches.record(
      logits_teacher([[0.0, np.nan]]), np.zeros((1, 1), np.float32), np.array([0]), data="d", teacher_hash="t"
    )
