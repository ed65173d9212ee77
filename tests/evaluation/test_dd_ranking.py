"""DD-Ranking's scores against figures worked out by hand, and which sets of a run they are made of."""

import math

import pytest

from jdistill.evaluation import augmentation_robust_score, label_robust_score
from jdistill.stages import sets


def test_the_scores_are_those_of_the_formula():
  # a = 0.5 (0.8 - 0.5) - 0.5 (0.9 - 0.6) = 0: a gain as large as the loss
  assert label_robust_score(0.8, 0.5, 0.9, 0.6) == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))
  assert label_robust_score(0.8, 0.5, 0.9, 0.6, weight=1.0) == pytest.approx(0.417792, abs=1e-6)  # e^0.3
  assert label_robust_score(1.0, 0.0, 0.5, 0.5, weight=1.0) == pytest.approx(1.0)
  assert label_robust_score(0.5, 0.5, 1.0, 0.0, weight=0.0) == pytest.approx(0.0)
  # b = 0.5 (0.2 - 0.1)
  assert augmentation_robust_score(0.2, -0.1) == pytest.approx(0.290755, abs=1e-6)  # e^0.05
  assert augmentation_robust_score(0.2, -0.1, weight=1.0) == pytest.approx(0.363139, abs=1e-6)  # e^0.2


def _arms(**scores):
  return {name: {"scores": {"accuracy": values}} for name, values in scores.items()}


def test_a_run_has_the_scores_whose_sets_it_compared():
  arms = _arms(distilled=[0.8, 0.7], random_hard=[0.5, 0.5], full_data=[0.9, 0.9], distilled_hard=[0.6, 0.5])
  found = sets.ranking(arms, "accuracy")
  want = [label_robust_score(0.8, 0.5, 0.9, 0.6), label_robust_score(0.7, 0.5, 0.9, 0.5)]
  assert found == {"label_robust_score": pytest.approx(want)}
  # random images with soft labels, where they are there
  soft = sets.ranking(arms | _arms(random_soft=[0.6, 0.6]), "accuracy")["label_robust_score"]
  assert soft[0] == pytest.approx(label_robust_score(0.8, 0.6, 0.9, 0.6))
  # which are no match for a set with hard labels
  hard = {name: arm | {"label_bytes": 40} for name, arm in (arms | _arms(random_soft=[0.6, 0.6])).items()}
  assert sets.ranking(hard, "accuracy") == found
  again = _arms(distilled_reaugmented=[0.7, 0.7], random_hard_reaugmented=[0.6, 0.3])
  robust = sets.ranking(arms | again, "accuracy")["augmentation_robust_score"]
  assert robust == pytest.approx([augmentation_robust_score(0.1, 0.3), augmentation_robust_score(0.4, 0.2)])
  failed = arms | {"full_data": {"failed": "diverged"}}
  assert sets.ranking(failed, "accuracy") == {} == sets.ranking(_arms(distilled=[0.8]), "accuracy")
  # a set with stored labels beside random images with the same kind of labels, whatever else was compared
  stored = sets.ranking(arms | _arms(random_soft=[0.6, 0.6], random_relabelled=[0.7, 0.7]), "accuracy")
  assert stored["label_robust_score"][0] == pytest.approx(label_robust_score(0.8, 0.7, 0.9, 0.6))


def test_the_name_of_a_set_says_which_images_and_which_labels():
  assert sets.split("k_center_one_hot") == ("k_center", "one_hot")
  assert sets.split("facility_location_relabelled") == ("facility_location", "relabelled")
  assert sets.split("distilled_hard") == ("distilled", "hard") and sets.split("full_data") == ("full_data", "")
