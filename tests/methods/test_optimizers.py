"""Schedules and optimisers against literal numbers and loops in NumPy float64, as PyTorch's recipes state them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.methods.optimizers import OPTIMIZERS, SCHEDULES, decays, make_optimizer, schedule

P = {"w": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": np.array([0.3, -0.4])}
GRADS = [{"w": np.array([[0.5, 1.0], [-2.0, 0.25]]) * s, "b": np.array([1.0, -0.5]) * s} for s in (1.0, -0.5, 2.0)]


def rates(epochs_done, kind, lr=0.4, **options):
  rate = schedule(kind, lr, **options)
  return [float(rate(jnp.float32(epoch))) for epoch in epochs_done]


@pytest.mark.parametrize(
  ("kind", "options", "want"),
  [
    ("constant", {}, [0.4, 0.4, 0.4]),
    ("cosine", {}, [0.4, 0.2, 0.0]),
    ("cosine", {"final_lr": 0.1}, [0.4, 0.25, 0.1]),
    ("linear", {"final_lr": 0.1}, [0.4, 0.25, 0.1]),
    ("poly", {"power": 2.0}, [0.4, 0.1, 0.0]),
  ],
)
def test_start_middle_and_end(kind, options, want):
  assert rates([0, 5, 10], kind, epochs=10, **options) == pytest.approx(want, abs=1e-6)
  assert rates([11], kind, epochs=10, **options) == pytest.approx(want[-1:], abs=1e-6)


def test_cosine_is_the_formula_in_between():
  steps = np.arange(0, 30, 7)
  want = 0.05 + (0.4 - 0.05) * (1 + np.cos(np.pi * steps / 30)) / 2
  assert rates(steps, "cosine", epochs=30, final_lr=0.05) == pytest.approx(want.tolist(), rel=1e-5)


def test_poly_is_the_formula_of_segmentation():
  steps = np.array([0, 3, 9])
  want = 0.4 * (1 - steps / 10) ** 0.9
  assert rates(steps, "poly", epochs=10) == pytest.approx(want.tolist(), rel=1e-5)


def test_milestones_are_epochs_from_the_start_with_and_without_a_warm_up():
  """150, 180 and 210 of 240 epochs, cut down: the rate drops with the first step of the epoch."""
  plain = rates(range(12), "step", epochs=12, milestones=(6, 9))
  assert plain == pytest.approx([0.4] * 6 + [0.04] * 3 + [0.004] * 3)
  edge = rates([5.75, 6, 8.75, 9], "step", epochs=12, milestones=(6, 9))
  assert edge == pytest.approx([0.4, 0.04, 0.04, 0.004])
  warm = rates([0, 1, 2, 5.75, 6, 8.75, 9], "step", epochs=12, milestones=(6, 9), warmup_epochs=2)
  assert warm == pytest.approx([0.0, 0.2, 0.4, 0.4, 0.04, 0.04, 0.004])
  assert rates([3], "step", epochs=4, milestones=(2,), factor=0.5) == pytest.approx([0.2])


def test_a_warm_up_takes_its_part_and_the_schedule_the_rest():
  found = rates([0, 0.25, 0.5, 1, 3, 5], "cosine", epochs=5, warmup_epochs=1)
  assert found == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.2, 0.0], abs=1e-6)
  assert rates([0, 0.25, 0.5], "linear", epochs=5, warmup_epochs=0.5) == pytest.approx([0.0, 0.2, 0.4])


def test_rates_are_float32_scalars_inside_a_program():
  for kind in SCHEDULES:
    rate = jax.eval_shape(schedule(kind, 0.1, epochs=3, milestones=(1,), warmup_epochs=1.0), jnp.float32(0))
    assert (rate.shape, rate.dtype) == ((), jnp.float32)


def walk(kind, lr=0.1, **options):
  """Parameters after three steps, as updates are applied."""
  optimizer = make_optimizer(kind, lr, **options)
  params = jax.tree.map(jnp.float32, P)
  state = optimizer.init(params)
  for epoch, grads in enumerate(GRADS):
    updates, state = optimizer.update(jax.tree.map(jnp.float32, grads), state, params, epoch=jnp.float32(epoch))
    params = jax.tree.map(jnp.add, params, updates)
  return params


def np_walk(rule, lr=0.1):
  """The same with `rule(parameter, gradient, memory, step) -> change of one leaf`."""
  out = {}
  for name, p in P.items():
    memory = {}
    for step, grads in enumerate(GRADS, 1):
      p = p - lr * rule(name, p, grads[name], memory, step)
    out[name] = p
  return out


def close(a, b):
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_sgd_is_pytorchs(nesterov, decay_all):
  """Decay in the gradient, no dampening, and the rate outside of the momentum."""

  def rule(name, p, g, memory, step):
    g = g + (0.01 * p if decay_all or name == "w" else 0)
    memory["v"] = 0.9 * memory.get("v", 0) + g
    return g + 0.9 * memory["v"] if nesterov else memory["v"]

  close(walk("sgd", nesterov=nesterov, weight_decay=0.01, decay_all=decay_all), np_walk(rule))


def test_sgd_without_momentum():
  close(walk("sgd", momentum=0.0), np_walk(lambda name, p, g, memory, step: g))


def test_the_rate_may_change_with_the_epoch():
  rate = schedule("linear", 0.3, epochs=3)
  found = walk("sgd", rate, momentum=0.0)
  want = {name: p - sum((0.3 - 0.1 * i) * g[name] for i, g in enumerate(GRADS)) for name, p in P.items()}
  close(found, want)


@pytest.mark.parametrize("milestone", [0.5, 1, 2])
def test_the_momentum_starts_again_at_a_milestone(milestone):
  """As an optimiser that is built anew before the first update that reaches it."""

  def rule(name, p, g, memory, step):
    again = step - 1 == np.ceil(milestone)
    memory["v"] = g + (0 if again else 0.9 * memory.get("v", 0))
    return memory["v"]

  close(walk("sgd", restart=(milestone,)), np_walk(rule))


def test_a_restart_empties_all_moments_and_happens_once():
  optimizer, zero = make_optimizer("adam", 0.1, restart=(1.0, 1.5)), jnp.zeros(2)
  state = optimizer.init(zero)
  found = []
  for epoch in (0.0, 0.5, 1.0, 1.25, 2.0):
    updates, state = optimizer.update(jnp.float32([1.0, -2.0]), state, zero, epoch=jnp.float32(epoch))
    found.append((int(state.inner[0].count), int(state.passed)))
  assert found == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
  np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=1e-5)  # a first step of Adam


def test_a_schedule_and_a_restart_need_the_epoch():
  for optimizer in (make_optimizer("sgd", schedule("cosine", 0.1, epochs=2)), make_optimizer("sgd", 0.1, restart=(1,))):
    with pytest.raises(ValueError, match="epoch: missing"):
      optimizer.update(jnp.zeros(2), optimizer.init(jnp.zeros(2)), jnp.zeros(2))


def moments(g, memory, step, b2):
  memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
  memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
  return memory["m"] / (1 - 0.9**step) / (np.sqrt(memory["v"] / (1 - b2**step)) + 1e-8)


@pytest.mark.parametrize("decay_all", [False, True])
def test_adam_decays_in_the_gradient_and_adamw_beside_it(decay_all):
  def decay(name, p):
    return 0.05 * p if decay_all or name == "w" else 0

  def adam(name, p, g, memory, step):
    return moments(g + decay(name, p), memory, step, 0.999)

  def adamw(name, p, g, memory, step):
    return moments(g, memory, step, 0.95) + decay(name, p)

  close(walk("adam", weight_decay=0.05, decay_all=decay_all), np_walk(adam))
  close(walk("adamw", weight_decay=0.05, decay_all=decay_all, b2=0.95), np_walk(adamw))


def test_lamb_scales_every_leafs_step_to_the_norm_of_its_parameters():
  def rule(name, p, g, memory, step):
    move = moments(g, memory, step, 0.999) + (0.05 * p if name == "w" else 0)
    return move * np.linalg.norm(p) / np.linalg.norm(move)

  found, want = walk("lamb", weight_decay=0.05, decay_all=False), np_walk(rule)
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-5), found, want)


def test_the_clip_is_of_the_global_norm_and_before_the_decay():
  norms = [np.sqrt(sum((g**2).sum() for g in grads.values())) for grads in GRADS]
  assert norms[1] < 2 < norms[0]  # one stays as it is
  scales = iter([min(1.0, 2.0 / norm) for norm in norms] * 2)
  found = walk("sgd", momentum=0.0, weight_decay=0.01, clip=2.0)
  close(found, np_walk(lambda name, p, g, memory, step: g * next(scales) + 0.01 * p))


def test_biases_and_norms_are_what_decay_can_spare():
  found = decays({"kernel": jnp.ones((2, 3)), "conv": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(3), "t": jnp.ones(())})
  assert found == {"kernel": True, "conv": True, "bias": False, "t": False}


def test_unknown_names_list_the_known_ones():
  with pytest.raises(ValueError, match="optimizer 'sdg': unknown; choose one of sgd, adam, adamw, lamb"):
    make_optimizer("sdg", 0.1)
  with pytest.raises(ValueError, match="schedule 'cosin': unknown; choose one of constant, cosine"):
    schedule("cosin", 0.1, epochs=1)
  assert set(OPTIMIZERS) == {"sgd", "adam", "adamw", "lamb"}
