"""Distillation of diffusion models: updates beside plain formulas, exact trajectories, clocks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion, losses, models
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.diffusion import Denoiser, Draws
from jdistill.methods.diffusion.denoise import edm
from jdistill.methods.diffusion.dmd2 import dmd2, student_times
from jdistill.methods.diffusion.parts import row_noise, spread
from jdistill.methods.diffusion.trajectory import boot, consistency, progressive
from jdistill.methods.knowledge import StudentInput, predictor, student_method
from jdistill.methods.knowledge.recipe import OwnInputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

SHAPE, SIZE = (1, 1, 2), 6
MEAN, STD = 0.3, 0.5
KEY = jax.random.key(3)


def known(schedule="edm", prediction="edm", conditions=1):
  return Denoiser(diffusion.schedule(schedule), conditions, SHAPE, 0.5, prediction)


def from_function(function, about):
  """A denoiser `(params, x, t, cond) -> x_0` as a network; its bottleneck is what it predicts."""

  def apply(params, x, **_):
    x0 = function(params, x.x, diffusion.per_example(x.t, x.x), x.cond)
    return Outputs(x0, x0.reshape(len(x.t), -1), {"bottleneck": x0})

  return Network(lambda key: Variables({}), apply, denoiser=about)


def affine(params, x, t, cond):
  return params["a"] * x / (1 + t) + params["b"].reshape(1, 1, 1, -1)


def pair(a, b):
  return {"a": jnp.float32(a), "b": jnp.float32(b)}


def batch(size=SIZE, seed=0):
  x = np.float32(np.random.default_rng(seed).normal(MEAN, STD, (size, *SHAPE)))
  return Batch(jnp.asarray(x), jnp.zeros(size, jnp.int32), jnp.arange(size, dtype=jnp.int32))


def inputs(network, teacher, params, step=0, memory=(), epoch=0.0, epochs=10.0, data=None):
  data = batch() if data is None else data
  where = jnp.ones(data.ids.shape, bool)
  return OwnInputs(KEY, network, params, data, where, (teacher,), memory, jnp.int32(step), jnp.float32(epoch), epochs)


TEACHER = pair(0.8, [0.2, -0.1])
STUDENT, FAKE = pair(0.02, [0.5, 0.4]), pair(0.7, [0.0, 0.3])


def test_dmd2_moves_along_its_formula():
  """One step of the generator beside NumPy in float64, with the same draws."""
  network = from_function(affine, known())
  made = dmd2().own.update(inputs(network, (network, Variables(TEACHER)), {"student": STUDENT, "fake": FAKE}))
  key_z, _, key_match, *_ = jax.random.split(KEY, 6)
  z = np.float64(jax.random.normal(jax.random.split(key_z, 3)[0], (SIZE, *SHAPE)))
  levels = np.float64(known().schedule.grid(1000))
  key_t, key_eps = jax.random.split(key_match)
  t = levels[np.asarray(jax.random.randint(key_t, (SIZE,), 20, 980))].reshape(-1, 1, 1, 1)
  eps = np.float64(jax.random.normal(key_eps, (SIZE, *SHAPE)))

  def ask(params, x, t):
    return float(params["a"]) * x / (1 + t) + np.float64(params["b"]).reshape(1, 1, 1, -1)

  x = ask(STUDENT, 80 * z, 80.0)
  real, fake = (ask(params, x + t * eps, t) for params in (TEACHER, FAKE))
  g = (fake - real) / np.mean(np.abs(x - real), axis=(1, 2, 3), keepdims=True) / x.size
  np.testing.assert_allclose(made.grads["student"]["a"], np.sum(g * 80 * z / 81), rtol=2e-4)
  np.testing.assert_allclose(made.grads["student"]["b"], np.sum(g, axis=(0, 1, 2)), rtol=2e-4)
  np.testing.assert_allclose(made.metrics["method/dm_norm"], np.linalg.norm(g), rtol=2e-4)


def test_the_adversarial_part_is_the_gradient_of_a_plain_loss():
  """Direction and `vjp` beside one loss made of `loss_from_grad` and the generator's loss, for several steps, too."""
  network = from_function(affine, known())
  teacher = (network, Variables(TEACHER))
  for steps in (1, 3):
    recipe = dmd2(gan_weight=0.7, dm_weight=1.3, sample_steps=steps, hidden=4)
    roles = {"student": STUDENT, "fake": FAKE} | recipe.own.init(jax.random.key(1), network, (teacher,))
    roles["fake"] = FAKE
    made = recipe.own.update(inputs(network, teacher, roles))
    alone = dmd2(gan_weight=0.0, dm_weight=1.3, sample_steps=steps).own.update(inputs(network, teacher, roles))
    fooling = dmd2(gan_weight=0.7, dm_weight=0.0, sample_steps=steps, hidden=4).own.update(
      inputs(network, teacher, roles)
    )
    both = jax.tree.map(jnp.add, alone.grads["student"], fooling.grads["student"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), made.grads["student"], both)
    assert float(made.metrics["method/gan_ratio"]) > 0 and set(made.grads) == {"student", "fake", "critic"}
    assert np.abs(np.asarray(made.grads["critic"]["dense0"]["kernel"])).max() > 0


