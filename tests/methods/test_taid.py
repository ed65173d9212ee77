"""TAID: its gradient, its schedule against plain Python, when the schedule is more than linear, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_step import COUNTED, STUDENT, TEACHER, log_softmax, reduced, step

from jdistill.base import UserError
from jdistill.methods.language import taid as module
from jdistill.methods.language.divergences import fkl
from jdistill.methods.language.taid import taid


def memory(t=0.4, **changes):
  return module._begin(jax.random.key(0), 0.4) | {"t": jnp.float32(t)} | changes


def gradient(recipe, name, **given):
  """Of a term in the student's logits, in this step."""
  here = step(**given)

  def value(logits):
    return recipe.terms[name].value(here._replace(student=here.student._replace(logits=logits)))

  return np.asarray(jax.grad(value)(here.student.logits), np.float64)


def target(t, student=STUDENT):
  return np.exp(log_softmax((1 - t) * student + t * TEACHER))


def loss(t, student=STUDENT):
  """In NumPy: the cross entropy without the entropy of its target."""
  return reduced(-(target(t, student) * log_softmax(student)).sum(-1))


def test_the_loss_is_the_cross_entropy_with_the_interpolated_target():
  value = taid().terms["taid"].value(step(memory=memory(0.3)))
  assert float(value) == pytest.approx(loss(0.3), rel=1e-5)


def test_nothing_is_learned_at_the_student_itself():
  np.testing.assert_allclose(gradient(taid(), "taid", memory=memory(0.0)), 0, atol=1e-7)  # a rounding of 1 in float32


@pytest.mark.parametrize("t", [0.25, 0.7, 1.0])
def test_the_gradient_is_student_minus_target(t):
  want = np.where(COUNTED[..., None], np.exp(log_softmax(STUDENT)) - target(t), 0) / COUNTED.sum()
  np.testing.assert_allclose(gradient(taid(), "taid", memory=memory(t)), want, atol=1e-6)


def test_at_the_teacher_it_descends_as_the_forward_divergence_does():
  own, plain = gradient(taid(), "taid", memory=memory(1.0)), gradient(fkl(), "fkl")
  np.testing.assert_allclose(own, plain, atol=1e-6)
  assert np.abs(plain).max() > 0.01


def schedule(losses, *, start, end, rate, beta, total, adaptive=True):
  """`t` and momentum after every update, as the card has it, in plain Python."""
  t, before, momentum, out = start, None, 0.0, []
  for n, now in enumerate(losses):
    if before is not None:
      momentum = beta * momentum + (1 - beta) * (before - now) / (before + 1e-15)
      floor = start + (end - start) * n / total
      ahead = t + rate / (1 + math.exp(-momentum)) * (1 - t)
      t = min(end, max(floor, ahead)) if adaptive else floor
    before = now
    out.append((t, momentum))
  return np.array(out)


def walked(losses, *, start=0.4, end=1.0, rate=5e-4, beta=0.99, total=None, adaptive=True):
  """The same by the recipe's own update, and in how many updates the adaptive branch won."""
  losses = jnp.asarray(losses, jnp.float32)
  total = total or len(losses)

  @jax.jit
  def run(losses):
    def one(state, now):
      floor = start + (end - start) * state["n"].astype(jnp.float32) / total
      state = module._next(state, now, floor, end, rate, beta, adaptive)
      return state, (state["t"], state["momentum"])

    return jax.lax.scan(one, memory() | {"t": jnp.float32(start)}, losses)

  state, rows = run(losses)
  return np.stack(rows, 1), float(state["won"])


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_schedule_is_the_papers(adaptive):
  rng = np.random.default_rng(0)
  losses = 3 * np.exp(-np.arange(300) / 80) + rng.uniform(0.5, 1.5, 300)
  options = {"start": 0.2, "end": 0.9, "rate": 0.02, "beta": 0.9, "total": 400, "adaptive": adaptive}
  found, _ = walked(losses, **options)
  np.testing.assert_allclose(found, schedule(losses, **options), rtol=2e-4, atol=2e-6)
  assert found[0, 0] == pytest.approx(0.2) and found[0, 1] == 0  # the first update only stores its loss
  assert (np.diff(found[:, 0]) >= 0).all() and found[:, 0].max() <= 0.9 + 1e-6


