"""Contrastive losses against loops in NumPy; CRD step by step, with its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import contrastive

RNG = np.random.default_rng(5)
A, B = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
WHERE = np.array([1, 0, 1, 1], bool)


def normalised(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference_info_nce(a, b, temperature):
  scores = np.exp(normalised(a) @ normalised(b).T / temperature)
  return -np.log(np.diag(scores) / scores.sum(1))


def reference_nt_xent(a, b, temperature):
  views = normalised(np.concatenate([a, b]))
  n, losses = len(a), []
  for i in range(2 * n):
    scores = np.exp(views @ views[i] / temperature)
    losses.append(-np.log(scores[(i + n) % (2 * n)] / (scores.sum() - scores[i])))
  return np.array(losses)


@pytest.mark.parametrize(
  "loss, reference",
  [(contrastive.info_nce, reference_info_nce), (contrastive.nt_xent, reference_nt_xent)],
)
def test_batch_losses_equal_numpy(x64, loss, reference):
  a, b = jnp.asarray(A), jnp.asarray(B)
  got = jax.jit(lambda a, b, where=None: loss(a, b, temperature=0.3, where=where))
  np.testing.assert_allclose(got(a, b), reference(A, B, 0.3), rtol=1e-10)
  np.testing.assert_allclose(got(7 * a, 0.1 * b), got(a, b), rtol=1e-10)
  check_grads(got, (a, b), order=1, modes=["rev"])
  # the mask is a slice, whatever the excluded rows hold
  garbage = jnp.asarray(np.where(WHERE[:, None], A, np.nan))
  mask = np.tile(WHERE, got(a, b).size // 4)
  value = got(garbage, b, WHERE)
  np.testing.assert_allclose(value[mask], reference(A[WHERE], B[WHERE], 0.3), rtol=1e-10)
  gradient = jax.jit(jax.grad(lambda a: got(a, b, WHERE).sum()))(garbage)
  assert not value[~mask].any() and not gradient[~WHERE].any() and np.isfinite(gradient).all()


def test_literal_numbers():
  # orthogonal pairs at temperature 1: own partner e, the other 1 (twice in nt_xent)
  x = jnp.eye(2)
  np.testing.assert_allclose(
    jax.jit(lambda x: contrastive.info_nce(x, x, temperature=1.0))(x), np.log(1 + np.exp(-1.0)), rtol=1e-6
  )
  np.testing.assert_allclose(
    jax.jit(lambda x: contrastive.nt_xent(x, x, temperature=1.0))(x), np.log(1 + 2 * np.exp(-1.0)), rtol=1e-6
  )
  np.testing.assert_allclose(
    jax.jit(lambda x: contrastive.crd_inbatch(x, x, temperature=1.0))(x), np.log(1 + 2 * np.exp(-1.0)), rtol=1e-6
  )


def test_limits():
  a, b, every = jnp.float32(A), jnp.float32(B), jnp.ones(4)
  info_nce = jax.jit(lambda a, b, t, where: contrastive.info_nce(a, b, temperature=t, where=where))
  nt_xent = jax.jit(lambda a, b, t: contrastive.nt_xent(a, b, temperature=t))
  np.testing.assert_allclose(info_nce(a, b, 1e9, every), np.log(4), rtol=1e-5)
  np.testing.assert_allclose(nt_xent(a, b, 1e9), np.log(7), rtol=1e-5)
  np.testing.assert_allclose(info_nce(a, a, 1e-3, every), 0, atol=1e-3)
  np.testing.assert_array_equal(info_nce(a, b, 0.1, jnp.zeros(4)), 0)
  value, gradient = jax.jit(jax.value_and_grad(lambda a: nt_xent(a, b, 0.1).sum()))(jnp.zeros((4, 3)))
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_crd_inbatch_is_the_mean_of_both_directions(x64):
  both = reference_nt_xent(A, B, 0.07)
  got = jax.jit(contrastive.crd_inbatch)(jnp.asarray(A), jnp.asarray(B))
  np.testing.assert_allclose(got, (both[:4] + both[4:]) / 2, rtol=1e-10)


class NumpyCRD:
  """The method as its formulas say, with probabilities instead of logarithms."""

  def __init__(self, bank_s, bank_t, temperature):
    self.banks, self.z, self.temperature = [bank_s.copy(), bank_t.copy()], [None, None], temperature

  def __call__(self, student, teacher, indices, negatives):
    size, k = len(self.banks[0]), negatives.shape[1]
    loss, vectors = np.zeros(len(indices)), [normalised(student), normalised(teacher)]
    for side in (0, 1):
      other = self.banks[1 - side]
      ids = np.concatenate([indices[:, None], negatives], axis=1)
      s = np.exp(np.einsum("bd,bkd->bk", vectors[side], other[ids]) / self.temperature)
      if self.z[side] is None:
        self.z[side] = s.mean() * size
      s = s / self.z[side]
      loss -= np.log(s[:, 0] / (s[:, 0] + k / size)) + np.log((k / size) / (s[:, 1:] + k / size)).sum(1)
    for side in (0, 1):
      self.banks[side][indices] = normalised(0.5 * self.banks[side][indices] + 0.5 * vectors[side])
    return loss


def crd_example(size=9, k=5):
  state = contrastive.crd_init(jax.random.key(0), size, features=3)
  state = jax.tree.map(lambda x: x.astype(jnp.float64), state)
  batches = [
    (RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)), RNG.permutation(size)[:4], RNG.integers(0, size, (4, k)))
    for _ in range(2)
  ]
  return state, batches


@pytest.mark.parametrize("size, k", [(9, 5), (12, 2)])  # all scores at once; gathered rows
def test_crd_equals_numpy_over_two_steps(x64, size, k):
  state, batches = crd_example(size, k)
  step = jax.jit(contrastive.crd_loss)
  reference = NumpyCRD(np.asarray(state.bank_s), np.asarray(state.bank_t), 0.07)
  assert np.isneginf(state.log_z_s)
  for student, teacher, indices, negatives in batches:
    loss, state = step(state, *map(jnp.asarray, (student, teacher, indices, negatives)))
    np.testing.assert_allclose(loss, reference(student, teacher, indices, negatives), rtol=1e-9)
    np.testing.assert_allclose(np.exp([state.log_z_s, state.log_z_t]), reference.z, rtol=1e-9)
    np.testing.assert_allclose(state.bank_s, reference.banks[0], rtol=1e-9)
    np.testing.assert_allclose(state.bank_t, reference.banks[1], rtol=1e-9)


def test_crd_literal_number():
  # N = K = 1 with equal directions everywhere: s = e / e = 1 and the noise is 1, so each of four terms is log 2
  one = jnp.array([[1.0, 0.0]])
  state = contrastive.CRDState(one, one, jnp.float32(-jnp.inf), jnp.float32(-jnp.inf))
  step = jax.jit(lambda *a: contrastive.crd_loss(*a, temperature=1.0))
  loss, new = step(state, one, one, jnp.array([0]), jnp.array([[0]]))
  np.testing.assert_allclose(loss, [4 * np.log(2)], rtol=1e-6)
  np.testing.assert_allclose([new.log_z_s, new.log_z_t], 1.0, rtol=1e-6)


def test_crd_gradients(x64):
  state, ((student, teacher, indices, negatives), _) = crd_example()
  step = jax.jit(contrastive.crd_loss)
  _, state = step(state, *map(jnp.asarray, (student, teacher, indices, negatives)))

  def loss(student, teacher):
    return step(state, student, teacher, jnp.asarray(indices), jnp.asarray(negatives))[0]

  check_grads(loss, (jnp.asarray(student), jnp.asarray(teacher)), order=1, modes=["rev"])

  def remembered(student, teacher, state):
    new = step(state, student, teacher, jnp.asarray(indices), jnp.asarray(negatives))[1]
    return sum(jnp.sum(x) for x in jax.tree.leaves(new))

  first = state._replace(log_z_s=jnp.float64(-jnp.inf), log_z_t=jnp.float64(-jnp.inf))
  gradients = jax.jit(jax.grad(remembered, argnums=(0, 1)))(jnp.asarray(student), jnp.asarray(teacher), first)
  assert not any(np.any(g) for g in gradients)  # nothing that is remembered carries a gradient to the next step


def test_crd_mask_is_slice(x64):
  state, ((student, teacher, indices, negatives), _) = crd_example()
  indices = np.where(WHERE, indices, indices[0])  # padding repeats an index
  garbage = jnp.asarray(np.where(WHERE[:, None], student, np.nan))
  step = jax.jit(contrastive.crd_loss)
  rest = tuple(map(jnp.asarray, (teacher, indices, negatives)))
  loss, new = step(state, garbage, *rest, where=jnp.asarray(WHERE))
  want, want_new = step(state, *(jnp.asarray(x)[WHERE] for x in (student, *rest)))
  np.testing.assert_allclose(loss[WHERE], want, rtol=1e-10)
  assert loss[1] == 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), new, want_new)
  gradient = jax.jit(jax.grad(lambda s, w: contrastive.crd_loss(state, s, *rest, where=w)[0].sum()))
  assert np.isfinite(gradient(garbage, jnp.asarray(WHERE))).all() and not gradient(garbage, jnp.asarray(WHERE))[1].any()
  empty, unchanged = step(state, garbage, *rest, where=jnp.zeros(4, bool))
  assert not empty.any() and not gradient(garbage, jnp.zeros(4, bool)).any()
  jax.tree.map(np.testing.assert_array_equal, unchanged, state)


def test_crd_state_and_low_temperature():
  state = contrastive.crd_init(jax.random.key(1), 500, features=12)
  assert state.bank_s.dtype == jnp.float32 and not np.array_equal(state.bank_s, state.bank_t)
  assert np.abs(state.bank_s).max() <= 0.5 and np.abs(state.bank_s).max() > 0.49
  np.testing.assert_allclose(np.mean(np.linalg.norm(state.bank_s, axis=1) ** 2), 1, atol=0.05)
  x = jnp.asarray(RNG.normal(size=(2, 12)), jnp.bfloat16)
  ids = (jnp.array([3, 7]), jnp.array([[1, 2, 4], [5, 6, 8]]))
  step = jax.jit(lambda *a: contrastive.crd_loss(*a, temperature=1e-3))  # exp(1000) is beyond float32
  loss, new = step(state, x, x * 100, *ids)
  assert loss.dtype == jnp.float32 and bool(jnp.isfinite(loss).all())
  assert all(np.isfinite(leaf).all() for leaf in new)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_crd_negatives_are_uniform_over_the_other_classes():
  train_labels = np.array([2, 0, 1, 1, 2, 0, 1])
  drawn = contrastive.crd_negatives(jax.random.key(0), jnp.array([1, 0, 2, 1]), jnp.asarray(train_labels), 3000)
  assert drawn.shape == (4, 3000) and drawn.dtype == jnp.int32
  for row, label in zip(np.asarray(drawn), [1, 0, 2, 1], strict=True):
    share = np.bincount(row, minlength=7) / 3000
    others = train_labels != label
    np.testing.assert_array_equal(share[~others], 0)
    np.testing.assert_allclose(share[others], 1 / others.sum(), atol=0.04)


def test_crd_negatives_come_from_what_may_be_drawn():
  train_labels, where = np.array([2, 0, 1, 1, 2, 0, 1]), np.array([1, 0, 1, 0, 1, 1, 1], bool)
  key, labels = jax.random.key(0), np.array([1, 0, 2])
  drawn = contrastive.crd_negatives(key, jnp.asarray(labels), jnp.asarray(train_labels), 1000, where=jnp.asarray(where))
  for row, label in zip(np.asarray(drawn), labels, strict=True):
    share, others = np.bincount(row, minlength=7) / 1000, where & (train_labels != label)
    np.testing.assert_array_equal(share[~others], 0)
    np.testing.assert_allclose(share[others], 1 / others.sum(), atol=0.06)


IDS = (jnp.zeros(2, int), jnp.zeros((2, 3), int))


def crd_with(student=(2, 4), teacher=(2, 4), indices=IDS[0], negatives=IDS[1], **options):
  state = contrastive.crd_init(jax.random.key(0), 5, features=4)
  return contrastive.crd_loss(state, jnp.zeros(student), jnp.zeros(teacher), indices, negatives, **options)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: contrastive.info_nce(jnp.zeros((1, 3)), jnp.zeros((1, 3)), temperature=1.0), "at least 2"),
    (lambda: contrastive.info_nce(jnp.zeros((2, 3)), jnp.zeros((3, 3)), temperature=1.0), "info_nce"),
    (lambda: contrastive.nt_xent(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=0.0), "temperature must be > 0"),
    (lambda: contrastive.nt_xent(jnp.zeros(2), jnp.zeros(2), temperature=1.0), "nt_xent.*first"),
    (
      lambda: contrastive.info_nce(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=1.0, where=jnp.ones(3)),
      "where must have",
    ),
    (lambda: contrastive.crd_init(jax.random.key(0), 0), "at least 1"),
    (lambda: crd_with(temperature=-1.0), "temperature must be > 0"),
    (lambda: crd_with(teacher=(2, 3)), "crd_loss"),
    (lambda: crd_with(student=(2, 3), teacher=(2, 3)), "differ in width"),
    (lambda: crd_with(indices=jnp.zeros(2)), "indices must be integers"),
    (lambda: crd_with(negatives=jnp.zeros((3, 3), int)), "negatives must be integers"),
    (lambda: crd_with(momentum=1.5), "momentum must be"),
    (lambda: contrastive.crd_negatives(jax.random.key(0), jnp.zeros(2), IDS[0], 3), "vector of integers"),
    (lambda: contrastive.crd_negatives(jax.random.key(0), IDS[0], IDS[0], 0), "count must be"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