@pytest.mark.parametrize("make", [lambda: dmd2(gan_weight=0.7, hidden=4, ratio=2), edm], ids=["dmd2", "edm"])
@pytest.mark.parametrize("step", [0, 1])
def test_rows_in_chunks_give_the_same_update(make, step):
  """Two of six rows at a time, and one that is padding; eager and jitted."""
  network, recipe = from_function(affine, known()), make()
  teacher = (network, Variables(TEACHER))
  roles = {"student": STUDENT} | recipe.own.init(jax.random.key(1), network, (teacher,))
  roles = roles | {"fake": FAKE} if "fake" in roles else roles
  whole = inputs(network, teacher, roles, step)
  where = jnp.arange(SIZE) != 4
  whole = whole._replace(where=where)
  want = recipe.own.update(whole)
  grads = jax.tree.leaves(want.grads)
  assert all(np.isfinite(leaf).all() for leaf in grads) and any(np.any(leaf) for leaf in grads)
  update = lambda params: recipe.own.update(whole._replace(params=params, chunk_size=2))  # noqa: E731
  for got in (update(roles), jax.jit(update)(roles)):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, (got.grads, got.metrics), (want.grads, want.metrics))


def test_devices_that_share_a_batch_share_what_an_update_draws():
  """No array of a compiled update has all rows of what is drawn but what is drawn itself."""
  network, rows = from_function(affine, known()), []
  recipe, teacher = dmd2(gan_weight=0.7, hidden=4), (network, Variables(TEACHER))
  roles = {"student": STUDENT} | recipe.own.init(jax.random.key(1), network, (teacher,))
  given = inputs(network, teacher, roles)

  def spread(tree):
    rows.extend(leaf.shape[0] for leaf in jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: 2 * leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, tree)

  made = recipe.own.update(given._replace(spread=spread))
  assert set(rows) == {SIZE} and len(rows) >= 10
  # what is drawn has passed through it: other noise, other samples
  assert float(made.metrics["method/spread"]) != float(recipe.own.update(given).metrics["method/spread"])


def test_the_generator_moves_on_its_own_clock():
  network = models.build("denoising_mlp", num_classes=1, image_shape=SHAPE, widths=(8,), features=8)
  frozen = committee([network], [Variables(network.init(jax.random.key(5)).params)])
  method = student_method(
    network, dmd2(ratio=3, student_start="random"), optimizer=make_optimizer("adam", 0.01), targets=frozen.targets,
    teachers=frozen.networks,
  )  # fmt: skip
  given = lambda step: StudentInput(batch(), jnp.int32(step), jnp.float32(0), None, frozen.arrays)  # noqa: E731
  state, step = method.init(KEY, given(0)), jax.jit(method.step)
  moved = []
  for number in range(7):
    new, metrics = step(jax.random.fold_in(KEY, number), state, given(number))
    changed = {
      name: any(
        np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (new.roles[name], state.roles[name])), strict=True)
      )
      for name in ("student", "fake")
    }
    moved.append(changed["student"])
    assert changed["fake"] and np.isfinite(metrics["loss/fake"])
    state = new
  assert moved == [True, False, False, True, False, False, True]


def test_a_student_that_begins_as_its_teacher_gives_the_teachers_samples():
  network = models.build("denoising_mlp", num_classes=3, image_shape=SHAPE, widths=(8,), features=8)
  params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(5)).params)
  frozen = committee([network], [Variables(params)])
  draws = Draws(jax.random.normal(KEY, (5, *SHAPE)), jnp.array([0, 1, 2, 0, 1]), jnp.arange(5, dtype=jnp.int32))
  copied = edm(copied=True, sample_steps=4, solver="ddim")
  for recipe, steps in ((dmd2(), 1), (copied, 4)):
    method = student_method(
      network, recipe, optimizer=make_optimizer("adam", 0.01), targets=frozen.targets, teachers=frozen.networks
    )
    state = method.init(KEY, StudentInput(batch(), jnp.int32(0), jnp.float32(0), None, frozen.arrays))
    found = predictor(network, recipe)(method.result(state), (), draws)
    denoise = diffusion.denoise(network, params, draws.cond)
    x = diffusion.prior(network.denoiser.schedule, draws.eps)
    want = diffusion.ode_sample(network.denoiser.schedule, denoise, x, steps)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_sample_depends_on_its_own_row():
  draws = Draws(jnp.zeros((4, *SHAPE)), jnp.zeros(4, jnp.int32), jnp.array([7, 1, 5, 2], jnp.int32))
  noise = np.asarray(row_noise(draws)(1))
  alone = np.asarray(row_noise(jax.tree.map(lambda leaf: leaf[2:3], draws))(1))
  np.testing.assert_array_equal(noise[2:3], alone)
  assert np.abs(noise - np.asarray(row_noise(draws)(2))).min() > 0