def test_the_update_uses_the_loss_of_the_step_and_the_share_of_epochs_that_is_done():
  recipe, students = taid(rate=0.3, momentum=0.5), [STUDENT, 0.8 * STUDENT, 0.2 * TEACHER, STUDENT]
  state, losses = recipe.memory.init(jax.random.key(0), 3, None), []
  for n, student in enumerate(students):
    losses.append(loss(float(state["t"]), student))
    here = step(student, memory=state, epoch=n / 2, epochs=10.0)
    shown = recipe.metrics(here)
    assert shown["t"] == state["t"] and shown["momentum"] == state["momentum"]
    t = float(state["t"])
    entropy = reduced(-(target(t, student) * np.log(target(t, student))).sum(-1))
    assert float(shown["kl_to_target"]) == pytest.approx(losses[-1] - entropy, abs=1e-5)
    state = recipe.memory.update(here)
  want = schedule(losses, start=0.4, end=1.0, rate=0.3, beta=0.5, total=20)[-1]
  np.testing.assert_allclose([state["t"], state["momentum"]], want, rtol=1e-4)
  assert int(state["n"]) == 4 and float(state["before"]) == pytest.approx(losses[-1], rel=1e-5)


def test_a_given_number_of_updates_counts_them_instead():
  state = memory() | {"n": jnp.int32(30), "before": jnp.float32(1.0)}
  by_steps = taid(steps=120, rate=0.0).memory.update(step(memory=state))
  by_epochs = taid(rate=0.0).memory.update(step(memory=state, epoch=2.5, epochs=10.0))
  assert float(by_steps["t"]) == pytest.approx(0.4 + 0.6 * 0.25) == float(by_epochs["t"])


def test_a_flat_loss_moves_it_as_the_card_has_measured():
  found, _ = walked(np.ones(10_001), total=100_000)
  np.testing.assert_allclose(found[[1000, 5000, 10_000], 0], [0.53, 0.83, 0.95], atol=5e-3)


def test_with_few_updates_the_paper_s_rate_is_the_linear_schedule():
  losses = 3 * np.exp(-np.arange(1000) / 300) + 1
  found, won = walked(losses)
  linear, _ = walked(losses, adaptive=False)
  np.testing.assert_allclose(found[:, 0], linear[:, 0], atol=1e-4)
  assert won <= 5  # near t = 1 the two are equal up to rounding


def test_the_adaptive_branch_fires_where_rate_and_updates_make_eight():
  losses = 3 * np.exp(-np.arange(1000) / 300) + 1
  found, won = walked(losses, rate=8e-3)
  linear, _ = walked(losses, rate=8e-3, adaptive=False)
  assert won > 500 and (found[:, 0] - linear[:, 0]).max() > 0.2
  assert (found[:, 0] >= linear[:, 0] - 1e-6).all()


@pytest.mark.parametrize(("updates", "fires"), [(3900, False), (4100, True)])
def test_the_crossover_is_at_two_over_the_rate(updates, fires):
  assert (walked(np.ones(200), total=updates)[1] > 100) == fires
  assert (taid(rate=5e-4).advice(updates) == "") == fires


def test_advice_names_rate_and_cure():
  words = taid(rate=5e-4).advice(480)
  assert words.startswith(
    "method.rate=0.0005 x 480 updates = 0.24: at most 2 leaves TAID the linear schedule; set rate=0.017"
  )
  assert "\n" not in words and taid(rate=8 / 480).advice(480) == ""
  assert taid(rate=5e-4, steps=16_000).advice(480) == ""  # a part of a longer training
  assert taid(rate=0.0, adaptive=False).advice(480) == "" and fkl().advice(480) == ""


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"t_start": 0.8, "t_end": 0.5}, r"method\.t_end=0\.5: must be at least t_start=0\.8"),
    ({"t_start": 1.0}, r"method\.t_start=1"),
    ({"t_end": 0.0}, r"method\.t_end=0"),
    ({"rate": 1.5}, r"method\.rate=1\.5"),
    ({"momentum": 1.0}, r"method\.momentum=1"),
    ({"steps": 0}, r"method\.steps=0"),
  ],
)
def test_options_out_of_range(options, message):
  with pytest.raises(UserError, match=message):
    taid(**options)


def test_an_unknown_number_of_updates_is_refused():
  with pytest.raises(ValueError, match=r"taid: how many updates there are in all is not known; set method\.steps"):
    taid().memory.update(step(memory=memory()))
