"""SSLD: its divergences in NumPy float64, what the teacher mines, and which examples an epoch sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import Epoch, Look, StepOutputs, student_method
from jdistill.methods.knowledge.ssld import mined, order, ssld
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

RNG = np.random.default_rng(8)
STUDENT, TEACHER = RNG.normal(size=(5, 4)), 2 * RNG.normal(size=(5, 4))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def kl(p, q):
  return (p * np.log(p / q)).sum(-1)


def view(labels):
  out = [Outputs(jnp.float32(z), jnp.zeros((5, 2))) for z in (STUDENT, TEACHER)]
  batch = Batch(jnp.zeros((5, 1)), jnp.int32(labels), jnp.arange(5, dtype=jnp.int32))
  return StepOutputs(
    batch=batch, student=out[0], teachers=(out[1],), connectors={}, params={}, memory=(), constants=(),
    where=jnp.ones(5, bool), epoch=jnp.float32(0), key=jax.random.key(0), rows=batch.ids,
  )  # fmt: skip


S, T = softmax(STUDENT), softmax(TEACHER)
WANT = {
  "js": (kl(S, (S + T) / 2) + kl(T, (S + T) / 2)) / 2,
  "jeffreys": (kl(S, T) + kl(T, S)) / 2,
  "soft_ce": -(T * np.log(S)).sum(-1),
  "kl": kl(T, S),
}


@pytest.mark.parametrize("divergence", WANT)
def test_the_divergences_do_not_read_labels(divergence):
  recipe = ssld(divergence=divergence)
  assert list(recipe.terms) == ["divergence"] and recipe.needs == ("teacher",)
  for labels in ([0, 1, 2, 3, 0], [-1] * 5):
    np.testing.assert_allclose(recipe.terms["divergence"].value(view(labels)), WANT[divergence], rtol=1e-5)


PROBABILITIES = np.array(
  [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.95, 0.05], [0.5, 0.5], [0.1, 0.9]], np.float32
)
LABELS = np.array([0, -1, -1, -1, -1, -1, 1])  # the likeliest of the pool: 4, 2 for class 0 and 1, 3 for class 1


@pytest.mark.parametrize(
  ("options", "want"),
  [
    ({"mine": "top_k", "per_class": 1}, [1, 4]),
    ({"mine": "top_k", "per_class": 2}, [1, 2, 3, 4]),
    ({"mine": "none", "per_class": 2}, []),
    ({"mine": "all", "per_class": 2}, [1, 2, 3, 4, 5]),
  ],
)
def test_mining(options, want):
  np.testing.assert_array_equal(np.flatnonzero(mined(PROBABILITIES, LABELS, **options)), want)


def test_random_mining_takes_as_many_of_the_pool():
  labels = np.where(np.arange(60) < 10, 0, -1)
  probabilities = RNG.dirichlet(np.ones(3), size=60)
  draws = [np.asarray(mined(probabilities, labels, mine="random", per_class=5, seed=seed)) for seed in (0, 0, 1)]
  count = np.asarray(mined(probabilities, labels, mine="top_k", per_class=5)).sum()
  assert [draw.sum() for draw in draws] == [count] * 3 and not draws[0][:10].any()
  assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_a_class_that_runs_short_is_named():
  with pytest.warns(UserWarning, match=r"pool has fewer than per_class=3 images for class 1 \(2\); all of them"):
    got = mined(PROBABILITIES, LABELS, mine="top_k", per_class=3, predicted_only=True)
  np.testing.assert_array_equal(np.flatnonzero(got), [1, 2, 3, 4, 5])


def epochs_order(keep_pool, batch_size=4, members=(0, 1, 2, 3, 4, 5, 6), junk=(4, 5)):
  data = Batch(
    jnp.zeros((7, 1)),
    jnp.int32(LABELS),
    jnp.arange(7, dtype=jnp.int32),
    extra={"junk": jnp.isin(jnp.arange(7), jnp.int32(junk))},
  )
  constants = jnp.isin(jnp.arange(7), jnp.int32(keep_pool)) if keep_pool else jnp.zeros(7, bool)
  look = Look(data, None, None, constants)
  return order(jax.random.key(3), jnp.int32(0), look, jnp.int32(members), batch_size)


def test_an_epoch_sees_labelled_and_mined_examples_only_and_fills_all_steps():
  got = epochs_order([1, 4])
  assert got.indices.shape == (2, 4) and got.mask.all()
  counts = np.bincount(got.indices.reshape(-1), minlength=7)
  np.testing.assert_array_equal(counts, [2, 2, 0, 0, 2, 0, 2])  # four examples, eight places
  np.testing.assert_allclose([float(got.metrics[k]) for k in ("selected", "mined", "junk")], [4 / 7, 2 / 5, 1 / 2])


def test_labelled_examples_alone():
  got = epochs_order([])
  np.testing.assert_array_equal(np.unique(got.indices), [0, 6])
  assert got.mask.all() and float(got.metrics["mined"]) == 0 and float(got.metrics["junk"]) == 0


def test_members_without_anything_to_train_on_leave_the_steps_empty():
  got = epochs_order([], members=(1, 2, 3))
  assert not got.mask.any() and float(got.metrics["selected"]) == 0


def test_only_what_is_kept_moves_the_student():
  """Examples that are left out may hold anything: the student is the same to the bit."""
  rng = np.random.default_rng(0)
  network = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(4,))
  x = rng.normal(size=(8, 2, 2, 1)).astype(np.float32)
  y = np.array([0, 1, 2, -1, -1, -1, -1, -1], np.int32)
  frozen = committee([network], [network.init(jax.random.key(5))])
  recipe = ssld(per_class=1)
  constants = recipe.prepare(frozen.outputs(frozen.arrays, jnp.asarray(x), None), jnp.asarray(y), frozen.arrays)
  out = np.flatnonzero((y < 0) & ~np.asarray(constants))
  assert 0 < len(out) < 5
  method = student_method(network, recipe, optimizer=make_optimizer("sgd", 0.5), batch_size=4, teacher=frozen.outputs)
  step = jax.jit(method.step)
  found = []
  for noise in (0.0, 100.0):
    other = x.copy()
    other[out] += noise
    data = Batch(jnp.asarray(other), jnp.asarray(y), jnp.arange(8, dtype=jnp.int32))
    epoch = Epoch(jnp.int32(0), data, data.ids, frozen.arrays, constants)
    state, logs = step(jax.random.key(2), method.init(jax.random.key(1), epoch), epoch)
    found.append(state.roles["student"].params)
    assert "loss/divergence" in logs and "order/mined" in logs
  jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"divergence": "tv"}, r"method.divergence='tv': unknown; choose one of js, jeffreys, soft_ce, kl"),
    ({"mine": "best"}, r"method.mine='best': unknown; choose one of top_k, random, none, all"),
    ({"per_class": 0}, r"method.per_class=0: give at least 1 image per class"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    ssld(**options)


def test_other_class_counts_are_refused():
  seen = view([0] * 5)
  seen = seen._replace(teachers=(Outputs(jnp.zeros((5, 3)), jnp.zeros((5, 2))),))
  with pytest.raises(ValueError, match="js_divergence"):
    ssld().terms["divergence"].value(seen)
