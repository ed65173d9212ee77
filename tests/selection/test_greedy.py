"""Greedy maximisation against sums written out in full, on sets small enough for that."""

import itertools

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import embeddings, k_center, objectives
from jdistill.selection.embeddings import Embedding
from jdistill.selection.greedy import maximise

RNG = np.random.default_rng


def factored(seed, n=30):
  return Embedding(RNG(seed).normal(size=(n, 3)), RNG(seed + 100).normal(size=(n, 4)))


def written_out(e):
  """The vectors of a factored embedding."""
  return np.concatenate([e.outer, np.einsum("nc,nd->ncd", e.outer, e.hidden).reshape(len(e.outer), -1)], axis=1)


def cosines(x):
  length = np.linalg.norm(x, axis=1)
  length[length == 0] = 1
  return 0.5 + 0.5 * (x / length[:, None]) @ (x / length[:, None]).T


def distances(x):
  return np.linalg.norm(x[:, None] - x[None], axis=-1)


def by_definition(value, n, count):
  """Greedy by the value of whole sets, of equal ones the first."""
  picked = []
  for _ in range(count):
    values = [-np.inf if i in picked else value([*picked, i]) for i in range(n)]
    picked.append(int(np.flatnonzero(values >= np.max(values) - 1e-9)[0]))
  return picked


def cut(s, lam=1.0):
  return lambda own: lam * s[:, own].sum() - (s[np.ix_(own, own)].sum() - s[own, own].sum())


def coverage(s):
  return lambda own: s[:, own].max(1).sum()


def quantization(x):
  """The paper's formula is a gain, not the value of a set."""
  far = distances(x) ** 2
  return lambda own: far[own[:-1], own[-1]].sum() - np.delete(far[own[-1]], own[:-1]).sum()


def cases(e, x):
  """`(objective, value of a set)` by name."""
  cosine = objectives.cosine_similarity(e)
  s, d = cosines(x), distances(x)
  return {
    "graph cut": (objectives.graph_cut(cosine), cut(s)),
    "graph cut, lam 3": (objectives.graph_cut(cosine, lam=3.0), cut(s, 3.0)),
    "graph cut of products": (objectives.graph_cut(objectives.product_similarity(e)), cut(x @ x.T)),
    "facility location": (objectives.facility_location(cosine), coverage(s)),
    "CRAIG": (objectives.facility_location(objectives.distance_similarity(e)), coverage(d.max() - d)),
    "paper's distances": (objectives.distance_cut(e), quantization(x)),
    "a row function": (objectives.graph_cut(objectives.row_similarity(len(x), lambda i: s[i])), cut(s)),
    "rows, coverage": (objectives.facility_location(objectives.row_similarity(len(x), lambda i: s[i])), coverage(s)),
  }


@pytest.mark.parametrize("name", cases(factored(0), written_out(factored(0))))
@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_the_definition(name, seed):
  for e in (factored(seed), embeddings.points(RNG(seed).normal(size=(30, 5)))):
    objective, value = cases(e, e.outer if e.hidden is None else written_out(e))[name]
    wanted = by_definition(value, 30, 12)
    for order in ("lazy", "naive"):
      assert maximise(objective, 12, order=order).index.tolist() == wanted, order
    # with as many random examples as there are, the stochastic order is the greedy one
    assert maximise(objective, 12, order="stochastic", rng=RNG(0), epsilon=1e-9).index.tolist() == wanted


