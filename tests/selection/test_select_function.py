"""`select`: every selector by its name against the rule written out per class, budgets, and what is refused."""

import jax
import numpy as np
import pytest

from jdistill import schema, selection
from jdistill.base import UserError
from jdistill.selection import SELECTORS, Evidence, budgets, select

RNG = np.random.default_rng
N, D, C = 60, 5, 3
Y = RNG(0).permutation(np.arange(N) % C)
Z = RNG(1).normal(size=(2, N, C)).astype(np.float32)
H = RNG(2).normal(size=(N, D)).astype(np.float32)
HISTORY = RNG(3).random((6, N)) > 0.5
VALIDATION = Evidence(np.arange(12) % C, RNG(4).normal(size=(12, D)), RNG(5).normal(size=(12, C)).astype(np.float32))
EVIDENCE = Evidence(Y, H, Z, HISTORY, VALIDATION)
P = np.exp(Z.astype(float)) / np.exp(Z.astype(float)).sum(-1, keepdims=True)
G = P - np.eye(C)[Y]
E = np.concatenate([G[0], np.einsum("nc,nd->ncd", G[0], H).reshape(N, -1)], axis=1)


def greedy(gain, own, count):
  picked = []
  for _ in range(count):
    picked.append(max((i for i in own if i not in picked), key=lambda i: gain(i, picked, own)))
  return picked


def top(score):
  return lambda own, count: sorted(own, key=lambda i: -score[i])[:count]


def _cut(i, picked, own):
  unit = E / np.linalg.norm(E, axis=1, keepdims=True)
  s = 0.5 + 0.5 * unit @ unit[i]
  return s[own].sum() - 2 * s[picked].sum()


def _cover(similarity):
  def gain(i, picked, own):
    before = similarity[np.ix_(own, picked)].max(1) if picked else np.zeros(len(own))
    return np.maximum(similarity[own, i] - before, 0).sum()

  return gain


def _far(i, picked, own):
  x = H.astype(float)
  return min(np.linalg.norm(x[i] - x[p]) for p in picked) if picked else -np.linalg.norm(x[i] - x[own].mean(0))


def _mean(i, picked, own):
  x = H.astype(float)
  return -np.linalg.norm(x[own].mean(0) - x[[*picked, i]].mean(0))


def _cal(own, count):
  score = {}
  for i in own:
    near = sorted((j for j in own if j != i), key=lambda j: np.linalg.norm(H[i] - H[j]))[:10]
    score[i] = np.mean([((P[r, i] - P[r, j]) * np.log(P[r, i] / P[r, j])).sum() / 2 for r in range(2) for j in near])
  return sorted(own, key=lambda i: -score[i])[:count]


def _glister(own, count):
  z, h, y = VALIDATION.logits.astype(float), VALIDATION.features, VALIDATION.labels
  keep, picked = y == Y[own[0]], []
  z, h, y = z[keep], h[keep], y[keep]
  for _ in range(count):
    g = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(C)[y]
    slope = np.concatenate([g, np.einsum("nc,nd->ncd", g, h).reshape(len(h), -1)], axis=1).mean(0)
    picked.append(max((i for i in own if i not in picked), key=lambda i: E[i] @ slope))
    z = z - 0.1 * (1 + h @ H[picked[-1]])[:, None] * G[0, picked[-1]]
  return picked


