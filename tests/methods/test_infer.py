"""INFER against NumPy in float64: budget, loss and its gradient, compensators one after another, controls, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from recovery_problem import CLASSES, IMAGES, LABELS, RANGE, RNG, SHAPE, TEACHER, apply, on_device, reference_loss

from jdistill import stages
from jdistill.base import UserError, Variables
from jdistill.methods.dataset import infer as module
from jdistill.methods.dataset.infer import infer, ufc_budget, ufc_loss
from jdistill.synthetic import SyntheticSet, compensated

KEY = jax.random.key(3)
OTHER = TEACHER._replace(params=RNG.normal(size=TEACHER.params.shape))
SLICES = IMAGES.reshape(CLASSES, 2, *SHAPE).swapaxes(0, 1)  # two images of every class
CLASS = np.arange(CLASSES)


def build(dtype=np.float32, **options):
  initial = SyntheticSet(jnp.asarray(IMAGES.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.1, dtype))
  ends = tuple(end.astype(dtype) for end in RANGE)
  method = infer((apply, apply), initial, ends, **({"jitter": 0} | options))
  return method, tuple(jax.tree.map(lambda a: jnp.asarray(a.astype(dtype)), one) for one in (TEACHER, OTHER))


def run(method, teachers, steps, key=KEY):
  state, step, seen = method.init(key, teachers), jax.jit(method.step), []
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(key, number), state, teachers)
    seen.append(metrics)
  return state, seen


@pytest.mark.parametrize(
  "ipc, teachers, classes, slices, stored, trained_on",
  [
    (10, 4, 100, 9, 936, 45),
    (10, 4, 10, 7, 98, 35),
    (6, 2, 10, 5, 60, 15),
    (50, 3, 1000, 49, 49147, 196),
    (11, 1, 10, 10, 110, 20),  # exactly divisible: 11 / 1.1 is 10.000000000000002 or less in floats
    (50, 4, 10, 35, 490, 175),
  ],
)
def test_the_budget(ipc, teachers, classes, slices, stored, trained_on):
  assert ufc_budget(ipc, teachers, classes) == (slices, stored)
  assert stored <= ipc * classes < (slices + 1) * (classes + teachers)
  assert module.base_images().budget(ipc, classes, teachers) == (slices, trained_on)


def test_a_cost_that_pays_for_nothing():
  with pytest.raises(UserError, match=r"ipc=1: does not pay for.*10 classes and 2 compensators; raise ipc to 2"):
    ufc_budget(1, 2, 10)
  assert ufc_budget(2, 2, 10) == (1, 12)


def test_loss_and_gradient(x64):
  u = RNG.normal(size=SHAPE)
  loss = lambda u: reference_loss(SLICES[0] + u, CLASS, 0.7)  # noqa: E731
  own = (apply, on_device(np.float64), jnp.asarray(u), jnp.asarray(SLICES[0]), jnp.asarray(CLASS))
  for found in (ufc_loss, jax.jit(ufc_loss, static_argnums=0)):
    value, parts = found(*own, r_bn=0.7)
    np.testing.assert_allclose(value, loss(u), rtol=1e-10)
    np.testing.assert_allclose(parts["recover/cross_entropy"], reference_loss(SLICES[0] + u, CLASS, 0.0), rtol=1e-10)
  grad = jax.grad(lambda u: ufc_loss(*own[:2], u, *own[3:], r_bn=0.7)[0])
  np.testing.assert_allclose(grad(own[2]), numeric_gradient(loss, u), rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(grad(own[2][None])[0], grad(own[2]), rtol=1e-12)


def test_layers_that_do_not_count(x64):
  """The first layer weighs ten times: without the second one that stays, without the first nothing does."""
  own = (apply, on_device(np.float64), jnp.zeros(SHAPE), jnp.asarray(SLICES[0]), jnp.asarray(CLASS))
  pixels = SLICES[0].reshape(CLASSES, -1)
  terms = []
  for rows, layer in ((pixels, "norm9"), (pixels @ TEACHER.params, "norm1")):
    stats = TEACHER.stats[layer]
    terms.append(np.linalg.norm(rows.mean(0) - stats["mean"]) + np.linalg.norm(rows.var(0) - stats["var"]))
  for left_out, wanted in ((("norm1",), 10 * terms[0]), (("norm9",), terms[1]), ((), 10 * terms[0] + terms[1])):
    np.testing.assert_allclose(ufc_loss(*own, left_out=left_out)[1]["recover/bn"], wanted, rtol=1e-10)
  with pytest.raises(ValueError, match="batch has 0 layers"):
    ufc_loss(*own, left_out=("norm1", "norm9"))


def test_compensators_one_after_another_equal_adam_by_hand(x64):
  """Slice by slice and in each teacher by teacher, from zero, with an Adam and a half cosine of its own, unclipped."""
  iterations, teachers = 4, (TEACHER, OTHER)
  method, variables = build(np.float64, iterations=iterations, r_bn=0.3, compensator_lr=0.5)
  assert method.steps == 2 * 2 * iterations
  state, step = method.init(KEY, variables), jax.jit(method.step)
  want = np.zeros((2, 2, *SHAPE))
  for k in range(2):
    for m, teacher in enumerate(teachers):
      first, second = np.zeros(SHAPE), np.zeros(SHAPE)
      loss = lambda u, k=k, w=teacher.params: reference_loss(SLICES[k] + u, CLASS, 0.3, weights=w)  # noqa: E731
      for i in range(iterations):
        state, metrics = step(KEY, state, variables)
        np.testing.assert_allclose(metrics["recover/loss"], loss(want[k, m]), rtol=1e-7)
        grad = numeric_gradient(loss, want[k, m])
        np.testing.assert_allclose(metrics["gradient/compensators"], np.linalg.norm(grad), rtol=1e-5)
        first, second = 0.5 * first + 0.5 * grad, 0.9 * second + 0.1 * grad**2
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * i / iterations))
        direction = first / (1 - 0.5 ** (i + 1)) / (np.sqrt(second / (1 - 0.9 ** (i + 1))) + 1e-8)
        want[k, m] -= rate * direction
        np.testing.assert_allclose(state.compensators, want, rtol=1e-5, atol=1e-6)
  result = method.result(state)
  np.testing.assert_array_equal(result.images, IMAGES)  # the gradient moves compensators alone
  np.testing.assert_array_equal(result.labels, LABELS)
  sums = SLICES[:, :, None] + want[:, None]
  assert ((sums < -1.5) | (sums > 1.2)).any()  # never clipped on the way
  figures = method.figures(state, 0)
  np.testing.assert_allclose(figures["clipped_share"], np.mean((sums < -1.5) | (sums > 1.2)), rtol=1e-6)
  assert (figures["stored_images"], figures["stored_numbers"], figures["training_images"]) == (10, 40, 18)
  made = np.asarray(compensated(result, RANGE).images).reshape(CLASSES, 2, 3, *SHAPE)
  np.testing.assert_array_equal(made[:, :, 0], SLICES.swapaxes(0, 1))
  np.testing.assert_allclose(made[:, :, 1:], sums.clip(-1.5, 1.2).swapaxes(0, 1), rtol=1e-5, atol=1e-6)
  later, _ = step(KEY, state, variables)  # what comes after the last compensator changes nothing
  np.testing.assert_array_equal(later.compensators, state.compensators)


def test_a_step_without_jit_and_a_draw_for_the_whole_slice():
  method, teachers = build(jitter=1)
  state = method.init(KEY, teachers)
  step = jax.jit(method.step)
  eager, fast = method.step(KEY, state, teachers), step(KEY, state, teachers)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eager, fast)
  seen = {round(float(step(jax.random.key(k), state, teachers)[1]["recover/loss"]), 4) for k in range(6)}
  rolled = [np.roll(SLICES[0], shift, (1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
  wanted = [reference_loss(x, CLASS, 1.0) for x in rolled]
  assert len(seen) > 1 and all(min(abs(one - w) for w in wanted) < 1e-3 for one in seen)


def test_controls_have_the_norms_of_what_was_learned():
  state, _ = run(*build(iterations=2, compensator="noise"), 8)
  kinds = ("learned", "noise", "none")
  own = {kind: np.asarray(build(compensator=kind)[0].result(state).compensators) for kind in kinds}
  norms = {kind: np.linalg.norm(found.reshape(4, -1), axis=1) for kind, found in own.items()}
  np.testing.assert_allclose(norms["noise"], norms["learned"], rtol=1e-5)
  assert (norms["learned"] > 0.1).all() and not own["none"].any()
  cosines = np.sum(own["noise"] * own["learned"], (2, 3, 4)) / (norms["noise"] ** 2).reshape(2, 2)
  assert (np.abs(cosines) < 0.999).all()
  method, teachers = build()
  assert method.init(KEY, teachers).noise == ()


def test_mistakes():
  _, teachers = build()
  without = lambda params, x, **own: apply(params, x, **own)._replace(norm_inputs={})  # noqa: E731
  initial = SyntheticSet(jnp.float32(IMAGES), jnp.asarray(LABELS), jnp.float32(0.1))
  with pytest.raises(ValueError, match=r"teacher_applies: teacher 1 has no batch norm.*convnet_bn"):
    infer((apply, without), initial, RANGE).init(KEY, teachers)
  wider = Variables(jnp.ones((4, 5)), {"norm9": teachers[0].stats["norm9"]})
  with pytest.raises(ValueError, match=r"\[3, 5\] classes; all must have the same, in the same order"):
    infer((apply, apply), initial, RANGE).init(KEY, (teachers[0], wider))
  with pytest.raises(ValueError, match=r"2 networks and the variables of 1"):
    infer((apply, apply), initial, RANGE).init(KEY, teachers[:1])
  with pytest.raises(ValueError, match="there is no teacher"):
    infer((), initial, RANGE)
  for labels in (np.int32([0, 0, 1, 1, 2, 1]), np.int32([0, 1, 2, 0, 1, 2])):
    with pytest.raises(ValueError, match=r"a slice has one image of every class.*class by class"):
      infer((apply,), initial._replace(labels=labels), RANGE)
  with pytest.raises(ValueError, match=r"one class per image, \[m\]"):
    infer((apply,), initial._replace(labels=np.eye(3)[LABELS]), RANGE)
  for text, message in (
    ("0/norm7", r"no batch norm 'norm7'; it has norm1, norm9"),
    ("2/norm1", "teacher 2, and there"),
  ):
    with pytest.raises(ValueError, match=message):
      build(norms_left_out=(text,))[0].init(KEY, teachers)
  with pytest.raises(UserError, match=r"method.norms_left_out: 'norm1' is not 'TEACHER/LAYER'"):
    module.teachers_stream().check({"norms_left_out": ("norm1",)}, None)


def resolved(**changes):
  from experiments import infer as experiment

  config = experiment.get_config("tiny")
  for path, value in changes.items():
    *sections, key = path.split("__")
    target = config
    for section in sections:
      target = target[section]
    target[key] = value
  return stages.resolve(config)


def test_teachers_of_several_kinds():
  found = resolved()
  assert found["teachers"]["also"] == ["second"] or tuple(found["teachers"]["also"]) == ("second",)
  assert found["committee"]["second"]["teacher"] == found["teacher"] | {"width": 6}
  assert found["committee"]["second"]["teacher_train"] == found["teacher_train"]
  for changes, message in (
    ({"teachers__also": ("third",)}, r"teachers.also=.*no teacher 'third' in committee"),
    ({"preprocessing": "zca"}, r"preprocessing='zca': whitened pixels have no range"),
    ({"method__norms_left_out": ("norm0",)}, r"is not 'TEACHER/LAYER'"),
    ({"relabel__mix": "cutmix"}, r"relabel.mix='cutmix': static labels are of whole images"),
  ):
    with pytest.raises(UserError, match=message):
      resolved(**changes)
