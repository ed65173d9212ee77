"""Recipes of logits: their terms on a hand-made view equal the losses that their papers state, in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Outputs
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge import logits as recipes

RNG = np.random.default_rng(3)
STUDENT, TEACHER, LABELS = RNG.normal(size=(5, 4)), 2 * RNG.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def view(epoch=0.0):
  outputs = [Outputs(jnp.float32(z), jnp.zeros((5, 2))) for z in (STUDENT, TEACHER)]
  batch = Batch(jnp.zeros((5, 1)), jnp.int32(LABELS), jnp.arange(5, dtype=jnp.int32))
  now, key = jnp.float32(epoch), jax.random.key(0)
  return StepOutputs(batch, outputs[0], (outputs[1],), {}, {}, (), (), jnp.ones(5, bool), now, key, batch.ids)


def total(recipe, epoch=0.0):
  """The loss of a step, as the trainer adds it up."""
  out = 0.0
  for term in recipe.terms.values():
    weight = term.weight(jnp.float32(epoch)) if callable(term.weight) else term.weight
    out += float(weight) * float(jnp.mean(term.value(view(epoch))))
  return out


def cross_entropy(z):
  return -log_softmax(z)[np.arange(5), LABELS].mean()


def kl(temperature):
  p, q = log_softmax(TEACHER / temperature), log_softmax(STUDENT / temperature)
  return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def test_cross_entropy_and_smoothing():
  uniform = -log_softmax(STUDENT).mean()
  assert total(recipes.ce()) == pytest.approx(cross_entropy(STUDENT), rel=1e-5)
  want = 0.8 * cross_entropy(STUDENT) + 0.2 * uniform
  assert total(recipes.ce(label_smoothing=0.2)) == pytest.approx(want, rel=1e-5)


def test_kd_weighs_labels_and_teacher():
  assert total(recipes.kd()) == pytest.approx(0.1 * cross_entropy(STUDENT) + 0.9 * kl(4.0), rel=1e-5)
  assert total(recipes.kd(temperature=1.0, ce_weight=0.0, kd_weight=2.0)) == pytest.approx(2 * kl(1.0), rel=1e-5)


def test_dkd_warms_up_and_splits_the_divergence():
  assert total(recipes.dkd(), epoch=0.0) == pytest.approx(cross_entropy(STUDENT), rel=1e-5)
  t, s = (np.exp(log_softmax(z / 4.0)) for z in (TEACHER, STUDENT))
  rows = np.arange(5)
  pt, ps = t[rows, LABELS], s[rows, LABELS]
  tckd = (pt * np.log(pt / ps) + (1 - pt) * np.log((1 - pt) / (1 - ps))).mean()
  others = np.ones((5, 4), bool)
  others[rows, LABELS] = False
  t, s = (p[others].reshape(5, 3) / p[others].reshape(5, 3).sum(-1, keepdims=True) for p in (t, s))
  nckd = (t * np.log(t / s)).sum(-1).mean()
  want = cross_entropy(STUDENT) + 0.5 * 16 * (1.5 * tckd + 3.0 * nckd)
  assert total(recipes.dkd(alpha=1.5, beta=3.0), epoch=10.0) == pytest.approx(want, rel=1e-4)


def test_dist_compares_correlations_in_both_directions():
  t, s = (np.exp(log_softmax(z / 4.0)) for z in (TEACHER, STUDENT))
  inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
  intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
  want = cross_entropy(STUDENT) + 16 * (0.5 * inter + 3.0 * intra)
  assert total(recipes.dist(beta=0.5, gamma=3.0)) == pytest.approx(want, rel=1e-3)


def test_pld_follows_the_teachers_order():
  want = 0.0
  for z_s, z_t, y in zip(STUDENT, TEACHER, LABELS, strict=True):
    order = [y, *[c for c in np.argsort(-z_t) if c != y]]
    weight = np.exp(log_softmax(z_t / 2.0))[order]
    s = z_s[order]
    want += sum(w * (np.log(np.exp(s[k:]).sum()) - s[k]) for k, w in enumerate(weight)) / 5
  assert total(recipes.pld(temperature=2.0)) == pytest.approx(want, rel=1e-5)
