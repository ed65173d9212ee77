"""DisBack: what is recorded, which target stands when, and that nothing else differs from its base method."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Batch, UserError, Variables
from jdistill.methods.diffusion.disback import disback, straight, target_node
from jdistill.methods.diffusion.dmd2 import dmd2
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.knowledge.recipe import OwnInputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

SHAPE, SIZE = (1, 1, 2), 8
NETWORK = models.build("denoising_mlp", num_classes=1, image_shape=SHAPE, widths=(8,), features=8, t_max=5.0)
TEACHER = jax.tree.map(lambda leaf: leaf + 0.1, NETWORK.init(jax.random.key(5)).params)
FROZEN = committee([NETWORK], [Variables(TEACHER)])
DATA = Batch(jnp.zeros((SIZE, *SHAPE)), jnp.zeros(SIZE, jnp.int32), jnp.arange(SIZE, dtype=jnp.int32))
RATE = 0.01
PLAIN = {"ratio": 2, "student_start": "random"}


def run(recipe, steps):
  """`(state before each update and after the last, metrics)` of a training with SGD."""
  method = student_method(
    NETWORK, recipe, optimizer=make_optimizer("sgd", RATE, momentum=0.0), targets=FROZEN.targets,
    teachers=FROZEN.networks,
  )  # fmt: skip
  given = lambda step: StudentInput(DATA, jnp.int32(step), jnp.float32(0), None, FROZEN.arrays)  # noqa: E731
  states, metrics, step = [method.init(jax.random.key(1), given(0))], [], jax.jit(method.step)
  for number in range(steps):
    state, found = step(jax.random.fold_in(jax.random.key(2), number), states[-1], given(number))
    states.append(state)
    metrics.append(found)
  return states, metrics


def params(states, role, step):
  return states[step].roles[role].params


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.all(np.asarray(x) == np.asarray(y))), a, b)))


def asked(recipe):
  """`(roles, draws, step, memory, teacher) -> OwnUpdate` with the draws of an update of `run`, as update `step`."""

  @jax.jit
  def ask(roles, draws, step, memory=(), teacher=TEACHER):
    key = jax.random.split(jax.random.fold_in(jax.random.key(2), draws))[1]
    teachers = ((NETWORK, Variables(teacher)),)
    where = jnp.ones(SIZE, bool)
    return recipe.own.update(
      OwnInputs(key, NETWORK, roles, DATA, where, teachers, memory, jnp.int32(step), jnp.float32(0), 1.0)
    )

  return ask


PLAIN_UPDATE = asked(dmd2(**PLAIN))


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def roles_at(states, step):
  return {name: role.params for name, role in states[step].roles.items()}


def test_targets_walk_back_to_the_teacher():
  recipe = disback(record_steps=6, record_interval=2, node_steps=3, gan_weight=0.5, **PLAIN)
  states, metrics = run(recipe, 15)
  # the generator and the critic rest, and the follower moves away from the teacher
  assert same(params(states, "student", 0), params(states, "student", 6))
  assert same(params(states, "critic", 0), params(states, "critic", 6))
  assert not same(params(states, "student", 6), params(states, "student", 7))
  assert not same(params(states, "critic", 6), params(states, "critic", 7))
  nodes = [jax.tree.map(lambda leaf, i=i: leaf[i], states[-1].memory.nodes) for i in range(4)]
  for node, step in enumerate((0, 2, 4, 6)):
    assert same(nodes[node], params(states, "fake", step))
  assert same(nodes[0], TEACHER) and not any(same(a, b) for a, b in itertools.pairwise(nodes))
  assert [int(one["method/node"]) for one in metrics] == [3] * 6 + [2] * 3 + [1] * 3 + [0] * 3
  # every update of the backtracking is one of DMD2 with the node in the teacher's place
  own, base = asked(recipe), asked(dmd2(gan_weight=0.5, **PLAIN))
  for step, node in ((6, 2), (8, 2), (10, 1), (12, 0), (14, 0)):
    roles = roles_at(states, step)
    made, want = own(roles, step, step, states[step].memory), base(roles, step, step - 6, (), nodes[node])
    close(made.grads, want.grads)
    assert bool(made.moves["student"]) == bool(want.moves["student"]) and want.metrics["method/gap"] > 0
    np.testing.assert_allclose(made.metrics["method/gap"], want.metrics["method/gap"], rtol=1e-4)
    other = base(roles, step, step - 6, (), nodes[(node + 1) % 4])
    assert abs(float(other.metrics["method/gap"] / want.metrics["method/gap"]) - 1) > 1e-3


def test_the_degradation_is_the_denoising_loss_of_resting_samples():
  recipe = disback(record_steps=3, record_interval=3, **PLAIN)
  states, _ = run(recipe, 3)
  roles = roles_at(states, 2)
  made, want = asked(recipe)(roles, 2, 2, states[2].memory), PLAIN_UPDATE(roles, 2, 1)
  close(made.grads["fake"], want.grads["fake"])
  close(roles_at(states, 3)["fake"], jax.tree.map(lambda p, g: p - RATE * g, roles["fake"], want.grads["fake"]))


def test_a_path_of_one_node_is_dmd2_after_the_degradation():
  recipe = disback(record_steps=4, record_interval=4, node_steps=1, **PLAIN)
  states, _ = run(recipe, 9)
  for step in range(4, 9):
    roles = roles_at(states, step)
    want = PLAIN_UPDATE(roles, step, step - 4)
    for name, grad in want.grads.items():
      rate = RATE * float(want.moves.get(name, True))
      after = jax.tree.map(lambda p, g, rate=rate: p - rate * g, roles[name], grad)
      close(params(states, name, step + 1), after)


def test_clock_and_line():
  want = [2, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0]
  assert [int(target_node(jnp.int32(step), 3, 3)) for step in range(-2, 10)] == want
  assert int(target_node(jnp.int32(0), 1, 7)) == 0
  found = straight({"a": jnp.array([[0.0, 1.0], [9.0, 9.0], [4.0, 3.0]])})["a"]
  np.testing.assert_allclose(found, [[0, 1], [2, 2], [4, 3]])
  a, b = (disback(record_steps=4, record_interval=2, path_kind=path, **PLAIN) for path in ("recorded", "linear"))
  states, _ = run(a, 4)
  memory = states[4].memory
  gaps = [float(asked(one)(roles_at(states, 4), 4, 4, memory).metrics["method/gap"]) for one in (a, b)]
  nodes = jax.tree.map(lambda leaf, new: leaf.at[2].set(new), memory.nodes, params(states, "fake", 4))
  middle = jax.tree.map(lambda leaf: (leaf[0] + leaf[2]) / 2, nodes)
  want = PLAIN_UPDATE(roles_at(states, 4), 4, 0, (), middle).metrics["method/gap"]
  np.testing.assert_allclose(gaps[1], want, rtol=1e-4)
  assert abs(gaps[0] / gaps[1] - 1) > 1e-3


def test_what_is_refused():
  with pytest.raises(UserError, match=r"method\.record_interval=3: must divide record_steps=4"):
    disback(record_steps=4, record_interval=3)
  with pytest.raises(UserError, match=r"method\.record_interval=5: must divide record_steps=4"):
    disback(record_steps=4, record_interval=5)
  with pytest.raises(UserError, match=r"method\.record_steps=0: must be at least 1"):
    disback(record_steps=0)
  recipe = disback(record_steps=4, record_interval=2, node_steps=3)
  recipe.check(8)
  with pytest.raises(UserError, match=r"method\.node_steps=3: the teacher becomes the target after 7 updates, 4 of"):
    recipe.check(7)