def test_gains_are_differences_of_values():
  e = factored(1)
  for objective, value in list(cases(e, written_out(e)).values())[:4]:
    picked = maximise(objective, 6)
    steps = [value(picked.index[: k + 1].tolist()) - (value(picked.index[:k].tolist()) if k else 0) for k in range(6)]
    np.testing.assert_allclose(picked.gain, steps, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_and_what_is_kept_change_nothing(dtype, monkeypatch):
  e = Embedding(*(value.astype(dtype) for value in factored(2, 60)[:2]))
  make = lambda: objectives.facility_location(objectives.cosine_similarity(e))  # noqa: E731
  wanted = maximise(make(), 20)
  assert wanted.evaluated < 60 * 20 / 2  # lazily
  monkeypatch.setattr(objectives, "AT_ONCE", 130)
  monkeypatch.setattr(embeddings, "AT_ONCE", 200)
  for order in ("lazy", "naive"):
    np.testing.assert_array_equal(maximise(make(), 20, order=order).index, wanted.index)


@pytest.mark.parametrize("seed", range(5))
def test_facility_location_is_near_the_optimum(seed):
  s = cosines(RNG(seed).normal(size=(12, 3)))
  value = coverage(s)
  best = max(value(list(own)) for own in itertools.combinations(range(12), 3))
  for rows in (objectives.row_similarity(12, lambda i: s[i]),):
    found = value(maximise(objectives.facility_location(rows), 3).index.tolist())
    assert (1 - 1 / np.e) * best <= found <= best


def test_the_stochastic_order_looks_at_a_sample_and_comes_near():
  x = RNG(0).normal(size=(300, 4)) + 4 * np.eye(4)[np.arange(300) % 4]
  objective, value = (
    objectives.facility_location(objectives.cosine_similarity(embeddings.points(x))),
    coverage(cosines(x)),
  )
  greedy = value(maximise(objective, 10).index.tolist())
  found = [maximise(objective, 10, order="stochastic", rng=RNG(seed), epsilon=0.1) for seed in range(5)]
  assert all(one.evaluated <= 10 * np.ceil(30 * np.log(10)) and len(set(one.index)) == 10 for one in found)
  assert 0.97 * greedy < np.mean([value(one.index.tolist()) for one in found]) < greedy


@pytest.mark.parametrize("order", ["lazy", "naive"])
def test_duplicates_and_zeros_are_taken_in_their_order(order):
  """Equal rows have equal gains, whatever rounds; a vector of zeros has a cosine of 0 to all."""
  x = np.repeat(RNG(0).normal(size=(4, 7)), 5, axis=0)
  x[[3, 11]] = 0
  for e in (embeddings.points(x.astype(np.float32)), Embedding(x[:, :3], x[:, 3:])):
    vectors = e.outer.astype(np.float64) if e.hidden is None else written_out(e)
    for name in ("graph cut", "facility location"):
      objective, value = cases(e, vectors)[name]
      found = maximise(objective, 20, order=order).index.tolist()
      assert sorted(found) == list(range(20))
      rows = [vectors[i].tobytes() for i in found]
      for row in set(rows):
        own = [i for i, other in zip(found, rows, strict=True) if other == row]
        assert own == sorted(own)
      if e.hidden is not None:
        assert found == by_definition(value, 20, 20)


# k-center ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_k_center_goes_on_from_what_is_chosen(seed):
  x, before = RNG(seed).normal(size=(40, 3)), RNG(seed + 50).normal(size=(3, 3))
  picked = k_center(RNG(0), x, 8, init=before)
  for k in range(8):
    centres = np.concatenate([before, x[picked[:k]]])
    assert picked[k] == np.linalg.norm(x[:, None] - centres[None], axis=-1).min(1).argmax()
  np.testing.assert_array_equal(k_center(RNG(0), x, 8, init=before[:0]), k_center(RNG(0), x, 8))


def test_k_center_starts_anywhere_and_compares_directions():
  x = RNG(0).normal(size=(40, 3))
  starts = {int(k_center(RNG(seed), x, 3, start="random")[0]) for seed in range(40)}
  assert len(starts) > 15
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  scaled = x * RNG(1).uniform(1, 9, size=(40, 1))
  own = k_center(RNG(5), scaled, 6, start="random", metric="cosine")
  np.testing.assert_array_equal(own, k_center(RNG(5), unit, 6, start="random"))


def test_distances_are_exact_where_products_are_not():
  x = 1e6 + RNG(0).normal(size=(50, 4))
  found = objectives.nearest(x, x[:7] + 1e-3)
  np.testing.assert_array_equal(found, np.square(x[:, None] - (x[:7] + 1e-3)[None]).sum(-1).min(1))
  assert (objectives.nearest(x, x[10:20])[10:20] == 0).all() and np.isinf(objectives.nearest(x, x[:0])).all()


# embeddings ----------------------------------------------------------------------------------------------------------


def test_products_of_factors_are_those_of_the_vectors():
  e = factored(3)
  x, weights = written_out(e), RNG(0).normal(size=6)
  own = np.array([4, 0, 7, 7, 2, 9])
  np.testing.assert_allclose(embeddings.products(e, own), x[own] @ x.T, rtol=1e-10, atol=1e-12)
  np.testing.assert_allclose(embeddings.norms(e), np.linalg.norm(x, axis=1), rtol=1e-12)
  total = embeddings.combination(e, own, weights)
  assert total.shape == (3, 5)
  np.testing.assert_allclose(embeddings.along(e, total), x @ (weights @ x[own]), rtol=1e-9, atol=1e-11)
  unit = embeddings.unit(e)
  np.testing.assert_allclose(embeddings.norms(unit), 1, rtol=1e-12)
  np.testing.assert_allclose(embeddings.products(unit, own, own), 2 * cosines(x)[np.ix_(own, own)] - 1, atol=1e-12)
  part = embeddings.take(unit, own)
  np.testing.assert_allclose(embeddings.products(part, [1]), embeddings.products(unit, [0], own), atol=1e-14)


def test_gradients_of_the_last_layer_are_those_of_automatic_differentiation(x64):
  import jax
  import jax.numpy as jnp

  h, w, y = RNG(0).normal(size=(6, 4)), RNG(1).normal(size=(4, 3)), np.array([0, 2, 1, 1, 0, 2])
  e = embeddings.last_layer_gradients(h, h @ w, y)

  def loss(params, h, y):
    return -jax.nn.log_softmax(h @ params[1] + params[0])[y]

  bias, weight = jax.vmap(jax.grad(loss), (None, 0, 0))((jnp.zeros(3), jnp.asarray(w)), h, y)
  wanted = np.concatenate([bias, np.moveaxis(weight, 1, 2).reshape(6, -1)], axis=1)
  np.testing.assert_allclose(written_out(e), wanted, atol=1e-12)
  twice = embeddings.last_layer_gradients(h, np.asarray(jax.nn.softmax(h @ w)), y)
  np.testing.assert_allclose(embeddings.last_layer_gradients(h, h @ w, y, double_softmax=True).outer, twice.outer)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda o: maximise(o, 0), "count=0: cannot be chosen among 30 examples; give 1 to 30"),
    (lambda o: maximise(o, 31), "count=31: cannot"),
    (
      lambda o: objectives.facility_location(objectives.product_similarity(factored(0))),
      "similarity: may be negative",
    ),
  ],
)
def test_what_cannot_be_is_refused(call, message):
  with pytest.raises(UserError, match=message) as error:
    call(objectives.graph_cut(objectives.cosine_similarity(factored(0))))
  assert "\n" not in str(error.value)
