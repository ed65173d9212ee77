"""The Swing recipe: its loss in NumPy, what its options leave out, fresh noise, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.methods import knowledge
from jdistill.methods.knowledge import StepOutputs, logits
from jdistill.methods.knowledge.swing import swing
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.cache import cached, record, top_k
from jdistill.teachers.frozen import ask, committee

RNG = np.random.default_rng(1)
STUDENT, TEACHER = RNG.normal(size=(2, 3, 5)), 3 * RNG.normal(size=(2, 3, 5))
TARGETS, RHO = np.array([[0, 4, 2], [3, 1, 1]]), np.array([[0.0, 1.0, 0.25], [1.0, 0.0, 0.0]])
MASK = np.array([[True, True, True], [True, True, False]])


def view(student=STUDENT, key=0, **extra):
  extra = {"private": jnp.float32(RHO), "mask": jnp.asarray(MASK)} | extra
  batch = Batch(jnp.zeros((2, 3), jnp.int32), jnp.int32(TARGETS), jnp.arange(2, dtype=jnp.int32), extra=extra)
  outputs = [Outputs(jnp.asarray(z, jnp.float32), jnp.zeros((2, 3, 1))) for z in (student, TEACHER)]
  rest = {}, {}, (), (), jnp.ones(2, bool), jnp.float32(0), jax.random.key(key), jnp.arange(2)
  return StepOutputs(batch, outputs[0], (outputs[1],), *rest)


def plain_view():
  return view()._replace(batch=view().batch._replace(extra={}))


def value(recipe, name, **options):
  return np.asarray(recipe.terms[name].value(view(**options)))


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy():
  return -np.take_along_axis(log_softmax(STUDENT), TARGETS[..., None], -1)[..., 0]


def kl(tau):
  p, q = log_softmax(TEACHER / tau[..., None]), log_softmax(STUDENT / tau[..., None])
  return (np.exp(p) * (p - q)).sum(-1)


def over(values):
  return np.where(MASK, values, 0).sum(1) / MASK.sum(1)


def test_it_is_its_formula_without_noise():
  recipe = swing(tau_lo=2.0, tau_hi=12.0, mechanism="none")
  np.testing.assert_allclose(value(recipe, "swing"), over(kl(2 + 10 * RHO)), rtol=1e-4)
  np.testing.assert_allclose(value(recipe, "ce"), over((1 - RHO) * cross_entropy()), rtol=1e-5)
  assert {name: term.weight for name, term in recipe.terms.items()} == {"ce": 0.1, "swing": 0.9}
  assert recipe.needs == ("teacher",)


def test_controls_change_one_thing_each():
  options = {"tau_lo": 2.0, "tau_hi": 12.0, "mechanism": "none"}
  np.testing.assert_allclose(value(swing(reverse=True, **options), "swing"), over(kl(12 - 10 * RHO)), rtol=1e-4)
  np.testing.assert_allclose(value(swing(reverse=True, **options), "ce"), over((1 - RHO) * cross_entropy()), rtol=1e-5)
  hidden = swing(mask_private=True, **options)
  np.testing.assert_allclose(value(hidden, "swing"), over((1 - RHO) * kl(2 + 10 * RHO)), rtol=1e-4)
  np.testing.assert_allclose(value(swing(mask_labels=False), "ce"), over(cross_entropy()), rtol=1e-5)


def test_one_temperature_without_noise_and_private_labels_is_kd_but_for_the_square():
  plain = logits.kd(temperature=3.0)
  same = swing(tau_lo=3.0, tau_hi=3.0, mechanism="none", mask_labels=False)
  np.testing.assert_allclose(value(same, "swing"), value(plain, "kd") / 9, rtol=1e-4)
  np.testing.assert_allclose(value(same, "ce"), value(plain, "ce"), rtol=1e-6)


def test_nothing_is_learned_where_nothing_counts():
  def slopes(recipe):
    total = jax.jit(jax.grad(lambda z: sum(jnp.sum(t.value(view(student=z))) for t in recipe.terms.values())))
    return np.abs(total(jnp.float32(STUDENT))).max(-1)

  hidden = slopes(swing(mask_private=True))
  assert (hidden[(RHO == 1) | ~MASK] == 0).all() and (hidden[(RHO < 1) & MASK] > 0).all()
  soft, hard = slopes(swing(mechanism="none")), slopes(swing(mechanism="none", tau_hi=1.0))
  assert (soft[(RHO == 1) & MASK] < 0.1 * hard[(RHO == 1) & MASK]).all()  # a tenth of the slope, on flatter targets
  np.testing.assert_allclose(soft[(RHO == 0) & MASK], hard[(RHO == 0) & MASK], rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"mechanism": "gaussian"}, {"noise_on": "logits", "epsilon": 10.0}])
def test_noise_is_fresh_for_every_key_and_fades_with_the_budget(options):
  recipe = swing(**options)
  first, again, other = (value(recipe, "swing", key=key) for key in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.all(first != other)
  calm = value(swing(**options | {"epsilon": 1e6}), "swing")
  np.testing.assert_allclose(calm, over(kl(1 + 9 * RHO)), rtol=1e-2)


def trained(recipe, teacher, arrays, epochs=1):
  """Students on four sequences of three tokens."""
  network = models.build("gru", num_classes=5, image_shape=(3,), width=4)
  data = Batch(
    jnp.asarray(RNG.integers(0, 5, (4, 3)), jnp.int32),
    jnp.asarray(RNG.integers(0, 5, (4, 3)), jnp.int32),
    jnp.arange(4, dtype=jnp.int32),
    extra={"private": jnp.float32(RNG.integers(0, 2, (4, 3))), "mask": jnp.ones((4, 3), bool)},
  )
  method = knowledge.student_method(network, recipe, optimizer=make_optimizer("sgd", 0.1), targets=teacher)
  update = update_of(data, targets=arrays)
  state = jax.jit(method.init)(jax.random.key(0), update)
  return data, jax.jit(method.step)(jax.random.key(1), state, update)


def test_the_trainer_takes_tokens_and_stored_targets_of_sequences():
  large = models.build("gru", num_classes=5, image_shape=(3,), width=6)
  frozen = committee([large], [large.init(jax.random.key(7))])
  x, ids = np.asarray(RNG.integers(0, 5, (4, 3)), np.int32), np.arange(4)
  want = ask(frozen, x, ids)[0].logits
  stored = record(frozen, x, ids, data="d", teacher_hash="t")
  whole, cut = cached(stored), cached(top_k(stored, 2))
  np.testing.assert_allclose(ask(whole, x, jnp.array([2, 0]))[0].logits, want[jnp.array([2, 0])], 1e-5)
  kept = np.sort(np.asarray(jax.nn.softmax(ask(cut, x, ids)[0].logits)), -1)
  full = np.sort(np.asarray(jax.nn.softmax(want)), -1)
  np.testing.assert_allclose(kept[..., 3:], full[..., 3:], rtol=1e-4)
  np.testing.assert_allclose(
    kept[..., :3], np.broadcast_to(full[..., :3].mean(-1, keepdims=True), (4, 3, 3)), rtol=1e-4
  )
  _, (_, metrics) = trained(swing(), whole.targets, whole.arrays)
  assert all(np.isfinite(float(v)) for v in metrics.values()) and set(metrics) == {"loss/ce", "loss/swing"}


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: swing(tau_lo=5.0, tau_hi=2.0), r"method.tau_lo=5.0: must be at most tau_hi=2.0"),
    (lambda: swing(tau_lo=0.0), "method.tau_lo=0.0: must be above 0"),
    (lambda: swing(mechanism="uniform"), "method.mechanism='uniform': unknown; choose one of gaussian, laplace, none"),
    (lambda: value(swing(epsilon=0.0), "swing"), "method.epsilon=0.0: must be above 0"),
    (lambda: value(swing(noise_on="x"), "swing"), "method.noise_on='x': unknown; choose one of logits, probabilities"),
    (
      lambda: value(swing(), "ce", private=jnp.zeros((2, 4))),
      r"private: .* have shape \(2, 4\), and logits \(2, 3, 5\)",
    ),
    (lambda: swing().terms["ce"].value(plain_view()), "private: .* are missing"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
  assert isinstance(caught.value, UserError) or not message.startswith("method")


def test_probabilities_outside_0_and_1_do_not_pass():
  total = jax.jit(lambda rho: swing().terms["swing"].value(view(private=rho)))
  assert np.isnan(np.asarray(total(jnp.float32(RHO).at[0, 0].set(1.5))))[0]
  with pytest.raises(ValueError, match=r"rho must be in \[0, 1\]"):
    value(swing(), "swing", private=jnp.float32(RHO) - 1)