def test_a_students_steps_are_the_papers():
  times = np.asarray(student_times(known("vp_cosine"), 4))
  grid = np.asarray(known("vp_cosine").schedule.grid(1000))
  np.testing.assert_array_equal(times, grid[[0, 250, 500, 750]])  # levels 999, 749, 499 and 249
  with pytest.raises(UserError, match=r"method\.sample_steps=1001: the process has 1000 levels"):
    student_times(known(), 1001)


def test_denoisers_learn_the_loss_of_their_times():
  network = from_function(affine, known())
  made = edm().own.update(inputs(network, None, {"student": STUDENT}))
  key_t, key_eps, _ = jax.random.split(KEY, 3)
  t = np.float64(known().schedule.sample_t(key_t, (SIZE,))).reshape(-1, 1, 1, 1)
  x0, eps = np.float64(batch().x), np.float64(jax.random.normal(key_eps, (SIZE, *SHAPE)))
  error = float(STUDENT["a"]) * (x0 + t * eps) / (1 + t) + np.float64(STUDENT["b"]).reshape(1, 1, 1, -1) - x0
  want = np.mean((1 / t**2 + 4) * error**2)
  np.testing.assert_allclose(made.metrics["loss/denoise"], want, rtol=1e-4)
  some = inputs(network, None, {"student": STUDENT})._replace(where=jnp.arange(SIZE) < SIZE - 1)
  found = edm().own.update(some).metrics["loss/denoise"]
  np.testing.assert_allclose(found, np.mean(((1 / t**2 + 4) * error**2)[:-1]), rtol=1e-4)


def test_padding_may_be_nan():
  network = models.build("denoising_mlp", num_classes=1, image_shape=SHAPE, widths=(4,), features=4)
  method = student_method(network, edm(), optimizer=make_optimizer("adam", 0.01))
  data = batch()._replace(weight=jnp.float32(np.arange(SIZE) < SIZE - 1))
  given = lambda x: StudentInput(data._replace(x=x), jnp.int32(0), jnp.float32(0))  # noqa: E731
  state = method.init(KEY, given(data.x))
  one, other = (method.step(KEY, state, given(data.x.at[-1].set(value))) for value in (0.0, jnp.nan))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def best(about):
  """The exact denoiser of `N(MEAN, STD^2)`."""
  schedule = about.schedule

  def denoise(params, x, t, cond):
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

  return from_function(denoise, about)


def exact_signal(about):
  """`y_t` of the exact trajectory from `eps`, which starts at `t_max` where `x = sigma eps`."""
  schedule = about.schedule

  def signal(params, eps, t, cond):
    last = jnp.asarray(schedule.t_max, eps.dtype)
    start = schedule.sigma(last) * eps
    spread = [jnp.sqrt((schedule.alpha(at) * STD) ** 2 + schedule.sigma(at) ** 2) for at in (last, t)]
    x_t = schedule.alpha(t) * MEAN + spread[1] / spread[0] * (start - schedule.alpha(last) * MEAN)
    return (x_t - schedule.sigma(t) * eps) / schedule.alpha(t)

  return from_function(signal, about)


def test_the_exact_trajectory_has_hardly_a_bootstrap_loss():
  with jax.enable_x64(True):
    about = known("vp_cosine", "x0")._replace(schedule=diffusion.schedule("vp_cosine", t_max=0.95))
    student, teacher = exact_signal(about), (best(about), Variables({}))
    found = {}
    for solver in ("ddim", "heun"):
      for delta in (0.04, 0.02):
        recipe = boot(delta=delta, solver=solver)
        found[solver, delta] = recipe.own.update(inputs(student, teacher, {"student": {}})).metrics["loss/bootstrap"]
    # the loss is a squared error of the drift: one order below that of a step, squared
    assert 3 < found["ddim", 0.04] / found["ddim", 0.02] < 6
    assert 10 < found["heun", 0.04] / found["heun", 0.02] < 24
    wrong = boot().own.update(inputs(best(about), teacher, {"student": {}})).metrics["loss/bootstrap"]
    assert wrong > 100 * found["heun", 0.04]


