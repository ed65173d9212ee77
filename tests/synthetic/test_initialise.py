"""Which real images a synthetic set starts from, and which labels experts give them."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.synthetic import correctly_predicted, expert_label_logits, random_real, start, to_arrays

LABELS = np.array([0, 1, 2] * 6)


def logits_of(predictions, classes=3):
  """Logits `[experts, n, classes]` whose argmax is as given."""
  rng = np.random.default_rng(0)
  predictions = np.asarray(predictions)
  out = rng.normal(size=(*predictions.shape, classes))
  np.put_along_axis(out, predictions[..., None], out.max(-1, keepdims=True) + 1, -1)
  return out.astype(np.float32)


def test_random_real_images_come_class_by_class():
  picked = random_real(np.random.default_rng(0), LABELS, 4, 3)
  assert LABELS[picked].tolist() == [0] * 4 + [1] * 4 + [2] * 4
  assert len(set(picked.tolist())) == 12
  np.testing.assert_array_equal(picked, random_real(np.random.default_rng(0), LABELS, 4, 3))
  assert (picked != random_real(np.random.default_rng(1), LABELS, 4, 3)).any()


def test_random_real_images_are_uniform():
  counts = np.zeros(18, int)
  for seed in range(600):
    counts[random_real(np.random.default_rng(seed), LABELS, 2, 3)] += 1
  assert np.abs(counts - 200).max() < 60  # probability 1/3: five standard deviations


def test_random_real_needs_enough_images():
  with pytest.raises(UserError, match=r"ipc=7: class 0 has only 6 usable images of 6; lower ipc"):
    random_real(np.random.default_rng(0), LABELS, 7, 3)


def walk(order, predictions, ipc):
  """The rule in words: go through the class's shuffled images with expert 0, then again with the next, ..."""
  picked = []
  for label in range(3):
    own = []
    for expert in predictions:
      for index in order:
        if LABELS[index] == label and expert[index] == label and index not in own and len(own) < ipc:
          own.append(index)
    picked += own
  return picked


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ipc", [1, 2, 3])
def test_images_are_those_the_first_expert_knows_in_the_order_of_the_walk(seed, ipc):
  rng = np.random.default_rng(seed)
  predictions = np.where(rng.random((3, 18)) < 0.6, LABELS, (LABELS + 1) % 3)
  predictions[2] = LABELS  # the last one knows all, so nobody runs out
  picked = correctly_predicted(np.random.default_rng(seed), logits_of(predictions), LABELS, ipc, 3)
  assert picked.tolist() == walk(np.random.default_rng(seed).permutation(18), predictions, ipc)


def test_the_second_expert_is_only_asked_when_the_first_is_used_up():
  predictions = np.stack([(LABELS + 1) % 3, LABELS])
  predictions[0, [0, 1, 2, 3]] = LABELS[[0, 1, 2, 3]]  # the first knows two images of class 0, one each of 1 and 2
  for seed in range(8):
    picked = correctly_predicted(np.random.default_rng(seed), logits_of(predictions), LABELS, 3, 3).reshape(3, 3)
    assert set(picked[0, :2]) == {0, 3} and picked[1, 0] == 1 and picked[2, 0] == 2
    assert LABELS[picked].tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert len(set(picked.ravel().tolist())) == 9


def test_a_class_that_nobody_knows_is_refused():
  predictions = np.stack([LABELS, LABELS])
  predictions[:, LABELS == 1] = 0
  predictions[0, 1] = 1
  with pytest.raises(UserError, match=r"ipc=2: class 1 has only 1 usable images of 6; .* train the experts longer"):
    correctly_predicted(np.random.default_rng(0), logits_of(predictions), LABELS, 2, 3)


def test_labels_are_the_mean_over_the_experts_that_are_right():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 12)
  logits = rng.normal(size=(5, 12, 4)).astype(np.float32)
  logits[0, np.arange(12), labels] += 5  # somebody is always right
  got = expert_label_logits(logits, labels)
  assert got.shape == (12, 4) and got.dtype == np.float32
  for image in range(12):
    right = [logits[k, image].astype(np.float64) for k in range(5) if logits[k, image].argmax() == labels[image]]
    np.testing.assert_allclose(got[image], sum(right) / len(right), rtol=1e-6)
  assert (got.argmax(-1) == labels).all()


def test_an_image_that_nobody_knows_gets_a_label_that_still_names_its_class():
  for label in range(3):
    logits = np.array([[[3.0, 1.0, 0.0]], [[1.0, 2.0, 0.5]]], np.float32)  # means 2, 1.5, 0.25
    wrong = np.roll(logits, label - 2, axis=-1)  # neither expert says `label`
    got = expert_label_logits(wrong, np.array([label]))
    assert np.isfinite(got).all()
    assert got[0].argmax() == label
    np.testing.assert_allclose(np.sort(got[0]), [0.25, 1.5, 2.0])  # the mean's values, of which it has the largest


def test_other_images_are_untouched_by_one_that_nobody_knows():
  logits = np.array([[[0.0, 1.0], [2.0, 0.0]], [[0.0, 3.0], [4.0, 1.0]]], np.float32)
  got = expert_label_logits(logits, np.array([0, 0]))
  np.testing.assert_allclose(got[1], [3.0, 0.5])
  np.testing.assert_allclose(np.sort(got[0]), [0.0, 2.0])
  assert got[0].argmax() == 0


