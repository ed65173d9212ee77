"""SinKD: terms and gradients against NumPy in float64, what the plan tends to, and what the recipe refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.sinkd import sinkd

RNG = np.random.default_rng(8)
STUDENT, TEACHER, LABELS = RNG.normal(size=(5, 4)), 2 * RNG.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])


def view(student=STUDENT, teacher=TEACHER, epoch=0.0, where=None):
  outputs = [Outputs(jnp.float32(z), jnp.zeros((len(z), 2))) for z in (student, teacher)]
  rows = jnp.arange(len(student), dtype=jnp.int32)
  batch = Batch(jnp.zeros((len(student), 1)), jnp.int32(LABELS[: len(student)]), rows)
  where = jnp.ones(len(student), bool) if where is None else jnp.asarray(where)
  key = jax.random.key(0)
  return StepOutputs(batch, outputs[0], (outputs[1],), {}, {}, (), (), where, jnp.float32(epoch), key, rows)


def softmax(z, temperature=1.0):
  p = np.exp((z - z.max(-1, keepdims=True)) / temperature)
  return p / p.sum(-1, keepdims=True)


def transport(cost, eps=0.1, iterations=20):
  plan = np.exp(-cost / eps)
  for _ in range(iterations):
    plan = plan / plan.sum(1, keepdims=True)
    plan = plan / plan.sum(0, keepdims=True)
  return (plan * cost).sum(), plan


def l1(p, q):
  return np.abs(p[:, None] - q[None]).sum(-1)


METRICS = jax.jit(sinkd(gradient_norms=True, teacher_scale=2.0, temperature=1.5).metrics)


def value(recipe, name, **given):
  return float(jnp.mean(recipe.terms[name].value(view(**given))))


def test_the_released_total_of_sixteen_examples_is_the_default():
  """`(1 - a) CE + a L_KD + b 0.001 L_SD` with the sum over the plan; here the mean and sixteen times the weight."""
  recipe = sinkd()
  assert list(recipe.terms) == ["ce", "kd", "sinkhorn"]
  assert [term.weight for term in recipe.terms.values()] == [0.1, 0.9, pytest.approx(0.8 * 0.001 * 16)]
  log_s = np.log(softmax(STUDENT, 2.0))
  assert value(recipe, "kd") == pytest.approx(-(softmax(TEACHER, 2.0) * log_s).sum(-1).mean(), rel=1e-5)
  want = transport(l1(softmax(STUDENT, 2.0), softmax(TEACHER, 2.0)))[0] / 5
  assert value(recipe, "sinkhorn") == pytest.approx(want, rel=1e-5)


def test_the_sample_wise_plan_lies_between_the_classes_of_an_example():
  pairs = zip(softmax(STUDENT, 2.0), softmax(TEACHER, 2.0), strict=True)
  want = np.mean([transport(np.abs(s[:, None] - t[None]))[0] for s, t in pairs])
  assert value(sinkd(variant="sample"), "sinkhorn") == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
  ("name", "formula"),
  [
    ("kl", lambda s, t: (t * np.log(t / s)).sum(-1)),
    ("reverse_kl", lambda s, t: (s * np.log(s / t)).sum(-1)),
    ("js", lambda s, t: (s * np.log(2 * s / (s + t)) + t * np.log(2 * t / (s + t))).sum(-1) / 2),
    ("total_variation", lambda s, t: np.abs(s - t).sum(-1) / 2),
    ("cross_entropy", lambda s, t: -(t * np.log(s)).sum(-1)),
  ],
)
def test_divergences_take_the_place_of_the_kd_term(name, formula):
  want = formula(softmax(STUDENT, 3.0), softmax(TEACHER, 3.0)).mean()
  assert value(sinkd(divergence=name, temperature=3.0), "kd") == pytest.approx(want, rel=1e-4)
  scaled = sinkd(divergence=name, temperature=3.0, scale_t2=True)
  assert value(scaled, "kd") == pytest.approx(9 * want, rel=1e-4)


def test_logits_and_the_teachers_scale():
  recipe = sinkd(mse_weight=0.1, teacher_scale=5.0)
  assert value(recipe, "logit_mse") == pytest.approx(((STUDENT - 5 * TEACHER) ** 2).mean(), rel=1e-5)
  assert value(recipe, "kd") == pytest.approx(value(sinkd(), "kd", teacher=5 * TEACHER), rel=1e-6)
  assert value(recipe, "sinkhorn") == pytest.approx(value(sinkd(), "sinkhorn", teacher=5 * TEACHER), rel=1e-6)


def test_the_temperature_falls_linearly_in_whole_epochs():
  """`T(e) = T0 + (1 - T0) e / (E - 1)`: 3, 2, 1 for three epochs, and 1 from then on."""
  recipe = sinkd(temperature=3.0, final_temperature=1.0, anneal_epochs=3.0)
  for epoch, temperature in ((0.0, 3.0), (0.9, 3.0), (1.5, 2.0), (2.0, 1.0), (7.0, 1.0)):
    assert value(recipe, "kd", epoch=epoch) == pytest.approx(value(sinkd(temperature=temperature), "kd"), rel=1e-5)


def test_equal_sides_that_lie_far_apart_cost_nothing_and_keep_their_partners():
  """p == q, one row per class: distances are near 2, twenty times eps, so the plan tends to the identity."""
  far = 40.0 * np.eye(4)
  assert value(sinkd(), "sinkhorn", student=far, teacher=far) < 1e-6
  cost = l1(softmax(far, 2.0), softmax(far, 2.0))
  np.testing.assert_allclose(losses.sinkhorn_plan(jnp.float32(cost)), np.eye(4), atol=1e-6)


def test_permuting_the_teachers_rows_is_seen_by_the_divergence_and_not_by_the_transport():
  far, order = 40.0 * np.eye(4), [1, 2, 3, 0]
  recipe = sinkd(divergence="kl")
  assert value(recipe, "kd", student=far, teacher=far[order]) > 10
  assert value(recipe, "sinkhorn", student=far, teacher=far[order]) < 1e-6
  cost = l1(softmax(far, 2.0), softmax(far[order], 2.0))
  np.testing.assert_allclose(losses.sinkhorn_plan(jnp.float32(cost)), np.eye(4)[:, order], atol=1e-6)


def test_gradient_norms_are_those_of_finite_differences():
  found = METRICS(view())
  t, t_plan = softmax(2 * TEACHER, 1.5), softmax(2 * TEACHER, 2.0)
  totals = {
    "kl": lambda z: (t * np.log(t / softmax(z, 1.5))).sum(),
    "reverse_kl": lambda z: (softmax(z, 1.5) * np.log(softmax(z, 1.5) / t)).sum(),
    "total_variation": lambda z: np.abs(softmax(z, 1.5) - t).sum() / 2,
    "sinkhorn": lambda z: transport(l1(softmax(z, 2.0), t_plan))[0],
  }
  for name, total in totals.items():
    slope = np.zeros((5, 4))
    for i, c in np.ndindex(5, 4):
      step = np.zeros((5, 4))
      step[i, c] = 1e-5
      slope[i, c] = (total(STUDENT + step) - total(STUDENT - step)) / 2e-5
    assert float(found[f"gradient_{name}"]) == pytest.approx(np.linalg.norm(slope, axis=1).mean(), rel=2e-4), name
  assert float(found["overlap"]) == pytest.approx(np.minimum(softmax(STUDENT, 1.5), t).sum(-1).mean(), rel=1e-5)
  assert set(found) == {f"gradient_{name}" for name in [*totals, "js"]} | {"overlap"}


def test_padding_changes_nothing():
  where = np.array([True, True, True, False, True])
  broken = np.where(where[:, None], STUDENT, 1e3)
  term = jax.jit(sinkd().terms["sinkhorn"].value)
  kept = float(term(view(where=where)))
  assert float(term(view(broken, where=where))) == kept
  want = transport(l1(softmax(STUDENT[where], 2.0), softmax(TEACHER[where], 2.0)))[0] / 4
  assert kept == pytest.approx(want, rel=1e-5)
  metrics, others = METRICS(view(where=where)), METRICS(view(broken, where=where))
  assert {name: float(x) for name, x in metrics.items()} == {name: float(x) for name, x in others.items()}
  s, t = softmax(STUDENT[where], 1.5), softmax(2 * TEACHER[where], 1.5)
  assert float(metrics["overlap"]) == pytest.approx(np.minimum(s, t).sum(-1).mean(), rel=1e-5)


def test_only_the_weighted_terms_are_computed():
  assert list(sinkd(ce_weight=0.0, kd_weight=0.0, sd_weight=1.0).terms) == ["sinkhorn"]
  assert list(sinkd(sd_weight=0.0).terms) == ["ce", "kd"]
  assert sinkd().metrics is None


@pytest.mark.parametrize(
  ("options", "complaint"),
  [
    ({"divergence": "hellinger"}, "method.divergence='hellinger': unknown; choose one of cross_entropy, js, kl"),
    ({"variant": "class"}, "method.variant='class': unknown; choose one of batch, sample"),
    ({"final_temperature": 0.0}, "method.final_temperature=0.0: must be above 0"),
    ({"ce_weight": 0.0, "kd_weight": 0.0, "sd_weight": 0.0}, "give at least one term a weight"),
  ],
)
def test_what_the_recipe_refuses(options, complaint):
  with pytest.raises(UserError, match=complaint):
    sinkd(**options)


@pytest.mark.parametrize(
  ("options", "given", "complaint"),
  [
    ({"num_iters": 0}, {}, "method.num_iters=0: must be at least 1"),
    ({"entropy_weight": 0.0}, {}, "method.entropy_weight=0.0: must be above 0"),
    ({}, {"teacher": TEACHER[:3]}, "shapes must be equal"),
  ],
)
def test_what_the_transport_refuses(options, given, complaint):
  with pytest.raises(ValueError, match=complaint):
    sinkd(**options).terms["sinkhorn"].value(view(**given))


def test_a_batch_of_one_is_warned_about():
  with pytest.warns(UserWarning, match="a batch of one"):
    sinkd().terms["sinkhorn"].value(view(STUDENT[:1], TEACHER[:1]))
