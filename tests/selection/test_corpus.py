"""Scores of chunks and what is kept by them: brute force, ties, order, and what is refused."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import (
  SCORERS,
  Evidence,
  check_disjoint,
  difference_score,
  flops_matched_steps,
  select,
  select_top_fraction,
)
from jdistill.selection.corpus import separation

RNG = np.random.default_rng(0)
N = 40
TOKENS = RNG.integers(5, 60, N).astype(float)
TEACHER, REFERENCE = RNG.gamma(2, 20, N), RNG.gamma(2, 25, N)  # summed nats
EVIDENCE = Evidence(
  np.zeros(N, np.int32), teacher_losses=np.stack([TEACHER, TOKENS]), reference_losses=np.stack([REFERENCE, TOKENS])
)


def test_a_score_is_the_difference_of_losses():
  np.testing.assert_array_equal(difference_score(REFERENCE, TEACHER), REFERENCE - TEACHER)
  assert difference_score(np.float32([2, 2]), np.float32([1, 3])).dtype == np.float64


@pytest.mark.parametrize(("ratio", "count"), [(0.29, 29), (0.5, 50), (1.0, 100), (0.019, 1)])
def test_the_greatest_are_kept_in_the_order_of_the_corpus(ratio, count):
  scores = np.random.default_rng(1).normal(size=100)
  found = select_top_fraction(scores, ratio)
  want = sorted(sorted(range(100), key=lambda i: -scores[i])[:count])
  assert found.tolist() == want and len(found) == count
  assert select_top_fraction(np.zeros(100), ratio).tolist() == list(range(count))  # of equal ones the first


@pytest.mark.parametrize("length_normalize", [True, False])
@pytest.mark.parametrize("name", list(SCORERS))
def test_scorers_keep_what_their_rule_says(name, length_normalize):
  divide = TOKENS if length_normalize else 1.0
  rule = {"miniplm": REFERENCE - TEACHER, "teacher_likelihood": -TEACHER, "reference_loss": REFERENCE}[name] / divide
  found = select(0, name, EVIDENCE, per_class=12, length_normalize=length_normalize)
  want = sorted(sorted(range(N), key=lambda i: -rule[i])[:12])
  assert found.index.tolist() == want and found.weight is None
  np.testing.assert_allclose(found.value, rule[want])


def test_sums_and_means_choose_differently():
  one, other = (select(0, "miniplm", EVIDENCE, per_class=12, length_normalize=flag).index for flag in (True, False))
  assert one.tolist() != other.tolist()


def test_separation_is_the_probability_of_a_greater_score():
  scores, mine = np.random.default_rng(2).integers(0, 6, 30).astype(float), np.arange(30) % 3 == 0
  pairs = [(a > b) + 0.5 * (a == b) for a in scores[mine] for b in scores[~mine]]
  assert separation(scores, mine) == pytest.approx(np.mean(pairs), rel=1e-12)
  with pytest.raises(ValueError, match="give both"):
    separation(scores, mine & False)


def test_equal_work_is_the_fraction_of_the_paper():
  assert flops_matched_steps(100, 900, 120) == 30
  assert flops_matched_steps(100, 900, 120, "minillm") == round(120 * 300 / (400 + 1800))
  assert flops_matched_steps(100, 900, 120, "plain") == 120 and flops_matched_steps(1, 10**9, 5) == 1
  # of the paper: a student of 200M under a teacher of 1.8B takes 25,000 of 100,000 steps
  assert flops_matched_steps(200, 1800, 100_000) == 25_000


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: difference_score(REFERENCE[:3], TEACHER), "3 scores of the reference, 40 of the teacher"),
    (lambda: difference_score([1.0, np.nan], [1.0, 1.0]), "nll_ref is nan for chunk 1"),
    (lambda: difference_score([1.0], [np.inf]), "nll_teacher is inf for chunk 0"),
    (lambda: difference_score([], []), r"nll_ref has shape \(0,\)"),
    (lambda: select_top_fraction(TEACHER, 0.0), "ratio=0.0 must be above 0"),
    (lambda: select_top_fraction(TEACHER, 1.5), "ratio=1.5 must be above 0 and at most 1"),
    (lambda: select_top_fraction(TEACHER, 0.01), "keeps none of 40 chunks"),
    (lambda: select_top_fraction([1.0, np.nan], 0.5), "must be finite"),
    (lambda: check_disjoint([3, 5, 9], [1, 9, 4]), "1 chunks are scored that the reference was trained on, such as 9"),
    (lambda: flops_matched_steps(0, 1, 1), "at least 1"),
    (lambda: flops_matched_steps(1, 1, 1, "gkd"), "must be one of plain"),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
  check_disjoint([1, 2], [3])


def replaced(field, row, value):
  own = np.array(getattr(EVIDENCE, field))
  own[row, 7] = value
  return EVIDENCE._replace(**{field: own})


@pytest.mark.parametrize(
  ("evidence", "message"),
  [
    (replaced("teacher_losses", 0, np.nan), r"evidence\.teacher_losses: nan"),
    (replaced("reference_losses", 1, 3), "3 tokens of chunk 7.*score with one tokenizer"),
    (
      EVIDENCE._replace(teacher_losses=np.ones((2, 9))),
      r"shape \(2, 9\) for 40 examples; give \[2, n\]",
    ),
    (EVIDENCE._replace(reference_losses=None), "reference_losses: missing"),
  ],
)
def test_evidence_that_does_not_serve_is_refused(evidence, message):
  with pytest.raises(UserError, match=message):
    select(0, "miniplm", evidence, per_class=3)


def test_an_empty_chunk_is_refused():
  both = replaced("teacher_losses", 1, 0)._replace(reference_losses=replaced("reference_losses", 1, 0).reference_losses)
  with pytest.raises(UserError, match="chunk 7 has no token that counts; leave it out"):
    select(0, "miniplm", both, per_class=3)