IMAGES = np.arange(18, dtype=np.float32).reshape(18, 1, 1, 1)


def experts_of(predictions):
  """`(images, experts) -> logits` of experts with given predictions, and which were asked."""
  logits, asked = logits_of(predictions), []

  def answer(images, experts):
    asked.append(list(experts))
    return logits[np.array(asked[-1])[:, None], np.int64(images[:, 0, 0, 0])[None]]

  return answer, logits, asked


def test_a_start_takes_images_that_the_first_able_expert_knows_and_the_labels_of_all():
  wrong = (LABELS + 1) % 3
  answer, logits, asked = experts_of([np.where(np.arange(18) < 3, LABELS, wrong), LABELS, LABELS])
  made = start(lr_init=0.5).make(IMAGES, LABELS, ipc=2, num_classes=3, seed=4, expert_logits=answer, experts=3)
  picked = correctly_predicted(np.random.default_rng((4, 2)), logits[:2], LABELS, 2, 3)
  np.testing.assert_array_equal(made.images, IMAGES[picked])
  np.testing.assert_array_equal(made.labels, expert_label_logits(logits[:, picked], LABELS[picked]))
  assert made.lr == np.float32(0.5) and asked == [[0], [1], [0, 1, 2]]


def test_a_start_from_any_images_with_hard_labels_asks_no_expert():
  plan = start(initial="real", labels="hard")
  made = plan.make(IMAGES, LABELS, ipc=2, num_classes=3, seed=4, expert_logits=None, experts=0)
  picked = random_real(np.random.default_rng((4, 2)), LABELS, 2, 3)
  np.testing.assert_array_equal(made.images, IMAGES[picked])
  np.testing.assert_array_equal(made.labels, LABELS[picked])
  for found, like in zip(*(to_arrays(one).values() for one in (plan.empty(2, 3, (1, 1, 1)), made)), strict=True):
    assert (found.shape, found.dtype.kind) == (like.shape, like.dtype.kind)
  assert start().empty(2, 3, (1, 1, 1)).labels.shape == (6, 3)


def test_a_start_that_cannot_work_is_refused():
  answer, _, _ = experts_of([(LABELS + 1) % 3])
  with pytest.raises(UserError, match="class 0 has only 0 usable images of 6"):
    start().make(IMAGES, LABELS, ipc=2, num_classes=3, seed=4, expert_logits=answer, experts=1)
  start().check({"learn_labels": True}, {})
  with pytest.raises(UserError, match="hard labels cannot be learned"):
    start(labels="hard").check({"learn_labels": True}, {})
  with pytest.raises(UserError, match=r"^method\.initial='correct': this method has no experts to ask; .*'real'$"):
    start(labels="hard").check({}, None)
  with pytest.raises(UserError, match=r"^method\.labels='soft': this method has no experts to ask; .*'hard'$"):
    start(initial="real").check({}, None)
  start(initial="real", labels="hard").check({}, None)


def test_a_set_may_start_from_noise_with_the_classes_as_labels():
  images, labels = np.zeros((4, 2, 2, 1), np.float32), np.int32([0, 1, 0, 1])
  options = {"ipc": 100, "num_classes": 2, "seed": 3, "expert_logits": None, "experts": 0}
  found = start(initial="noise", labels="hard", lr_init=0.5).make(images, labels, **options)
  assert found.images.shape == (200, 2, 2, 1) and found.images.dtype == np.float32
  np.testing.assert_array_equal(found.labels, np.repeat([0, 1], 100))
  assert abs(found.images.mean()) < 0.1 and abs(found.images.std() - 1) < 0.1
  again = start(initial="noise", labels="hard").make(images, labels, **options)
  np.testing.assert_array_equal(again.images, found.images)
  with pytest.raises(UserError, match=r"method\.initial='noise': experts give no labels to noise"):
    start(initial="noise").check({}, None)


def test_mosaics_are_made_of_small_real_images_of_one_class():
  rng = np.random.default_rng(0)
  y = np.array([0, 1] * 12)
  images = rng.normal(size=(24, 4, 6, 1)).astype(np.float32)
  options = {"ipc": 2, "num_classes": 2, "seed": 5, "expert_logits": None, "experts": 0}
  made = start(initial="mosaic2", labels="hard").make(images, y, **options)
  assert made.images.shape == (4, 4, 6, 1) and made.labels.tolist() == [0, 0, 1, 1]
  used = []
  for image, label in zip(made.images, made.labels, strict=True):
    for a, b in np.ndindex(2, 2):
      tile = image[2 * a : 2 * a + 2, 3 * b : 3 * b + 3]
      used += [i for i in range(24) if (images[i, ::2, ::2] == tile).all() and y[i] == label]
  assert len(used) == len(set(used)) == 16
  again = start(initial="mosaic2", labels="hard").make(images, y, **options)
  np.testing.assert_array_equal(again.images, made.images)
  with pytest.raises(UserError, match=r"method.initial='mosaic2': needs 4 real images for each of ipc=4, .* only 12"):
    start(initial="mosaic2", labels="hard").make(images, y, **options | {"ipc": 4})
  with pytest.raises(UserError, match=r"method.initial='mosaic3': images of 4 x 6 pixels cannot be made of 3 x 3"):
    start(initial="mosaic3", labels="hard").make(images, y, **options | {"ipc": 1})