def test_the_exact_end_of_trajectories_is_consistent():
  about = known("edm", "consistency")
  schedule = about.schedule

  def end(params, x, t, cond):
    spread = [jnp.sqrt(STD**2 + at**2) for at in (t, schedule.t_min)]
    return MEAN + spread[1] / spread[0] * (x - MEAN)

  teacher = (best(known()), Variables({}))
  for grid, most in ((18, 1e-3), (200, 1e-7)):
    made = consistency(grid=grid).own.update(inputs(from_function(end, about), teacher, {"student": {}}))
    assert made.metrics["loss/consistency"] < most
  other = consistency().own.update(inputs(best(about), teacher, {"student": {}}))
  assert other.metrics["loss/consistency"] > 1e-3


def test_rounds_of_progressive_distillation():
  network = from_function(affine, known("vp_cosine", "x0"))
  recipe, teacher = progressive(first_steps=4), (network, Variables(TEACHER))
  memory = recipe.own.memory({"student": STUDENT}, (teacher,))
  for epoch, steps, own in ((0.0, 4, TEACHER), (3.3, 4, TEACHER), (3.4, 2, STUDENT), (6.7, 1, STUDENT)):
    made = recipe.own.update(inputs(network, teacher, {"student": STUDENT}, memory=memory, epoch=epoch))
    assert made.metrics["method/steps"] == steps
    jax.tree.map(np.testing.assert_array_equal, made.memory.teacher, own)
  assert made.memory.number == 2
  # a teacher whose prediction never changes is followed by itself
  constant = pair(0.0, [0.1, 0.2])
  memory = memory._replace(teacher=constant)
  made = recipe.own.update(inputs(network, teacher, {"student": constant}, memory=memory))
  np.testing.assert_allclose(made.metrics["loss/progressive"], 0, atol=1e-8)


@pytest.mark.parametrize(
  ("recipe", "student", "teacher", "message"),
  [
    (dmd2(), known(), known("vp_cosine"), r"student\.schedule: edm from 0\.002 to 80, and that of the teacher is vp"),
    (dmd2(), known()._replace(shape=(1, 1, 3)), known(), r"student: makes samples of shape \(1, 1, 3\)"),
    (dmd2(), known(conditions=3), known(), "student: knows 3 conditions, and its teacher 1"),
    (dmd2(gan_weight=1.0, site="middle"), known(), known(), r"method\.site='middle': .* choose one of bottleneck"),
    (boot(), known(), known(), r"student\.prediction='edm': boot needs 'x0'"),
    (boot(delta=0.99), *(known("vp_cosine", "x0")._replace(schedule=diffusion.schedule("vp_cosine", t_max=0.9)),) * 2,
     r"method\.delta=0\.99: is as long as the schedule's times from 0\.001 to 0\.9"),
    (consistency(), known(), known(), r"student\.prediction='edm': consistency needs 'consistency'"),
    (progressive(), *(known(prediction="eps"),) * 2, r"student\.prediction='eps': says nothing at pure noise"),
  ],
)  # fmt: skip
def test_pairs_that_do_not_fit(recipe, student, teacher, message):
  network, other = (from_function(affine, about) for about in (student, teacher))
  with pytest.raises(UserError, match=message):
    recipe.own.init(KEY, network, ((other, Variables(TEACHER)),))


def test_what_else_is_refused():
  network = from_function(affine, known())
  teacher = (network, Variables(TEACHER))
  with pytest.raises(UserError, match=r"guidance=2: the denoiser has no conditions to be guided by; set it to 1"):
    dmd2(teacher_guidance=2.0).own.update(inputs(network, teacher, {"student": STUDENT, "fake": FAKE}))
  with pytest.raises(ValueError, match=r"method\.first_steps=6: is no power of two"):
    progressive(first_steps=6)
  mlp = models.build("mlp", num_classes=2, image_shape=SHAPE)
  with pytest.raises(UserError, match="is no denoiser; choose 'denoising_mlp', 'unet', 'dit' or 'adm'"):
    dmd2().own.init(KEY, mlp, (teacher,))
  small, large = (models.build("denoising_mlp", num_classes=1, image_shape=SHAPE, widths=(w,)) for w in (4, 8))
  frozen = committee([large], [large.init(KEY)])
  method = student_method(
    small, dmd2(), optimizer=make_optimizer("adam", 0.01), targets=frozen.targets, teachers=frozen.networks
  )
  with pytest.raises(UserError, match=r"method\.student_start='teacher': the student's network is another one"):
    method.init(KEY, StudentInput(batch(), jnp.int32(0), jnp.float32(0), None, frozen.arrays))


def test_figures_of_a_collapse():
  x = jnp.ones((4, *SHAPE))
  assert losses.score_distillation_grad(x, x, x + 1).max() == np.finfo(np.float32).max
  np.testing.assert_allclose(spread(x), 0)
  np.testing.assert_allclose(spread(jnp.arange(4.0).reshape(4, 1, 1, 1)), np.mean([1, 1, 1, 3]))
