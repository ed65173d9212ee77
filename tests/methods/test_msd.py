"""MSD: parts of conditions, students that share nothing, who serves which condition, and teacher score matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion, models
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.diffusion import Draws
from jdistill.methods.diffusion import dmd2 as base
from jdistill.methods.diffusion.msd import msd, tsm
from jdistill.methods.diffusion.parts import spread
from jdistill.methods.knowledge import StudentInput, predictor, student_method
from jdistill.methods.knowledge.recipe import OwnInputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

SHAPE, SIZE, CONDITIONS = (1, 1, 2), 8, 4
SIZES = {"num_classes": CONDITIONS, "image_shape": SHAPE, "features": 8, "t_max": 5.0}
NETWORK = models.build("denoising_mlp", widths=(8,), **SIZES)
TEACHER = Variables(jax.tree.map(lambda leaf: leaf + 0.1, NETWORK.init(jax.random.key(5)).params))
FROZEN = committee([NETWORK], [TEACHER])
OPTIONS = {"ratio": 2, "student_start": "random", "gan_weight": 0.5, "critic_weight": 1.0, "hidden": 4}
CLIP, RATE = 0.05, 0.01


def batch():
  x = np.float32(np.random.default_rng(0).normal(size=(SIZE, *SHAPE)))
  return Batch(jnp.asarray(x), jnp.arange(SIZE, dtype=jnp.int32) % CONDITIONS, jnp.arange(SIZE, dtype=jnp.int32))


def given(step, start=None):
  return StudentInput(batch(), jnp.int32(step), jnp.float32(0), None, FROZEN.arrays, start=start)


def method_of(recipe, network=NETWORK):
  optimizer = make_optimizer("adam", RATE, clip=CLIP)
  return student_method(network, recipe, optimizer=optimizer, targets=FROZEN.targets, teachers=FROZEN.networks)


def run(recipe, steps):
  method = method_of(recipe)
  states, step = [method.init(jax.random.key(1), given(0))], jax.jit(method.step)
  for number in range(steps):
    states.append(step(jax.random.fold_in(jax.random.key(2), number), states[-1], given(number))[0])
  return states


def params(state, *names):
  return {name: state.roles[name].params for name in names}


def test_parts_are_equal_and_whole():
  np.testing.assert_array_equal(diffusion.partition_conditions(6, 3), [0, 0, 1, 1, 2, 2])
  key = jax.random.key(0)
  mixed = [np.asarray(diffusion.partition_conditions(12, 3, rule="random", key=jax.random.key(k))) for k in range(2)]
  assert all((np.bincount(one) == 4).all() for one in mixed) and (mixed[0] != mixed[1]).any()
  # three groups of unequal size: five points are near the first, one of which has to go to another cluster
  places = np.array([0.0] * 5 + [10.0] * 4 + [20.0] * 3) + np.linspace(0, 0.5, 12)
  order = np.random.default_rng(0).permutation(12)
  embeddings = jnp.float32(places[order])[:, None]
  for one in range(3):
    rule = {"rule": "kmeans_balanced", "key": jax.random.key(one), "embeddings": embeddings}
    found = np.asarray(jax.jit(lambda rule=rule: diffusion.partition_conditions(12, 3, **rule))())
    assert (np.bincount(found) == 4).all()
    if len({found[order == p].item() for p in (0, 5, 9)}) == 3:  # it began in all three groups
      assert len(set(found[np.isin(order, (5, 6, 7, 8))])) <= 2
  even = {"rule": "kmeans_balanced", "key": key, "embeddings": jnp.float32(np.eye(2)[np.array([0, 1, 1, 0])]) * 9}
  found = np.asarray(diffusion.partition_conditions(4, 2, **even))
  assert found[0] == found[3] != found[1] == found[2]


def test_routes():
  assignment = jnp.array([1, 0, 1, 0], jnp.int32)
  owned = diffusion.owned_conditions(assignment, 2)
  np.testing.assert_array_equal(owned, [[1, 3], [0, 2]])
  np.testing.assert_array_equal(diffusion.route(assignment, jnp.array([3, 2, 0])), [0, 1, 1])
  drawn = np.asarray(diffusion.sample_condition(jax.random.key(0), owned[1], 4000))
  assert set(drawn) == {0, 2} and abs(np.mean(drawn == 0) - 0.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: diffusion.partition_conditions(4, 5), "students=5: must be from 1 to the 4 conditions"),
    (lambda: diffusion.partition_conditions(4, 0), "students=0: must be from 1"),
    (lambda: diffusion.partition_conditions(5, 3), "students=3: 5 conditions would be parts of 2, 2, 1; choose"),
    (lambda: diffusion.partition_conditions(4, 2, rule="halves"), "rule 'halves' is unknown; choose one of blocks"),
    (lambda: diffusion.partition_conditions(4, 2, rule="random"), "rule 'random' needs a key"),
    (
      lambda: diffusion.partition_conditions(4, 2, rule="kmeans_balanced", key=jax.random.key(0)),
      r"embeddings must be \[4, D\], got None",
    ),
    (lambda: diffusion.owned_conditions(jnp.array([0, 0, 0, 1]), 2), r"parts of sizes \[3, 1\]; all must be equal"),
    (
      lambda: diffusion.owned_conditions(jnp.array([0, 1, 2, 1]), 2),
      "no student owns condition 2",
    ),
  ],
)
def test_bad_parts(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_one_student_is_dmd2_bit_for_bit():
  plain, one = run(base.dmd2(**OPTIONS), 4), run(msd(student_count=1, **OPTIONS), 4)
  for a, b in zip(plain, one, strict=True):
    names = ("student", "fake", "critic")
    jax.tree.map(np.testing.assert_array_equal, params(a, *names), params(b, *names))
  changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), params(plain[0], "student"), params(plain[-1], "student"))
  assert any(jax.tree.leaves(changed))


def test_students_share_nothing():
  """Each beside DMD2 on its own conditions and real examples, with its own clipped norm."""
  states = run(msd(student_count=2, **OPTIONS), 3)
  options = base.Options(2, 1, 1.0, 0.5, 1.0, "dmd", 1.0, "bottleneck", 4)
  optimizer = make_optimizer("adam", RATE, clip=CLIP)

  @jax.jit
  def update(key, own, memory, step, owned):
    where, pairs = jnp.isin(batch().y, owned), ((NETWORK, TEACHER),)
    made = base.update(
      options, OwnInputs(key, NETWORK, own, batch(), where, pairs, (), step, jnp.float32(0), None), owned
    )
    new, kept = {}, {}
    for name, grad in made.grads.items():
      change, kept[name] = optimizer.update(grad, memory[name], own[name], epoch=jnp.float32(0))
      new[name] = jax.tree.map(jnp.add, own[name], change)
      moves = made.moves.get(name, True)
      still = (own[name], memory[name])
      new[name], kept[name] = jax.tree.map(lambda a, b, m=moves: jnp.where(m, a, b), (new[name], kept[name]), still)
    return new, kept

  for k, owned in enumerate(([0, 1], [2, 3])):
    own = jax.tree.map(lambda leaf, k=k: leaf[k], params(states[0], "student", "fake", "critic"))
    memory = {name: optimizer.init(one) for name, one in own.items()}
    for step in range(3):
      key = jax.random.split(jax.random.fold_in(jax.random.key(2), step))[1]
      key = key if k == 0 else jax.random.fold_in(key, k)
      own, memory = update(key, own, memory, jnp.int32(step), jnp.array(owned, jnp.int32))
      found = jax.tree.map(lambda leaf, k=k: leaf[k], params(states[step + 1], "student", "fake", "critic"))
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), found, own)
  first, second = (jax.tree.map(lambda leaf, k=k: leaf[k], params(states[-1], "student")) for k in (0, 1))
  assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), first, second)))


def affine(about):
  def apply(params, x, **_):
    x0 = params["a"] * x.x / (1 + diffusion.per_example(x.t, x.x)) + params["b"].reshape(1, 1, 1, -1)
    return Outputs(x0, x0.reshape(len(x.t), -1), {"bottleneck": x0})

  return Network(lambda key: Variables({"a": jnp.ones(()), "b": jnp.zeros(2)}), apply, denoiser=about)


def test_a_sample_is_made_by_its_student():
  network = affine(NETWORK.denoiser)
  recipe = msd(student_count=2, partition_rule="random", sample_steps=2, student_start="random")
  method = method_of(recipe, network)
  trained = method.result(method.init(jax.random.key(1), given(0)))
  assignment = np.asarray(trained.variables["router"].params["assignment"])
  assert sorted(assignment) == [0, 0, 1, 1]
  own = {"a": jnp.zeros(2), "b": jnp.float32([[1, 2], [3, 4]])}
  trained = trained._replace(variables=trained.variables | {"student": Variables(own)})
  cond = jnp.array([3, 0, 1, 2, 2], jnp.int32)
  draws = Draws(jax.random.normal(jax.random.key(0), (5, *SHAPE)), cond, jnp.arange(5, dtype=jnp.int32))
  found = predictor(network, recipe)(trained, (), draws)
  np.testing.assert_allclose(found.reshape(5, 2), np.asarray(own["b"])[assignment[np.asarray(cond)]], rtol=1e-6)


@pytest.mark.parametrize(("rows", "students"), [(1, 4), (8, 4), (13, 5), (3, 5), (12, 1)])
def test_each_row_is_answered_once_by_its_owner(rows, students):
  """Whatever the shares: even ones, one network for all, and networks without rows."""
  rng, asked = np.random.default_rng(rows), []

  def answer(number, x):
    asked.append(len(x["a"]))
    return {"made": x["a"] * 10.0 + jnp.float32(number), "b": x["b"] + jnp.float32(number)}

  x = {"a": jnp.arange(rows, dtype=jnp.float32), "b": jnp.asarray(rng.normal(size=(rows, 2)))}
  run = jax.jit(lambda owner: diffusion.by_owner(answer, students, owner, x))
  for owner in (rng.integers(0, students, rows), np.arange(rows) % students, np.full(rows, students - 1)):
    made = run(jnp.int32(owner))
    np.testing.assert_array_equal(made["made"], np.arange(rows) * 10.0 + owner)
    np.testing.assert_allclose(made["b"], np.asarray(x["b"]) + owner[:, None], rtol=1e-6)
  assert set(asked) == {-(-rows // students)}  # so that a loop of 2 students - 1 blocks asks fewer than twice


def test_neighbours_that_do_not_count_are_left_out_of_the_spread():
  x = np.random.default_rng(0).normal(size=(6, 1, 1, 2)).astype(np.float32)
  where = np.array([1, 0, 1, 1, 0, 1], bool)
  holes = np.where(where[:, None, None, None], x, np.nan)
  np.testing.assert_allclose(spread(jnp.asarray(holes), jnp.asarray(where)), spread(jnp.asarray(x[where])), rtol=1e-6)
  assert float(spread(jnp.asarray(x), jnp.arange(6) == 2)) == 0 == float(spread(jnp.asarray(x), jnp.zeros(6, bool)))


def test_phases_before():
  first = NETWORK.init(jax.random.key(7))
  recipe = msd(student_count=2, **OPTIONS)
  copies = method_of(recipe).init(jax.random.key(1), given(0, first)).roles["student"].params
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.stack([b, b])), copies, first.params)
  apart = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), first)
  kept = method_of(recipe).init(jax.random.key(1), given(0, apart)).roles["student"].params
  jax.tree.map(np.testing.assert_array_equal, kept, apart.params)


def test_teacher_score_matching_is_its_formula():
  network, key = affine(NETWORK.denoiser), jax.random.key(3)
  own, other = ({"a": jnp.float32(a), "b": jnp.float32(b)} for a, b in ((0.3, [0.1, 0.4]), (0.8, [0.2, -0.1])))
  where = jnp.arange(SIZE) < SIZE - 1
  pairs = ((network, Variables(other)),)
  made = tsm().own.update(
    OwnInputs(key, network, {"student": own}, batch(), where, pairs, (), jnp.int32(0), jnp.float32(0), None)
  )
  key_t, key_eps = jax.random.split(key)
  t = np.float64(NETWORK.denoiser.schedule.sample_t(key_t, (SIZE,))).reshape(-1, 1, 1, 1)
  x_t = np.float64(batch().x) + t * np.float64(jax.random.normal(key_eps, (SIZE, *SHAPE)))
  one, two = (float(p["a"]) * x_t / (1 + t) + np.float64(p["b"]).reshape(1, 1, 1, -1) for p in (own, other))
  scale = (1 / t**2 + 4)[:-1] / (SIZE - 1) / 2  # sigma_data is 0.5
  np.testing.assert_allclose(made.metrics["loss/tsm"], np.sum(scale * (one - two)[:-1] ** 2), rtol=1e-4)
  np.testing.assert_allclose(
    made.grads["student"]["b"], np.sum(2 * scale * (one - two)[:-1], axis=(0, 1, 2)), rtol=1e-4
  )


def test_what_is_refused():
  def begin(recipe, conditions=CONDITIONS, student=None):
    teacher = models.build("denoising_mlp", widths=(8,), **(SIZES | {"num_classes": conditions}))
    frozen = committee([teacher], [teacher.init(jax.random.key(0))])
    optimizer = make_optimizer("adam", 0.01)
    method = student_method(
      student or teacher, recipe, optimizer=optimizer, targets=frozen.targets, teachers=frozen.networks
    )
    jax.eval_shape(
      method.init, jax.random.key(0), StudentInput(batch(), jnp.int32(0), jnp.float32(0), None, frozen.arrays)
    )

  with pytest.raises(UserError, match=r"method\.student_count=2: a teacher without conditions; set task\.conditions="):
    begin(msd(student_count=2), conditions=1)
  with pytest.raises(UserError, match=r"method\.student_count=5: must be from 1 to the 4 conditions"):
    begin(msd(student_count=5))
  with pytest.raises(UserError, match=r"method\.student_count=3: 4 conditions would be parts of 2, 1, 1; choose"):
    begin(msd(student_count=3))
  with pytest.raises(UserError, match=r"method\.student_count=0: must be at least 1"):
    msd(student_count=0)
  small = models.build("denoising_mlp", widths=(4,), **SIZES)
  with pytest.raises(UserError, match=r"method\.student_start='teacher': .* or a start_method such as 'tsm'"):
    begin(msd(student_count=2), student=small)
  with pytest.raises(UserError, match=r"student: knows 2 conditions, and its teacher 4"):
    begin(tsm(), student=models.build("denoising_mlp", widths=(8,), **(SIZES | {"num_classes": 2})))
