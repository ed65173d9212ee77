"""Kinds of stored labels: replayed they are what the teacher says of these pixels, as far as the kind keeps it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment, losses, models
from jdistill.base import Batch, UserError
from jdistill.data.policies import shuffle
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.knowledge.logits import stored_labels, two_distances
from jdistill.methods.knowledge.recipe import StepOutputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers import codecs, fkd
from jdistill.teachers.frozen import averaged, committee

RNG = np.random.default_rng(0)
N, B, SHAPE, CLASSES, EPOCHS, T = 12, 4, (4, 4, 1), 6, 2, 20.0
EXAMPLES = Batch(
  np.float32(RNG.normal(size=(N, *SHAPE))), np.int32(np.arange(N) % CLASSES), np.int32(RNG.permutation(90)[:N])
)
AUGMENT = augment.compose(augment.flip(), augment.cutmix())
NETWORK = models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, widths=(6,))
PAIR = committee([NETWORK] * 2, [NETWORK.init(jax.random.key(i)) for i in range(2)])
TEACHER = averaged(PAIR, [0.3, 0.7])
CODECS = {
  "float16": codecs.full(),
  "float32": codecs.full("float32"),
  "top_k": codecs.top_k(2, num_classes=CLASSES, temperature=T),
  "dbr": codecs.two_scalars(temperature=2.0),
}


@functools.cache
def records(store, aug=AUGMENT, teacher=TEACHER):
  how = {"epochs": EPOCHS, "augment": aug, "data": "d", "teacher_hash": "t"}
  if store == "low_rank":
    return fkd.low_rank(records("float32"), 2)
  return fkd.record(teacher, EXAMPLES, shuffle(N, B), jax.random.key(0), codec=CODECS[store], **how)


def replayed(stored, step):
  """`(batch, augmentation record, what the store gives, what the teacher says now)` of a step."""
  source, at = fkd.replayed(stored), jnp.int32(step)
  batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[stored.index[step]]), EXAMPLES)
  drawn = source.replay(source.arrays, at)
  seen = batch._replace(x=AUGMENT.apply(drawn, batch.x))
  found = source.targets(source.arrays, jax.random.key(0), seen, drawn, at)[0]
  return batch, drawn, found, np.asarray(TEACHER.targets(TEACHER.arrays, jax.random.key(0), seen, drawn, at)[0].logits)


def log_softmax(z):
  z = np.float64(z)
  return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


@pytest.mark.parametrize("store", [*CODECS, "low_rank"])
def test_what_is_replayed_is_what_was_stored(store, tmp_path):
  """In memory and from the file, bit for bit; and its bytes are those on the disk."""
  stored, path = records(store), tmp_path / "records.npz"
  fkd.save(stored, path)
  loaded = fkd.load(path, AUGMENT)
  assert loaded.store == store and jax.tree.structure(loaded) == jax.tree.structure(stored)
  jax.tree.map(np.testing.assert_array_equal, loaded, stored)
  for step in range(0, len(stored.index), 2):
    _, _, found, _ = replayed(stored, step)
    np.testing.assert_array_equal(found.logits, replayed(loaded, step)[2].logits)
  assert 0 < path.stat().st_size - stored.nbytes < 6000  # names and headers of at most twenty arrays
  labels = sum(leaf.nbytes for leaf in jax.tree.leaves((stored.labels, stored.shared)))
  rows = EPOCHS * 3 * B
  want = {
    "float16": 2 * CLASSES * rows,
    "float32": 4 * CLASSES * rows,
    "top_k": rows * (2 * 2 + 2 + 2),
    "dbr": 4 * rows,
  }
  assert labels == (want | {"low_rank": 2 * 2 * rows + 4 * 2 * CLASSES})[store]


def test_float32_and_float16_are_the_teachers_logits():
  for store, tolerance in (("float32", 1e-5), ("float16", 2**-10)):
    for step in range(0, EPOCHS * 3, 2):
      _, _, found, now = replayed(records(store), step)
      np.testing.assert_allclose(found.logits, now, rtol=tolerance, atol=tolerance / 10)


def test_the_greatest_probabilities_are_exact_at_the_temperature():
  for step in range(0, EPOCHS * 3, 2):
    _, _, found, now = replayed(records("top_k"), step)
    got, want = log_softmax(found.logits / T), log_softmax(now / T)
    order = np.argsort(-now, axis=1)
    top, rest = order[:, :2], order[:, 2:]
    # values near 1 in float16, divided by T
    np.testing.assert_allclose(*(np.take_along_axis(p, top, 1) for p in (got, want)), atol=2**-10 / T)
    mass = [np.exp(np.take_along_axis(p, rest, 1)) for p in (got, want)]
    np.testing.assert_allclose(mass[0], np.broadcast_to(mass[1].mean(1, keepdims=True), mass[0].shape), rtol=1e-3)


def test_all_directions_lose_nothing_and_few_are_the_best():
  whole = records("float32")
  centred = whole.logits - whole.logits.mean(-1, keepdims=True)
  for rank in (1, 3, CLASSES - 1):
    coordinates, basis = codecs.low_rank_arrays(whole.logits, rank)
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-6)
    error = np.sum((np.float64(coordinates) @ basis - centred) ** 2)
    values = np.linalg.svd(np.float64(centred).reshape(-1, CLASSES), compute_uv=False)
    np.testing.assert_allclose(error, np.sum(values[rank:] ** 2), rtol=1e-2, atol=1e-4)  # coordinates in float16


def test_two_distances_are_those_to_both_classes():
  for step in range(0, EPOCHS * 3, 2):
    batch, drawn, found, now = replayed(records("dbr"), step)
    mix = augment.mixed(drawn)
    pasted = np.asarray(batch.y)[np.asarray(mix.partner)]
    want = -log_softmax(now / 2)[np.arange(B)[:, None], np.stack([batch.y, pasted], 1)]
    np.testing.assert_allclose(found.logits, want, rtol=2**-10)
    np.testing.assert_array_equal(found.taps["pasted"], pasted)
    np.testing.assert_array_equal(found.taps["share"], np.full(B, mix.share))
  y, share = codecs.partner_labels(batch.y, (drawn[0],))  # nothing is mixed
  np.testing.assert_array_equal(y, batch.y)
  assert share == 1


def test_students_of_two_distances():
  """The loss is that of NumPy, and the same student learns nothing from a record that it already fulfils but labels."""
  stored, step = records("dbr"), 1
  source = fkd.replayed(stored)
  method = student_method(
    NETWORK, two_distances(2.0, 0.5), optimizer=make_optimizer("sgd", 0.1), augment=AUGMENT,
    targets=source.targets, replay=source.replay,
  )  # fmt: skip
  batch, drawn, found, _ = replayed(stored, step)
  start = NETWORK.init(jax.random.key(7))
  given = StudentInput(batch, jnp.int32(step), jnp.float32(0), targets=source.arrays, start=start)
  _, metrics = jax.jit(method.step)(jax.random.key(0), method.init(jax.random.key(0), given), given)
  p = log_softmax(NETWORK.apply(start.params, AUGMENT.apply(drawn, batch.x)).logits)
  rows, pasted, share = np.arange(B), np.asarray(found.taps["pasted"]), float(found.taps["share"][0])
  want = -share * p[rows, batch.y] - (1 - share) * p[rows, pasted]
  np.testing.assert_allclose(metrics["loss/ce"], want.mean(), rtol=1e-5)
  z = np.float64(NETWORK.apply(start.params, AUGMENT.apply(drawn, batch.x)).logits) / 2
  own = -log_softmax(z)[rows[:, None], np.stack([batch.y, pasted], 1)]
  gaps = np.abs(own - np.float64(found.logits)).sum(1)
  np.testing.assert_allclose(metrics["loss/dbr"], gaps.mean(), rtol=1e-4)
  np.testing.assert_allclose(losses.dbr_loss(2 * z, found.logits, batch.y, pasted, temperature=2.0, norm="squared"),
                             ((own - np.float64(found.logits)) ** 2).sum(1), rtol=1e-4)  # fmt: skip
  assert stored_labels(T) is stored_labels(T) and stored_labels(T, 2).passes == 2


def test_two_distances_without_what_was_mixed_are_refused():
  stored, step = records("dbr"), 1
  batch, _, found, _ = replayed(stored, step)
  everywhere, rows, key = jnp.ones(B, bool), jnp.arange(B, dtype=jnp.int32), jax.random.key(0)
  others = {}, {}, (), (), everywhere, jnp.float32(0), key, rows
  view = StepOutputs(batch, found, (found._replace(taps={}),), *others)
  for term in two_distances(2.0, 0.5).terms.values():
    with pytest.raises(ValueError, match=r"'(share|pasted)' is missing.*relabel.store='one_hot' or 'dbr'"):
      term.value(view)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r"top_k=6: must lie in 1\.\.5 for 6 classes"):
    codecs.top_k(CLASSES, num_classes=CLASSES, temperature=1.0)
  with pytest.raises(UserError, match=r"rank=6: must lie in 1\.\.5"):
    fkd.low_rank(records("float32"), CLASSES)
  with pytest.raises(UserError, match="hold labels of kind 'dbr'"):
    fkd.low_rank(records("dbr"), 1)
  with pytest.raises(UserError, match="kind 'bits' is not known"):
    codecs.decoder("bits", 3)
  with pytest.raises(ValueError, match="dtype='int8'"):
    codecs.full("int8")