_UNIT = E / np.linalg.norm(E, axis=1, keepdims=True)
_FAR = np.linalg.norm(E[:, None] - E[None], axis=-1)
_FORGOTTEN = np.where(HISTORY.any(0), (HISTORY[:-1] & ~HISTORY[1:]).sum(0), 6)
RULES = {
  "herding": lambda own, count: greedy(_mean, own, count),
  "k_center": lambda own, count: greedy(_far, own, count),
  "forgetting": top(_FORGOTTEN),
  "grand": top((np.linalg.norm(G, axis=-1) * np.sqrt(1 + (H**2).sum(1))).mean(0)),
  "el2n": top(np.linalg.norm(G, axis=-1).mean(0)),
  "uncertainty": top(-(P * np.log(P)).sum(-1).mean(0)),
  "cal": _cal,
  "graph_cut": lambda own, count: greedy(_cut, own, count),
  "facility_location": lambda own, count: greedy(_cover(0.5 + 0.5 * _UNIT @ _UNIT.T), own, count),
  "craig": lambda own, count: greedy(_cover(_FAR.max() - _FAR), own, count),
  "glister": _glister,
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("balanced", [True, False])
def test_the_choice_is_that_of_the_rule(name, balanced):
  found = select(0, name, EVIDENCE, per_class=6, balanced=balanced)
  if balanced:
    wanted = [i for label in range(C) for i in RULES[name](np.flatnonzero(label == Y), 6)]
  elif name == "glister":
    return
  else:
    wanted = RULES[name](np.arange(N), 18)
  assert found.index.tolist() == wanted


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_its_part_of_every_class(name):
  found = select(7, name, EVIDENCE, fraction=0.5)
  assert np.bincount(Y[found.index]).tolist() == [10, 10, 10] and (np.diff(Y[found.index]) >= 0).all()
  assert len(set(found.index)) == 30
  np.testing.assert_array_equal(found.index, select(7, name, EVIDENCE, fraction=0.5).index)
  for value in (found.weight, found.value):
    assert value is None or (value.shape == (30,) and np.isfinite(value).all())
  assert (found.weight is None) == (name not in ("craig", "gradmatch"))
  everything = select(0, name, EVIDENCE, fraction=1.0, balanced=False)
  assert sorted(everything.index) == list(range(N))


@pytest.mark.parametrize("name", SELECTORS)
def test_only_what_is_needed_is_read(name):
  needs = selection.needs(name)
  own = Evidence(Y, **{field: getattr(EVIDENCE, field) for field in needs})
  np.testing.assert_array_equal(select(1, name, own, per_class=3).index, select(1, name, EVIDENCE, per_class=3).index)
  for field in needs:
    with pytest.raises(UserError, match=rf"evidence.{field}: missing, and the selector {name} needs it; give {field}"):
      select(1, name, own._replace(**{field: None}), per_class=3)
  assert all(option.default is not schema.REQUIRED for option in schema.fields(SELECTORS[name].choose).values())
  assert SELECTORS[name].rule and SELECTORS[name].cost


def test_weights_of_craig_and_gradmatch():
  craig = select(0, "craig", EVIDENCE, per_class=4)
  assert [craig.weight[Y[craig.index] == label].sum() for label in range(C)] == [20, 20, 20]
  own = select(0, "gradmatch", EVIDENCE, per_class=15)
  for label in range(C):
    mean = E[label == Y].mean(0)
    rows = Y[own.index] == label
    weighted = (own.weight[rows, None] * E[own.index[rows]]).mean(0)
    assert np.linalg.norm(weighted - mean) < 0.5 * np.linalg.norm(E[own.index[rows]].mean(0) - mean)


def test_options_reach_the_rule():
  own = Evidence(Y, H, Z)
  hard, easy = (select(0, "el2n", own, per_class=5, keep=keep).index for keep in ("highest", "lowest"))
  assert not set(hard) & set(easy)
  by_features = select(0, "graph_cut", Evidence(Y, H), per_class=5, vectors_of="features")
  assert set(by_features.index) != set(select(0, "graph_cut", own, per_class=5).index)
  assert selection.needs("graph_cut", vectors_of="features") == ("features",)
  naive = select(0, "facility_location", own, per_class=5, order="naive")
  np.testing.assert_array_equal(naive.index, select(0, "facility_location", own, per_class=5).index)
  kinds = [select(0, "uncertainty", own, per_class=5, kind=kind).index.tolist() for kind in ("confidence", "margin")]
  assert kinds[0] != kinds[1]


def test_seeds_keys_and_generators():
  draws = [select(rng, "random", Evidence(Y), per_class=5).index.tolist() for rng in (3, RNG(3), jax.random.key(3), 4)]
  assert draws[0] == draws[1] and len({tuple(draw) for draw in draws}) == 3
  assert draws[2] == select(jax.random.key(3), "random", Evidence(Y), per_class=5).index.tolist()


def test_features_of_any_shape_and_of_several_runs():
  images = np.reshape(np.repeat(H, 4, axis=1), (N, D, 2, 2))
  flat = select(0, "k_center", Evidence(Y, images.reshape(N, -1)), per_class=4).index
  np.testing.assert_array_equal(flat, select(0, "k_center", Evidence(Y, images), per_class=4).index)
  other = RNG(8).normal(size=(N, D)).astype(np.float32)
  stacked = Evidence(Y, np.stack([H, other]), Z)
  np.testing.assert_array_equal(
    select(0, "k_center", stacked, per_class=4).index, select(0, "k_center", EVIDENCE, per_class=4).index
  )
  lengths = [
    np.linalg.norm(G[r], axis=1) * np.sqrt(1 + (h.astype(float) ** 2).sum(1)) for r, h in enumerate((H, other))
  ]
  wanted = top(np.mean(lengths, axis=0))
  found = select(0, "grand", stacked, per_class=4).index.tolist()
  assert found == [i for label in range(C) for i in wanted(np.flatnonzero(label == Y), 4)]


def test_budgets_round_halves_to_even():
  labels = np.repeat([0, 1, 5], [25, 35, 4])
  assert budgets(labels, fraction=0.5) == {0: 12, 1: 18, 5: 2}
  assert budgets(labels, per_class=4) == {0: 4, 1: 4, 5: 4}
  found = select(0, "random", Evidence(labels), fraction=0.1, balanced=False)  # 6.4 of 64: no class has to keep any
  assert len(found.index) == 6


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"name": "k_centre"}, "select.name='k_centre': unknown; did you mean 'k_center'"),
    ({"metric": "l1"}, "select.metric='l1': unknown"),
    ({"restart": 3}, "select.restart=3: unknown key"),
    ({"fraction": 0.5}, "select.fraction=0.5, select.per_class=3: give one of them"),
    ({"per_class": None}, "select.fraction=None, select.per_class=None: give one of them"),
    ({"per_class": None, "fraction": 0.0}, "select.fraction=0.0: must be above 0 and at most 1"),
    ({"per_class": None, "fraction": 1.5}, "select.fraction=1.5: must be above 0 and at most 1"),
    ({"per_class": None, "fraction": 0.01}, "select.fraction=0.01: keeps none of the 20 examples of class 0; raise it"),
    ({"per_class": 0}, "select.per_class=0: must be at least 1"),
    ({"per_class": 21}, "select.per_class=21: class 0 has only 20 examples; lower per_class"),
    ({"labels": Y - 1}, "evidence.labels: int64 of shape \\(60,\\); give one integer from 0 per example"),
    ({"labels": Y.astype(float)}, "evidence.labels: float64"),
    ({"features": H[:-1]}, "evidence.features: shape \\(59, 5\\) for 60 examples; give \\[n, ...\\]"),
    ({"features": np.where(np.arange(N)[:, None] == 7, np.nan, H)}, "evidence.features: nan for example 7; mend"),
    ({"features": np.where(np.arange(N)[:, None] == 7, np.inf, H)}, "evidence.features: inf for example 7"),
    ({"name": "el2n", "logits": Z[0, :, 0]}, "evidence.logits: shape \\(60,\\) for 60 examples; give \\[n, C\\] or"),
    ({"name": "el2n", "logits": Z * np.nan}, "evidence.logits: nan for example 0"),
    ({"name": "el2n", "logits": Z[..., :2]}, "evidence.labels: 2, but logits have 2 classes; give logits of all"),
    ({"name": "forgetting", "history": HISTORY[:1]}, "evidence.history: 1 checks, and forgetting takes two"),
    ({"name": "forgetting", "history": HISTORY.T}, "evidence.history: shape \\(60, 6\\) for 60 examples"),
    ({"name": "glister", "validation": VALIDATION._replace(logits=None)}, "evidence.validation.logits: missing"),
    (
      {"name": "glister", "validation": Evidence(*(value[VALIDATION.labels > 0] for value in VALIDATION[:3]))},
      "evidence.validation: no example of class 0; give some, or balanced=False",
    ),
    ({"name": "cal", "neighbours": 20}, "select.neighbours=20: there are only 20 examples; lower it"),
    ({"name": "bins", "n_bins": 21}, "select.n_bins=21: class 0 has 20 examples; give 1 to 20"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, message):
  changes = {"name": "k_center", "per_class": 3} | changes
  evidence = EVIDENCE._replace(**{field: changes.pop(field) for field in Evidence._fields if field in changes})
  with pytest.raises(UserError, match=message) as error:
    select(0, evidence=evidence, **changes)
  assert "\n" not in str(error.value)
