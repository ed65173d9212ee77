"""LAD and CWD on hand-made views: losses in NumPy float64, what each network sees, and what the builder refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Outputs, UserError
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.lad import cwd, lad, with_labels
from jdistill.methods.knowledge.terms import cross_entropy_term, kd_term

RNG = np.random.default_rng(0)
B, H, W, C = 3, 2, 4, 3
MAPS = RNG.integers(0, C, (B, H, W))
MAPS[0, 0, :2] = -1
STUDENT, OTHER, TEACHER = (2 * RNG.normal(size=(B, H, W, C)) for _ in range(3))
IMAGES = RNG.normal(size=(B, H, W, 2))


def batch():
  x = np.concatenate([IMAGES, np.zeros((B, H, W, 1))], axis=-1)
  return Batch(jnp.float32(x), jnp.int32(MAPS), jnp.arange(B), extra={"present": jnp.ones((B, C), bool)})


def view(student, teacher=TEACHER, where=(True, True, True)):
  outputs = [Outputs(jnp.float32(z), jnp.zeros((len(z), 2))) for z in (student, teacher)]
  return StepOutputs(
    batch(),
    outputs[0],
    (outputs[1],),
    {},
    {},
    (),
    (),
    jnp.array(where),
    jnp.float32(0),
    jax.random.key(0),
    jnp.arange(B),
  )


def term(recipe, name, *seen, **more):
  return float(jnp.mean(recipe.terms[name].value(view(*seen, **more))))


def log_softmax(z, axis):
  z = z - z.max(axis, keepdims=True)
  return z - np.log(np.exp(z).sum(axis, keepdims=True))


def np_cross_entropy(z, rows=slice(None)):
  known = MAPS[rows] >= 0
  return -log_softmax(z[rows], -1)[known][np.arange(known.sum()), MAPS[rows][known]].mean()


def np_cwd(student, teacher, temperature):
  s, t = (log_softmax(z.reshape(B, H * W, C) / temperature, 1) for z in (student, teacher))
  return temperature**2 * (np.exp(t) * (t - s)).sum(1).mean()


def test_the_students_terms_are_cross_entropy_of_labelled_pixels_and_cwd():
  for recipe in (cwd(temperature=2.0, cwd_weight=7.0), lad(temperature=2.0, cwd_weight=7.0)):
    assert term(recipe, "ce", STUDENT) == pytest.approx(np_cross_entropy(STUDENT), rel=1e-5)
    assert term(recipe, "cwd", STUDENT) == pytest.approx(np_cwd(STUDENT, TEACHER, 2.0), rel=1e-5)
    assert (recipe.terms["ce"].weight, recipe.terms["cwd"].weight) == (1.0, 7.0)
  assert lad().terms["cwd"].weight == cwd().terms["cwd"].weight == 3.0


def test_padding_does_not_count_in_the_cross_entropy():
  assert term(cwd(), "ce", STUDENT, where=(True, False, True)) == pytest.approx(
    np_cross_entropy(STUDENT, [0, 2]), rel=1e-5
  )


def test_the_teachers_terms_are_of_both_codings():
  recipe, both = lad(role="teacher", temperature=2.0), np.concatenate([STUDENT, OTHER])
  assert recipe.needs == ("labels",) and recipe.terms["consistency"].weight == 5.0
  assert term(recipe, "ce", both) == pytest.approx(np_cross_entropy(STUDENT) + np_cross_entropy(OTHER), rel=1e-5)
  want = np_cwd(STUDENT, OTHER, 2.0) + np_cwd(OTHER, STUDENT, 2.0)
  assert term(recipe, "consistency", both) == pytest.approx(want, rel=1e-5)


def test_each_path_is_drawn_to_the_other_as_it_is():
  """The gradient in one path is that of its own divergence alone: T (softmax(s) - softmax(t)) per channel and place."""

  def value(z):
    return jnp.mean(lad(role="teacher", temperature=2.0).terms["consistency"].value(view(z)))

  got = jax.grad(value)(jnp.float32(np.concatenate([STUDENT, OTHER])))
  s, o = (np.exp(log_softmax(z.reshape(B, H * W, C) / 2.0, 1)).reshape(B, H, W, C) for z in (STUDENT, OTHER))
  np.testing.assert_allclose(got, 2.0 * np.concatenate([s - o, o - s]) / (B * C), atol=1e-6)


def test_a_teacher_sees_two_codings_of_the_same_images():
  student, teacher = lad(role="teacher").augmented_inputs(jax.random.key(0), batch())
  assert student.shape == (2 * B, H, W, 3) and (student == teacher).all()
  np.testing.assert_array_equal(student[:B, ..., :2], student[B:, ..., :2])
  np.testing.assert_array_equal(student[:B, ..., :2], batch().x[..., :2])
  codes = np.asarray(student[..., 2]) / 1.5
  assert np.abs(codes[:B] - codes[B:]).min() > 1e-3  # drawn anew
  for image, labels in zip(codes, np.concatenate([MAPS, MAPS]), strict=True):
    within = [np.ptp(image[labels == c]) for c in np.unique(labels)]
    between = np.ptp([image[labels == c].mean() for c in np.unique(labels)])
    assert max(within) < 6 * 0.03 * 2**0.5 and between > 0.2  # regions, with noise


def test_a_student_sees_zeros_and_its_teacher_fixed_codes_with_noise():
  student, teacher = lad().augmented_inputs(jax.random.key(0), batch())
  assert not student[..., -1].any() and (student == batch().x).all()
  np.testing.assert_array_equal(teacher[..., :2], student[..., :2])
  index = np.where(MAPS < 0, C, MAPS)
  noise = np.asarray(teacher[..., 2]) / 1.5 - (index - (C + 1) / 2) / 10
  assert 0.01 < noise.std() < 0.03
  _, drawn = lad(codes="random", sigma=1e-4, scale=100.0).augmented_inputs(jax.random.key(0), batch())
  assert np.ptp(drawn[..., 2]) > 10


def test_the_number_of_classes_comes_from_the_data():
  more = batch()._replace(extra={"present": jnp.ones((B, 7), bool)})
  seen = with_labels(jax.random.key(0), more, codes="fixed", sigma=0.0, scale=10.0)[..., -1]
  np.testing.assert_allclose(seen, np.where(MAPS < 0, 7, MAPS) - 4.0, atol=1e-5)


def test_what_a_builder_and_a_batch_may_not_be():
  with pytest.raises(UserError, match=r"method.role='tutor': unknown; choose one of student, teacher"):
    lad(role="tutor")
  with pytest.raises(UserError, match=r"method.codes='one_hot': unknown; choose one of fixed, random"):
    lad(codes="one_hot")
  plain = Batch(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jnp.arange(2))
  with pytest.raises(ValueError, match=r"no label maps; set task.name='segmentation'"):
    lad().augmented_inputs(jax.random.key(0), plain)


def test_terms_that_other_recipes_share_work_on_maps():
  assert float(cross_entropy_term().value(view(STUDENT))) == pytest.approx(np_cross_entropy(STUDENT), rel=1e-5)
  with pytest.raises(ValueError, match=r"label_smoothing=0.1: .* label maps"):
    cross_entropy_term(label_smoothing=0.1).value(view(STUDENT))
  with pytest.raises(ValueError, match="logits"):
    cross_entropy_term().value(view(STUDENT[:, 0, 0]))  # a network with one answer per image
  t, s = (log_softmax(z / 4.0, -1) for z in (TEACHER, STUDENT))
  want = 16 * (np.exp(t) * (t - s)).sum(-1).mean()
  assert float(jnp.mean(kd_term(1.0, 4.0).value(view(STUDENT)))) == pytest.approx(want, rel=1e-5)
