"""Responses of teachers: filters with their reasons, pass rates, intersections, edit distances and diverse subsets."""

import functools
import itertools

import numpy as np
import pytest

from jdistill.selection import distances, responses
from jdistill.selection.responses import Response


def record(question, text="abc", **fields):
  return Response(question, f"q{question}", text, **({"score": 1.0} | fields))


def test_filters_name_the_first_reason_and_the_questions_that_are_lost():
  records = [
    record(0), record(0, "abc", score=0.5), record(1, "", score=1.0), record(1, "x" * 50),
    record(2, "ab", truncated=True), record(3, "aaaaaaaa"), record(4, "no"), record(4, "yes"),
  ]  # fmt: skip
  kept = responses.quality_filter(
    records, most_tokens=20, well_formed=lambda text: text != "no", repetition=(1, 0.8), least_score=0.9
  )
  assert kept.index.tolist() == [0, 7] and kept.lost == (1, 2, 3)
  assert kept.dropped == {"wrong": 1, "empty": 1, "long": 1, "truncated": 1, "repetitive": 1, "malformed": 1}
  with pytest.raises(ValueError, match=r"none of 1 records is left \(1 wrong\); loosen"):
    responses.quality_filter([record(0, score=0.0)])
  with pytest.raises(ValueError, match="record 1 has no score; verify first"):
    responses.quality_filter([record(0), record(1, score=None)])
  with pytest.raises(ValueError, match="no records"):
    responses.quality_filter([])


def test_a_verifier_gives_scores_in_range():
  found = responses.verified([record(0, "4", score=None), record(1, "5", score=None)], lambda one: one.response == "4")
  assert [one.score for one in found] == [1.0, 0.0]
  with pytest.raises(ValueError, match=r"gives 2\.0 for record 0"):
    responses.verified([record(0)], lambda one: 2)


def test_repetition_is_the_share_of_n_grams_that_came_before():
  assert responses.repetition_ratio("abab", 2) == pytest.approx(1 / 3)
  assert responses.repetition_ratio([1, 2, 3], 1) == 0 == responses.repetition_ratio("a", 3)
  with pytest.raises(ValueError, match="n=0"):
    responses.repetition_ratio("abc", 0)


def test_pass_rates_and_questions_that_are_not_too_easy():
  rates = responses.pass_rate(np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]))
  np.testing.assert_array_equal(rates, [1, 0.5, 0])
  np.testing.assert_array_equal(responses.compress_questions(rates, max_pass=0.5), [1, 2])
  np.testing.assert_array_equal(responses.compress_questions(rates, max_pass=0.5, min_pass=0.1), [1])
  with pytest.raises(ValueError, match=r"drop all 2 questions, whose rates are 0\.8 to 1"):
    responses.compress_questions(np.array([0.8, 1.0]), max_pass=0.5)
  for wrong in (np.ones((3, 1)), np.ones(3)):
    with pytest.raises(ValueError, match="at least 2 samples of each question"):
      responses.pass_rate(wrong)
  with pytest.raises(ValueError, match="from 0 to 1"):
    responses.pass_rate(np.array([[0.0, 2.0]]))


def test_sources_are_compared_on_the_questions_that_all_have():
  sources = {"a": [record(q) for q in (3, 1, 2)], "b": [record(q) for q in (2, 3, 9)]}
  np.testing.assert_array_equal(responses.matched_intersection(sources), [2, 3])
  with pytest.raises(ValueError, match=r"2 common questions of 3 of a: less than least=0\.9"):
    responses.matched_intersection(sources, least=0.9)
  with pytest.raises(ValueError, match="a and b answer different questions"):
    responses.matched_intersection({"a": [record(1)], "b": [record(2)]})
  with pytest.raises(ValueError, match="1 source; give at least 2"):
    responses.matched_intersection({"a": [record(1)]})
  with pytest.raises(ValueError, match="b has no records"):
    responses.matched_intersection({"a": [record(1)], "b": []})
  other = {"a": [record(1, tokenizer="bytes")], "b": [record(1, tokenizer="bpe")]}
  for function in (responses.matched_intersection, responses.match_tokens):
    with pytest.raises(ValueError, match="counted by the tokenizers 'bpe' and 'bytes'; encode all with one"):
      function(other)


def test_equal_tokens_are_the_first_records_of_each():
  sources = {"short": [record(q, "ab") for q in range(5)], "long": [record(q, "abcdef") for q in range(5)]}
  found = responses.match_tokens(sources)
  assert found["short"].tolist() == [0, 1, 2, 3, 4] and found["long"].tolist() == [0]
  assert responses.match_tokens(sources, 12)["long"].tolist() == [0, 1]
  with pytest.raises(ValueError, match="budget=5 is less than the first response of long"):
    responses.match_tokens(sources, 5)


def test_prompts_of_the_test_are_refused():
  responses.check_held_out([record(1)], ["q2"])
  with pytest.raises(ValueError, match="1 records answer prompts of the test, such as question 2"):
    responses.check_held_out([record(1), record(2)], ["q2", "q7"])


@functools.cache
def by_recursion(a, b):
  if not a or not b:
    return len(a) + len(b)
  return min(
    by_recursion(a[1:], b) + 1, by_recursion(a, b[1:]) + 1, by_recursion(a[1:], b[1:]) + (a[0] != b[0])
  )  # fmt: skip


def test_edit_distances_are_those_of_the_definition():
  rng = np.random.default_rng(0)
  texts = ["".join(rng.choice(list("abc"), size)) for size in (0, 1, 3, 5, 6, 6)] + ["kitten", "sitting"]
  want = np.array([[by_recursion(a, b) for b in texts] for a in texts])
  np.testing.assert_array_equal(distances.levenshtein_matrix(texts), want)
  assert distances.levenshtein([5, 6, 7], [5, 7]) == 1 and want[-1, -2] == 3


def test_the_farthest_are_chosen_greedily():
  rng = np.random.default_rng(1)
  points = rng.normal(size=(7, 2))
  dist = np.linalg.norm(points[:, None] - points[None], axis=-1)
  dist = (dist + dist.T) / 2
  chosen = distances.farthest_subset(dist, 4)
  assert {int(chosen[0]), int(chosen[1])} == set(
    max(itertools.combinations(range(7), 2), key=lambda pair: dist[pair[0], pair[1]])
  )
  for count in (2, 3):
    rest = [i for i in range(7) if i not in chosen[:count]]
    assert chosen[count] == max(rest, key=lambda i: min(dist[i, j] for j in chosen[:count]))
  assert distances.farthest_subset(dist, 1)[0] == np.argmax(dist.sum(axis=1))
  assert sorted(distances.farthest_subset(np.zeros((3, 3)), 3).tolist()) == [0, 1, 2]
  for k in (0, 8):
    with pytest.raises(ValueError, match=rf"k={k} of 7 responses; ask for 1 to 7"):
      distances.farthest_subset(dist, k)
  with pytest.raises(ValueError, match="no symmetric matrix"):
    distances.farthest_subset(rng.normal(size=(3, 3)), 2)
