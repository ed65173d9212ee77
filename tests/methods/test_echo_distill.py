"""EchoDistill: gradients beside NumPy, who moves what and when, echoes in training, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment, diffusion, losses, models
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.diffusion import Denoiser, Draws
from jdistill.methods.diffusion.discriminator import head, pyramid, pyramid_init
from jdistill.methods.diffusion.dmd2 import dmd2
from jdistill.methods.diffusion.echo_distill import echo_distill
from jdistill.methods.diffusion.echo_update import Memory
from jdistill.methods.diffusion.token import token_row, with_token
from jdistill.methods.knowledge import StudentInput, predictor, student_method
from jdistill.methods.knowledge.recipe import OwnInputs
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.frozen import committee

SHAPE, SIZE, TOKEN = (2, 2, 1), 8, 2
KEY = jax.random.key(3)
NOTHING = Memory((), ())
SIZES = {"num_classes": TOKEN + 1, "image_shape": SHAPE, "features": 8, "t_max": 5.0}
PLAIN = {"identity_weight": 0.0, "perceptual_weight": 0.0, "adversarial_weight": 0.0, "echo_share": 0.0}
PLAIN |= {"keep_weight": 0.0}
SMALL = {"scales": (1, 2), "hidden": 4, "echo_start": 2, "echo_interval": 1, "echo_draws": 6, "echo_capacity": 8}
SMALL |= {"keep_weight": 0.0}


def batch(references=6, seed=0):
  """Six rows of three references, and two of other conditions."""
  x = np.random.default_rng(seed).normal(0.3, 0.5, (SIZE, *SHAPE)).astype(np.float32)
  ids, y = np.arange(SIZE, dtype=np.int32), np.full(SIZE, TOKEN, np.int32)
  x[3:6], ids[3:6] = x[:3], ids[:3]
  y[references:] = [0, 1][: SIZE - references]
  return Batch(jnp.asarray(x), jnp.asarray(y), jnp.asarray(ids))


def affine():
  """`a x / (1 + t) + row of the condition`, with one condition more for none."""

  def apply(params, x, **_):
    row = params["condition"]["kernel"][x.cond].reshape(-1, *SHAPE)
    x0 = params["film"] * x.x / (1 + diffusion.per_example(x.t, x.x)) + row
    return Outputs(x0, x0.reshape(len(x.t), -1), {"bottleneck": x0})

  def params(seed):
    table = np.random.default_rng(seed).normal(size=(TOKEN + 2, 4)).astype(np.float32)
    return {"condition": {"kernel": jnp.asarray(table)}, "film": jnp.float32(0.1 + 0.2 * seed)}

  about = Denoiser(diffusion.schedule("edm", sigma_max=5.0), TOKEN + 1, SHAPE, 0.5, "edm")
  return Network(lambda key: Variables(params(0)), apply, denoiser=about), params


def own_inputs(network, frozen, roles, step=0, memory=NOTHING, where=None):
  where = jnp.ones(SIZE, bool) if where is None else where
  teacher = (network, Variables(frozen))
  return OwnInputs(KEY, network, roles, batch(), where, (teacher,), memory, jnp.int32(step), jnp.float32(0), 10.0)


def updated(recipe, given):
  """An update as one program."""
  return jax.jit(lambda key: recipe.own.update(given._replace(key=key)))(given.key)


def roles_of(recipe, network, frozen, student):
  return {"student": student} | dict(recipe.own.init(jax.random.key(1), network, ((network, Variables(frozen)),)))


def noised(x, key, schedule):
  """What the denoising loss draws, in float64: `(x_t, t, weight)`."""
  key_t, key_eps, _ = jax.random.split(key, 3)
  t = np.float64(schedule.sample_t(key_t, (SIZE,)))
  eps = np.float64(jax.random.normal(key_eps, x.shape))
  return x + t.reshape(-1, 1, 1, 1) * eps, t.reshape(-1, 1, 1, 1), 1 / t**2 + 4


def test_the_teacher_and_the_row_learn_from_references():
  """The gradient beside NumPy; one row of padding, and examples of other conditions with a weight of their own."""
  network, params = affine()
  recipe = echo_distill(**PLAIN, prior_weight=0.5)
  roles = roles_of(recipe, network, params(1), params(2))
  where = jnp.arange(SIZE) != 1
  made = updated(recipe, own_inputs(network, params(1), roles, where=where))
  x, y = np.float64(batch().x), np.asarray(batch().y)
  x_t, t, weight = noised(x, jax.random.split(KEY, 3)[0], network.denoiser.schedule)
  table = np.float64(params(1)["condition"]["kernel"])
  table[TOKEN] = table[:TOKEN].mean(0)
  np.testing.assert_allclose(roles["token"]["row"], table[TOKEN], rtol=1e-6)
  error = 0.3 * x_t / (1 + t) + table[y].reshape(-1, *SHAPE) - x
  reference, prior = (y == TOKEN) & np.asarray(where), y != TOKEN
  share = weight * (reference / reference.sum() + 0.5 * prior / prior.sum())
  slope = 2 * share.reshape(-1, 1, 1, 1) * error / 4
  np.testing.assert_allclose(made.grads["teacher"]["film"], np.sum(slope * x_t / (1 + t)), rtol=1e-4)
  np.testing.assert_allclose(made.grads["token"]["row"], np.sum(slope[y == TOKEN], axis=0).ravel(), rtol=1e-4)
  assert not np.any(made.grads["teacher"]["condition"]["kernel"][TOKEN])  # the role's own row is not read
  mean = np.sum(weight * reference * np.mean(error**2, axis=(1, 2, 3))) / reference.sum()
  np.testing.assert_allclose(made.metrics["loss/denoise"], mean, rtol=1e-4)


def test_the_student_follows_the_teacher_that_learns():
  """The gradient beside NumPy; the target and the row are constants of it, and the target is that of the role."""
  network, params = affine()
  recipe = echo_distill(**PLAIN, mse_weight=0.7)
  roles = roles_of(recipe, network, params(1), params(2)) | {"teacher": params(3)}
  roles["token"] = {"row": jnp.float32([0.3, -0.2, 0.1, 0.5])}
  made = updated(recipe, own_inputs(network, params(1), roles))
  keys = jax.random.split(jax.random.split(KEY, 3)[1], 4)
  z = 5 * np.float64(jax.random.normal(keys[0], (SIZE, *SHAPE)))
  row = np.float64(roles["token"]["row"]).reshape(1, *SHAPE)
  x = 0.5 * z / 6 + row
  key_t, key_eps = jax.random.split(keys[1])
  t = np.float64(network.denoiser.schedule.grid(1000)[jax.random.randint(key_t, (SIZE,), 20, 980)]).reshape(-1, 1, 1, 1)
  target = 0.7 * (x + t * np.float64(jax.random.normal(key_eps, x.shape))) / (1 + t) + row
  np.testing.assert_allclose(made.metrics["loss/align"], np.mean((x - target) ** 2), rtol=1e-4)
  want = 0.7 * np.sum(2 * (x - target) * z / 6) / x.size
  np.testing.assert_allclose(made.grads["student"]["film"], want, rtol=1e-4)
  assert not np.any(made.grads["student"]["condition"]["kernel"])
  alone = updated(echo_distill(**PLAIN, mse_weight=0.0), own_inputs(network, params(1), roles))
  np.testing.assert_array_equal(made.grads["token"]["row"], alone.grads["token"]["row"])  # the student moves no row


def test_features_and_discriminators_are_those_of_the_plain_losses():
  """Student and discriminators beside losses that are written down with the same draws."""
  network, params = affine()
  recipe = echo_distill(
    identity_weight=0.5, perceptual_weight=2.0, mse_weight=0.0, adversarial_weight=0.7, penalty_weight=0.3,
    critic_augment="crop_flip", echo_share=0.0, keep_weight=0.0, scales=(1, 2), hidden=4,
  )  # fmt: skip
  roles, frozen = roles_of(recipe, network, params(1), params(2)), params(1)
  made = updated(recipe, own_inputs(network, frozen, roles))
  keys, schedule = jax.random.split(jax.random.split(KEY, 3)[1], 4), network.denoiser.schedule
  token, cond = roles["token"]["row"], jnp.full(SIZE, TOKEN)
  z = diffusion.prior(schedule, jax.random.normal(keys[0], (SIZE, *SHAPE)))
  crop = augment.named("crop_flip")
  record, reference = crop.sample(keys[2], z.shape), jnp.float32(batch().y == TOKEN)

  def frozen_features(x):
    t = jnp.broadcast_to(schedule.grid(1000)[300], (SIZE,))
    return network.apply(frozen, diffusion.Noisy(x, t, jnp.full(SIZE, TOKEN + 1))).taps["bottleneck"]

  def samples(student):
    return network.apply(with_token(student, TOKEN, token), diffusion.Noisy(z, jnp.full(SIZE, 5.0), cond)).logits

  def student_loss(student):
    x = samples(student)
    key_t, key_eps = jax.random.split(keys[1])
    t = schedule.grid(1000)[jax.random.randint(key_t, (SIZE,), 20, 980)]
    teacher = diffusion.denoise(network, with_token(roles["teacher"], TOKEN, token), cond)
    target = diffusion.alignment_target(schedule, teacher, x, jax.random.normal(key_eps, x.shape), t)
    near = losses.identity_loss(frozen_features, x, target)
    seen = losses.perceptual_loss(lambda x: [frozen_features(x)], x, target)
    fooled = [jnp.mean(jax.nn.softplus(-one)) for one in pyramid(roles["critic"], crop.apply(record, x), (1, 2))]
    return jnp.mean(0.5 * near + 2.0 * seen) + 0.7 * (fooled[0] + fooled[1]) / 2

  def critic_loss(critic):
    real, fake = (crop.apply(record, x) for x in (batch().x, samples(roles["student"])))
    telling = 0.0
    for r, f in zip(pyramid(critic, real, (1, 2)), pyramid(critic, fake, (1, 2)), strict=True):
      telling += (jnp.sum(jax.nn.softplus(-r) * reference) / 6 + jnp.mean(jax.nn.softplus(f))) / 2
    slope = jax.vmap(jax.grad(lambda x: jnp.mean(pyramid(critic, x[None], (1, 2)))))(real)
    return telling + 0.3 * jnp.sum(jnp.sum(slope**2, (1, 2, 3)) * reference) / 6

  close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-6)
  want = jax.jit(lambda one, other: (jax.grad(student_loss)(one), jax.grad(critic_loss)(other)))
  jax.tree.map(close, (made.grads["student"], made.grads["critic"]), want(roles["student"], roles["critic"]))
  assert abs(float(made.grads["student"]["film"])) > 1e-4


def test_discriminators_see_means_of_places():
  scales, x = (1, 2), np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32)
  params = pyramid_init(KEY, x.shape[1:], scales, 5)
  found = jax.jit(pyramid, static_argnums=2)(params, x, scales)
  halves = x.reshape(3, 2, 2, 1, 2, 2).mean((2, 4))
  want = [head(params["scale1"], x), head(params["scale2"], halves)]
  np.testing.assert_allclose(found, want, rtol=1e-5)
  for bad, words in (((1, 3), "3 does not divide 4x2"), ((), "one at least"), ((2, 2), "once")):
    with pytest.raises(UserError, match=rf"method.scales=.*{words}"):
      pyramid_init(KEY, x.shape[1:], bad, 5)


@functools.cache
def mlp(features=8):
  return models.build("denoising_mlp", widths=(8,), **(SIZES | {"features": features}))


@functools.cache
def teacher(features=8):
  key = jax.random.key(5)
  params = mlp(features).init(key).params
  return Variables(jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), params))


def training(recipe, steps, optimizer="adam", student=None, **options):
  """States of a training, and the metrics of its updates."""
  frozen = committee([mlp()], [teacher()])
  optimizer = make_optimizer(optimizer, 0.01, **options)
  method = student_method(
    student or mlp(), recipe, optimizer=optimizer, targets=frozen.targets, teachers=frozen.networks
  )
  given = lambda step: StudentInput(batch(), jnp.int32(step), jnp.float32(0), None, frozen.arrays)  # noqa: E731
  states, metrics, step = [method.init(KEY, given(0))], [], jax.jit(method.step)
  for number in range(steps):
    state, found = step(jax.random.fold_in(KEY, number), states[-1], given(number))
    states, metrics = [*states, state], [*metrics, found]
  return method, states, metrics


def moved(before, after, role):
  """Names of the parameters of a role that differ."""
  pairs = zip(
    jax.tree.leaves_with_path(before.roles[role].params), jax.tree.leaves(after.roles[role].params), strict=True
  )
  return {path[0].key for (path, a), b in pairs if np.any(np.asarray(a) != np.asarray(b))}


def test_only_films_and_the_row_move_and_echoes_join():
  """With weight decay, which would move what has no gradient; the pool fills after its start, up to its share."""
  method, states, metrics = training(echo_distill(**SMALL, echo_threshold=-1.0), 5, "adamw", weight_decay=0.1)
  first, last = states[0], states[-1]
  assert moved(first, last, "student") == moved(first, last, "teacher") == {"film0_zero"}
  assert moved(first, last, "token") == {"row"} and moved(first, last, "critic") == {"scale1", "scale2"}
  jax.tree.map(np.testing.assert_array_equal, first.roles["teacher"].params, teacher().params)
  assert [float(one["method/echo_share"]) for one in metrics] == [0, 0, 0.25, 0.25, 0.25]
  assert [int(state.memory.echoes.accepted) for state in states] == [0, 0, 0, 6, 12, 18] and int(
    last.memory.echoes.held
  ) == 8
  assert [float(one["method/accepted"]) for one in metrics] == [0, 0, 1, 1, 1]
  assert all(np.isfinite(value) for one in metrics for value in one.values())
  generated = last.memory.echoes.images  # of the student, and not of the data
  assert not (np.abs(np.asarray(generated)[:, None] - np.asarray(batch().x)[None]).max((2, 3, 4)) < 1e-3).any()
  assert set(method.result(last).variables) == {"student", "token"}


def test_echoes_change_what_the_others_learn_from():
  """The same pool with and without: teacher and discriminators see echoes; `echo_real` is of the latter."""
  network, frozen = mlp(), teacher().params
  full, empty = (diffusion.Echoes(jnp.full((8, *SHAPE), 9.0), jnp.int32(8), jnp.int32(n)) for n in (8, 0))
  options, found = SMALL | {"echo_start": 1, "critic_augment": "none"}, {}
  for real in (True, False):
    recipe = echo_distill(**options, echo_real=real)
    given = own_inputs(network, frozen, roles_of(recipe, network, frozen, frozen))
    program = jax.jit(
      lambda memory, recipe=recipe, given=given: recipe.own.update(given._replace(memory=Memory(memory, ())))
    )
    found |= {(name, real): program(memory).metrics for name, memory in (("full", full), ("empty", empty))}
  of = lambda key: [float(one[f"loss/{key}"]) for one in found.values()]  # noqa: E731
  denoise, critic = of("denoise"), of("critic")
  assert denoise[0] == denoise[2] > denoise[1] == denoise[3]
  assert critic[1] == critic[3] and len({critic[0], critic[1], critic[2]}) == 3
  alone = [float(one["method/reference_loss"]) for one in found.values()]
  assert alone[0] < denoise[0] and alone[1] == pytest.approx(denoise[1], rel=1e-6)  # of references alone


def test_the_sequential_control_trains_one_after_the_other():
  recipe = echo_distill(**PLAIN, order="sequential", teacher_steps=2)
  _, states, metrics = training(recipe, 4)
  pairs = list(itertools.pairwise(states))
  assert [bool(moved(*pair, "teacher")) for pair in pairs] == [True, True, False, False]
  assert [bool(moved(*pair, "token")) for pair in pairs] == [True, True, False, False]
  assert [bool(moved(*pair, "student")) for pair in pairs] == [False, False, True, True]
  assert [float(one["loss/align"]) > 0 for one in metrics] == [False, False, True, True]
  _, states, _ = training(echo_distill(**PLAIN, teacher_steps=2), 3)  # together, after a head start
  pairs = list(itertools.pairwise(states))
  assert [bool(moved(*pair, "student")) for pair in pairs] == [False, False, True]
  assert all(moved(*pair, "teacher") for pair in pairs)


def test_the_other_controls_train_one_network_or_the_row_alone():
  for order, students in (("direct", {"film0_zero"}), ("token", set())):
    _, states, metrics = training(echo_distill(order=order, echo_share=0.0), 2)
    assert set(states[0].roles) == {"student", "token"}
    assert moved(states[0], states[-1], "student") == students and moved(states[0], states[-1], "token")
    assert float(metrics[0]["loss/denoise"]) > 0


def test_samples_of_student_and_teacher_use_the_row_that_was_learned():
  draws = Draws(jax.random.normal(KEY, (4, *SHAPE)), jnp.array([TOKEN, 0, TOKEN, 1]), jnp.arange(4, dtype=jnp.int32))
  for sampled in ("student", "teacher"):
    recipe = echo_distill(**PLAIN, sampled=sampled, teacher_sample_steps=3, solver="ddim")
    method, states, _ = training(recipe, 0)
    trained = method.result(states[-1])
    params = with_token(trained.variables[sampled].params, TOKEN, trained.variables["token"].params["row"])
    schedule, x = mlp().denoiser.schedule, diffusion.prior(mlp().denoiser.schedule, draws.eps)
    ask = diffusion.denoise(mlp(), params, draws.cond)
    steps = 3 if sampled == "teacher" else 1
    want = diffusion.ode_sample(schedule, ask, x, steps, solver="ddim")
    found = predictor(mlp(), recipe)(trained, (), draws)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    before = with_token(params, TOKEN, 0 * trained.variables["token"].params["row"])
    other = diffusion.ode_sample(schedule, diffusion.denoise(mlp(), before, draws.cond), x, steps, solver="ddim")
    np.testing.assert_array_equal(np.any(np.asarray(other != want), axis=(1, 2, 3)), draws.cond == TOKEN)


def test_a_student_is_held_to_its_first_samples_of_other_conditions():
  """The gradient beside NumPy, where only keeping is left; and in training it brings a student back."""
  network, params = affine()
  recipe = echo_distill(**(PLAIN | {"keep_weight": 0.6, "mse_weight": 0.0}))
  roles = roles_of(recipe, network, params(1), params(2))
  given = own_inputs(network, params(1), roles, memory=Memory((), params(3)))
  made = updated(recipe, given)
  key_z, key_cond = jax.random.split(jax.random.split(jax.random.split(KEY, 3)[1], 4)[3])
  z = 5 * np.float64(jax.random.normal(key_z, (SIZE, *SHAPE)))
  cond = np.asarray(diffusion.sample_condition(key_cond, jnp.arange(TOKEN, dtype=jnp.int32), SIZE))
  tables = [np.float64(one["condition"]["kernel"])[cond].reshape(z.shape) for one in (params(2), params(3))]
  gap = 0.5 * z / 6 + tables[0] - 0.7 * z / 6 - tables[1]
  np.testing.assert_allclose(made.metrics["loss/keep"], np.mean(gap**2), rtol=1e-4)
  np.testing.assert_allclose(made.grads["student"]["film"], 0.6 * np.sum(2 * gap * z / 6) / z.size, rtol=1e-4)
  direct = echo_distill(order="direct", echo_share=0.0)
  assert float(updated(direct, given).metrics["loss/keep"]) > 0
  first = direct.own.memory({"student": params(2)}, ((network, Variables(params(1))),))
  assert first.start is not None and first.echoes == () and float(first.start["film"]) == float(params(2)["film"])


def test_the_row_begins_as_the_mean_of_the_others():
  table = jnp.arange(10.0).reshape(5, 2)
  params = {"condition": {"kernel": table, "bias": jnp.zeros(2)}}
  np.testing.assert_array_equal(token_row(params, 3, "mean"), [2, 3])
  np.testing.assert_allclose(token_row(params, 1, "mean"), [(0 + 4 + 6) / 3, (1 + 5 + 7) / 3], rtol=1e-6)
  np.testing.assert_array_equal(token_row(params, 3, "own"), table[3])


def test_a_student_before_can_be_made_of_the_known_conditions_alone():
  """`dmd2(conditions=n)` draws the first ones, and so asks the teacher for no other."""
  network, params = affine()
  roles = {"student": params(2), "fake": params(3)}
  given = own_inputs(network, params(1), roles)
  for conditions, rows in ((None, [0, 1, 2]), (2, [0, 1])):
    recipe = dmd2(conditions=conditions)

    def table(key, recipe=recipe):
      return recipe.own.update(given._replace(key=key)).grads["fake"]["condition"]["kernel"]

    seen = np.asarray(jax.jit(jax.vmap(table))(jax.random.split(KEY, 6)))
    assert np.flatnonzero(np.any(seen, axis=(0, 2))).tolist() == rows
  with pytest.raises(UserError, match=r"method.conditions=4: the denoiser has 3"):
    dmd2(conditions=4).own.update(own_inputs(network, params(1), roles))


@pytest.mark.parametrize(
  ("own", "words"),
  [
    ({"feature_site": ""}, r"method.feature_site='': identity and echoes are judged by a frozen network"),
    ({"perceptual_sites": ()}, r"method.perceptual_sites=\(\): the perceptual loss compares layers"),
    ({"echo_start": 0}, r"method.echo_start=0: the student has learned nothing by then"),
    ({"echo_start": 5, "teacher_steps": 5}, r"method.echo_start=5: .* later than teacher_steps=5"),
    ({"order": "direct"}, r"method.echo_share=0.25: order='direct' has no echo stage"),
    ({"order": "sequential", "echo_share": 0.0}, r"method.teacher_steps=0: order='sequential' trains the teacher"),
    ({"order": "token", "echo_share": 0.0, "sampled": "teacher"}, r"order='token' trains no teacher"),
    ({"echo_draws": 65}, r"method.echo_draws=65: more than the pool of echo_capacity=64"),
    ({"align_from": 0.9, "align_to": 0.5}, r"method.align_from=0.9: must be below align_to=0.5"),
    ({"critic_augment": "blur"}, r"method.critic_augment='blur': unknown operator"),
  ],
)  # fmt: skip
def test_options_that_contradict_each_other(own, words):
  with pytest.raises(UserError, match=words):
    echo_distill(**own)


@pytest.mark.parametrize(
  ("own", "words"),
  [
    ({"trainable": ("lora",)}, r"method.trainable=\('lora',\): selects no parameters of the student; there are"),
    ({"trainable": ()}, r"selects no parameters of the student"),
    ({"feature_site": "block9"}, r"method.feature_site='block9': the denoiser has no such site; choose one of block0"),
    ({"perceptual_sites": ("bottleneck", "x")}, r"method.perceptual_sites='x': the denoiser has no such site"),
    ({"token": 3}, r"method.token=3: the denoiser has 3 conditions, from 0"),
    ({"scales": (3,)}, r"method.scales=\(3,\): 3 does not divide 2x2"),
  ],
)  # fmt: skip
def test_networks_that_do_not_fit_the_options(own, words):
  with pytest.raises(UserError, match=words):
    echo_distill(**own).own.init(KEY, mlp(), ((mlp(), teacher()),))


def test_students_that_take_conditions_in_another_way():
  with pytest.raises(UserError, match=r"student.features=16: .* its teacher's of 8; .* give both the same"):
    echo_distill().own.init(KEY, mlp(16), ((mlp(), teacher()),))
  fewer = models.build("denoising_mlp", widths=(8,), **(SIZES | {"num_classes": 2}))
  with pytest.raises(UserError, match=r"student: knows 2 conditions, and its teacher 3"):
    echo_distill().own.init(KEY, fewer, ((mlp(), teacher()),))
  none = models.build("denoising_mlp", widths=(8,), **(SIZES | {"num_classes": 1}))
  with pytest.raises(UserError, match=r"teacher: has no conditions, and a concept is a new one"):
    echo_distill().own.init(KEY, none, ((none, none.init(KEY)),))
  wide = models.build("denoising_mlp", widths=(12,), **SIZES)
  with pytest.raises(UserError, match=r"method.sampled='teacher': the teacher's network is another one"):
    echo_distill(sampled="teacher").own.init(KEY, wide, ((mlp(), teacher()),))


def test_too_few_references_and_updates():
  check = echo_distill().check_examples
  labels, ids = np.asarray(batch().y), np.asarray(batch().ids)
  check(labels, ids, mlp())
  with pytest.raises(UserError, match=r"method.token=2: no example has this condition; give reference images"):
    check(labels[6:], ids[6:], mlp())
  with pytest.raises(UserError, match=r"a discriminator needs two reference images at least, and there is 1"):
    check(labels[[0, 3, 6]], ids[[0, 3, 6]], mlp())  # the same image twice
  echo_distill(adversarial_weight=0.0).check_examples(labels[:1], ids[:1], mlp())
  echo_distill(order="direct", echo_share=0.0).check_examples(labels[:1], ids[:1], mlp())
  with pytest.raises(UserError, match=r"method.echo_start=1000: there are 1000 updates in all"):
    echo_distill().check(1000)
  with pytest.raises(UserError, match=r"method.teacher_steps=7: there are 7 updates in all"):
    echo_distill(teacher_steps=7, echo_share=0.0).check(7)
  echo_distill().check(1001)
