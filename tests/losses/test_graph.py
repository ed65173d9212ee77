"""Token graphs against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import graph

RNG = np.random.default_rng(6)
S, T = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 4))
WHERE = np.array([1, 1, 0, 1, 1, 0], bool)


def reference_affinity(x, k, sigma=None):
  squared = ((x[:, None] - x[None]) ** 2).sum(-1)
  sigma = np.median(squared[~np.eye(len(x), dtype=bool)]) if sigma is None else sigma
  affinity = np.zeros_like(squared)
  for j in range(len(x)):
    order = [i for i in np.argsort(squared[:, j], kind="stable") if i != j]
    for i in order[:k]:
      affinity[i, j] = np.exp(-squared[i, j] / (2 * sigma))
  return affinity


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def reference_local(a, b):
  p, q = softmax(a), softmax(b)
  return (p * np.log(p / q)).sum(1)


@pytest.mark.parametrize("sigma", [None, 0.7])
def test_affinity(x64, sigma):
  got = jax.jit(lambda x: graph.knn_affinity(x, k=2, sigma=sigma))
  np.testing.assert_allclose(got(jnp.asarray(S)), reference_affinity(S, 2, sigma), rtol=1e-10)
  product = jax.jit(lambda x: graph.knn_affinity(x, k=2, sigma=sigma, exact=False))(jnp.asarray(S))
  np.testing.assert_allclose(product, reference_affinity(S, 2, sigma), rtol=1e-9)
  if sigma is not None:
    check_grads(got, (jnp.asarray(S),), order=1, modes=["rev"])
  else:
    np.testing.assert_allclose(got(jnp.asarray(100 * S + 3)), got(jnp.asarray(S)), rtol=1e-8)
    squared = ((S[:, None] - S[None]) ** 2).sum(-1)[~np.eye(6, dtype=bool)]
    fixed = jax.grad(lambda x: graph.knn_affinity(x, k=2, sigma=float(np.median(squared))).sum())
    gradient = jax.grad(lambda x: got(x).sum())(jnp.asarray(S))
    np.testing.assert_allclose(gradient, fixed(jnp.asarray(S)), rtol=1e-8)  # none through the median


def test_affinity_literal_numbers():
  # 0, 1, 3 on a line with k = 1: 0 and 1 choose each other, 3 chooses 1, so row 1 holds 3's edge
  got = graph.knn_affinity(jnp.array([[0.0], [1.0], [3.0]]), k=1, sigma=2.0)
  near, far = np.exp(-1 / 4), np.exp(-4 / 4)
  np.testing.assert_allclose(got, [[0, near, 0], [near, 0, far], [0, 0, 0]], rtol=1e-6)


def test_affinity_of_coinciding_tokens_and_mask(x64):
  garbage = jnp.asarray(np.where(WHERE[:, None], S, np.nan))
  affinity = jax.jit(lambda x, where: graph.knn_affinity(x, k=2, where=where))
  value, gradient = jax.jit(jax.value_and_grad(lambda x, where: affinity(x, where).sum()))(jnp.zeros((6, 3)), WHERE)
  assert value == 8 and not gradient.any()

  def got(x):
    return affinity(x, WHERE)

  np.testing.assert_allclose(got(garbage)[np.ix_(WHERE, WHERE)], reference_affinity(S[WHERE], 2), rtol=1e-10)
  assert not got(garbage)[~WHERE].any() and not got(garbage)[:, ~WHERE].any()
  gradient = jax.jit(jax.grad(lambda x, where: affinity(x, where).sum()))(garbage, WHERE)
  assert np.isfinite(gradient).all() and not gradient[~WHERE].any() and gradient[WHERE].any()


def test_local_preserving(x64):
  a, b = reference_affinity(S, 2), reference_affinity(T, 2)
  loss = jax.jit(graph.local_preserving_loss, static_argnames="direction")
  np.testing.assert_allclose(loss(jnp.asarray(a), jnp.asarray(b)), reference_local(a, b), rtol=1e-9)
  reverse = loss(jnp.asarray(a), jnp.asarray(b), direction="teacher_student")
  np.testing.assert_allclose(reverse, reference_local(b, a), rtol=1e-9)
  np.testing.assert_allclose(loss(jnp.asarray(a), jnp.asarray(a)), 0, atol=1e-15)
  check_grads(lambda a: loss(a, jnp.asarray(b)), (jnp.asarray(a),), order=1, modes=["rev"])
  assert not jax.grad(lambda b: loss(jnp.asarray(a), b).sum())(jnp.asarray(b)).any()
  keep = np.ix_(WHERE, WHERE)
  masked = loss(jnp.asarray(a), jnp.asarray(b), where=jnp.asarray(WHERE))
  np.testing.assert_allclose(masked[WHERE], reference_local(a[keep], b[keep]), rtol=1e-9)
  empty = jax.jit(jax.value_and_grad(lambda a: loss(a, jnp.asarray(b), where=jnp.zeros(6, bool)).sum()))
  nothing, gradient = empty(jnp.asarray(a))
  assert not masked[~WHERE].any() and nothing == 0 and not gradient.any()


def test_local_preserving_literal_number():
  # rows (log 2, 0) against (0, 0): (2/3, 1/3) against (1/2, 1/2)
  a = jnp.array([[np.log(2.0), 0.0], [0.0, 0.0]])
  want = 2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)
  np.testing.assert_allclose(graph.local_preserving_loss(a, jnp.zeros((2, 2))), [want, 0], rtol=1e-5, atol=1e-8)


def test_token_info_nce(x64):
  t = jnp.asarray(T[:, :3])
  a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (S, T[:, :3]))
  loss = jax.jit(lambda s, t, where=None: graph.token_info_nce(s, t, temperature=0.5, where=where))
  np.testing.assert_allclose(loss(jnp.asarray(S), t), -np.log(np.diag(softmax(a @ b.T / 0.5))), rtol=1e-9)
  part = -np.log(np.diag(softmax(a[WHERE] @ b[WHERE].T / 0.5)))
  np.testing.assert_allclose(loss(jnp.asarray(S), t, jnp.asarray(WHERE))[WHERE], part, rtol=1e-9)
  assert not jax.grad(lambda t: loss(jnp.asarray(S), t).sum())(t).any()
  check_grads(lambda s: loss(s, t), (jnp.asarray(S),), order=1, modes=["rev"])
  # a scheduled temperature is a traced number
  scheduled = jax.jit(lambda temperature: graph.token_info_nce(jnp.asarray(S), t, temperature=temperature))(0.5)
  np.testing.assert_allclose(scheduled, loss(jnp.asarray(S), t), rtol=1e-9)


def test_contextual_similarity(x64):
  s, t = S.reshape(2, 3, 3), T.reshape(2, 3, 4)
  want = [((softmax(a @ a.T / 3**0.5) - softmax(b @ b.T / 2)) ** 2).mean() for a, b in zip(s, t, strict=True)]
  loss = jax.jit(graph.contextual_similarity_loss)
  np.testing.assert_allclose(loss(jnp.asarray(s), jnp.asarray(t)), want, rtol=1e-10)
  check_grads(lambda s: loss(s, jnp.asarray(t)), (jnp.asarray(s),), order=1, modes=["rev"])
  assert not jax.grad(lambda t: loss(jnp.asarray(s), t).sum())(jnp.asarray(t)).any()
  # one axis, tokens 0 and 1: the softmax of (0, 0) and of (0, 1) against uniform rows
  two = graph.contextual_similarity_loss(jnp.array([[[0.0], [1.0]]]), jnp.zeros((1, 2, 1)))
  np.testing.assert_allclose(two, [2 * (1 / (1 + np.exp(-1.0)) - 0.5) ** 2 / 4], rtol=1e-10)


def test_rotating_the_students_tokens_changes_nothing(x64):
  rotation = jnp.asarray(np.linalg.qr(RNG.normal(size=(3, 3)))[0])
  s, t = jnp.asarray(S), jnp.asarray(T)

  @jax.jit
  def terms(s):
    local = graph.local_preserving_loss(graph.knn_affinity(s, k=2), graph.knn_affinity(t, k=2))
    return local, graph.contextual_similarity_loss(s.reshape(2, 3, 3), t.reshape(2, 3, 4))

  for turned, plain in zip(terms(s @ rotation), terms(s), strict=True):
    np.testing.assert_allclose(turned, plain, rtol=1e-8)


def test_bfloat16():
  @jax.jit
  def terms(s, t):
    affinity = graph.knn_affinity(s, k=2)
    nce = graph.token_info_nce(s, t[:, :3], temperature=0.1)
    inner = graph.contextual_similarity_loss(s.reshape(2, 3, 3), t.reshape(2, 3, 4))
    return affinity, graph.local_preserving_loss(affinity, graph.knn_affinity(t, k=2)), nce, inner

  for value in terms(jnp.asarray(S * 1e4, jnp.bfloat16), jnp.float32(T)):
    assert value.dtype == jnp.float32 and bool(jnp.isfinite(value).all())


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: graph.knn_affinity(jnp.zeros((3, 2)), k=3), "k must be"),
    (lambda: graph.knn_affinity(jnp.zeros((3, 2)), k=1, sigma=0.0), "sigma must be > 0"),
    (lambda: graph.local_preserving_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3))), "square"),
    (lambda: graph.local_preserving_loss(jnp.zeros((1, 1)), jnp.zeros((1, 1))), "at least 2"),
    (lambda: graph.local_preserving_loss(jnp.zeros((2, 2)), jnp.zeros((3, 3))), "local_preserving_loss"),
    (lambda: graph.local_preserving_loss(jnp.zeros((2, 2)), jnp.zeros((2, 2)), direction="up"), "direction must be"),
    (lambda: graph.token_info_nce(jnp.zeros((2, 3)), jnp.zeros((2, 4)), temperature=1.0), "token_info_nce"),
    (lambda: graph.token_info_nce(jnp.zeros((1, 3)), jnp.zeros((1, 3)), temperature=1.0), "at least 2"),
    (lambda: graph.token_info_nce(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=0.0), "temperature must be"),
    (lambda: graph.contextual_similarity_loss(jnp.zeros((2, 3, 1)), jnp.zeros((2, 4, 1))), "same number of tokens"),
    (lambda: graph.contextual_similarity_loss(jnp.zeros((2, 1, 1)), jnp.zeros((2, 1, 1))), "at least two"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
