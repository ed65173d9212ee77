"""Which real images a synthetic set starts from, and which labels experts give them."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.synthetic import correctly_predicted, expert_label_logits, random_real

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
