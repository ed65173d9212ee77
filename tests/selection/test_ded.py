"""DED's choice: the teacher by its student, hard questions, responses that are far apart; by brute force."""

import itertools

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import Evidence, select
from jdistill.selection.distances import levenshtein
from jdistill.selection.traces import best_source, diverse

QUESTIONS, TEACHERS, SAMPLES, LENGTH = 6, 3, 4, 7
RNG = np.random.default_rng(0)
QUESTION, SOURCE, _ = (a.ravel() for a in np.indices((QUESTIONS, TEACHERS, SAMPLES)))
N = len(QUESTION)
RESPONSES = RNG.integers(0, 4, (LENGTH, N))
RESPONSES[np.arange(LENGTH)[:, None] >= RNG.integers(3, LENGTH + 1, N)] = -1
SMOKE = np.array([[0.2, 0.6, 0.5], [0.3, 0.5, 0.7]])  # the third has the greatest mean, the second the first run
OWN = np.array([[0.8, 1.0, 0.9]])
PASSES = np.array([[1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0]], float)  # rates 1, 0.5, 0, 0.5, 1, 0
EVIDENCE = Evidence(
  np.zeros(N, np.int32),
  origins=np.stack([QUESTION, SOURCE]),
  responses=RESPONSES,
  own_scores=OWN[:, SOURCE],
  smoke=SMOKE[:, SOURCE],
  passes=PASSES[:, QUESTION],
)


def text(place):
  return [token for token in RESPONSES[:, place].tolist() if token >= 0]


def test_the_teacher_is_the_one_of_the_best_student_in_the_mean():
  assert best_source(SOURCE, SMOKE[:, SOURCE]) == 2 and best_source(SOURCE, OWN[:, SOURCE]) == 1
  assert best_source(np.array([5, 5, 3]), np.ones((1, 3))) == 3
  for name, want in (("smoke", {2}), ("own", {1}), ("any", {0, 1, 2})):
    found = select(1, "ded", EVIDENCE, per_class=5, teacher=name, per_question=4, keep="random")
    assert set(SOURCE[found.index].tolist()) <= want and len(set(found.index.tolist())) == 5


def test_questions_that_the_student_answers_are_dropped_and_the_two_farthest_are_kept():
  found = select(0, "ded", EVIDENCE, per_class=8, max_pass=0.5)
  assert sorted(QUESTION[found.index].tolist()) == [1, 1, 2, 2, 3, 3, 5, 5]
  assert found.notes == {"questions of the teacher": 6, "questions that are hard enough": 4}
  for question in (1, 2, 3, 5):
    own = np.flatnonzero((question == QUESTION) & (SOURCE == 2))
    pairs = {pair: levenshtein(*map(text, pair)) for pair in itertools.combinations(own.tolist(), 2)}
    chosen = tuple(sorted(place for place in found.index.tolist() if QUESTION[place] == question))
    assert pairs[chosen] == max(pairs.values())
  assert set(QUESTION[select(0, "ded", EVIDENCE, per_class=4, max_pass=0.0).index].tolist()) == {2, 5}
  assert len(set(QUESTION[select(0, "ded", EVIDENCE, per_class=12, max_pass=1.0).index].tolist())) == 6


def test_the_controls_keep_the_longest_or_any():
  found = select(0, "ded", EVIDENCE, per_class=4, max_pass=0.0, keep="longest")
  for question in (2, 5):
    own = np.flatnonzero((question == QUESTION) & (SOURCE == 2))
    chosen = [place for place in found.index if QUESTION[place] == question]
    rest = [len(text(place)) for place in own if place not in chosen]
    assert min(len(text(place)) for place in chosen) >= max(rest)
  drawn = {tuple(diverse(np.random.default_rng(seed), RESPONSES[:, :4], 2, "random").tolist()) for seed in range(200)}
  assert len(drawn) == 12
  assert diverse(RNG, RESPONSES[:, :2], 3, "farthest").tolist() == [0, 1]


def test_whole_questions_are_drawn_and_seeds_differ():
  drawn = [select(seed, "ded", EVIDENCE, per_class=4, max_pass=1.0).index for seed in range(8)]
  assert len({tuple(sorted(one.tolist())) for one in drawn}) > 3
  assert all(np.bincount(QUESTION[one]).max() == 2 for one in drawn)
  np.testing.assert_array_equal(drawn[3], select(3, "ded", EVIDENCE, per_class=4, max_pass=1.0).index)


@pytest.mark.parametrize(
  ("evidence", "options", "message"),
  [
    (EVIDENCE._replace(passes=EVIDENCE.passes[:, :] * 0 + 1), {}, r"select\.max_pass=0\.75: .*drop all 6 questions"),
    (EVIDENCE, {"per_question": 5}, r"select\.per_question=5: no question has more than 4 responses; lower it"),
    (EVIDENCE, {"per_class": 9, "max_pass": 0.5}, "4 of 6 questions are hard enough and give 8 responses, and 9 shall"),
    (EVIDENCE._replace(passes=EVIDENCE.passes[:1]), {}, "at least 2 samples of each question"),
    (EVIDENCE._replace(smoke=None), {}, r"evidence\.smoke: missing"),
    (EVIDENCE._replace(origins=QUESTION[None, :3]), {}, r"shape \(1, 3\) for 72 examples; give \[2, n\]"),
  ],
)
def test_what_is_refused(evidence, options, message):
  with pytest.raises((UserError, ValueError), match=message):
    select(0, "ded", evidence, **({"per_class": 3} | options))
