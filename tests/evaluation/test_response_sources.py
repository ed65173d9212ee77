"""Sources of data: entropies, shifts and profiles against NumPy, comparisons that admit a tie, grids of prompts."""

import numpy as np
import pytest

from jdistill.evaluation import sources
from jdistill.selection.responses import Response


def record(question, text, **fields):
  return Response(question, f"q{question}", text, **fields)


def test_the_entropy_of_tokens_leaves_out_what_does_not_count():
  rng = np.random.default_rng(0)
  logits, mask = rng.normal(size=(2, 3, 5)), np.array([[1, 1, 0], [0, 1, 0]], bool)
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  want = -(probs * np.log(probs)).sum(-1)[mask].mean()
  logits[~mask] = np.nan
  assert sources.mean_token_entropy(logits, mask) == pytest.approx(want, rel=1e-12)
  assert sources.mean_token_entropy(np.zeros((1, 1, 8), np.float16), np.ones((1, 1))) == pytest.approx(np.log(8))
  assert sources.mean_token_entropy(np.array([[[0.0, -np.inf]]]), np.ones((1, 1))) == 0
  with pytest.raises(ValueError, match="with 0 tokens"):
    sources.mean_token_entropy(logits, np.zeros((2, 3)))


def test_the_shift_of_representations_is_seen_in_its_own_plane_only():
  rng = np.random.default_rng(0)
  before = rng.normal(size=(200, 4)) * [5, 3, 0.01, 0.01]
  assert sources.representation_shift(before, before) == 0
  move = np.array([2.0, 1.0, 0, 0])
  got = sources.representation_shift(before, before + move, 2)
  both = np.concatenate([before, before + move])
  plane = (both - both.mean(axis=0))[:, :2]
  assert got == pytest.approx(np.linalg.norm(move) / np.sqrt((plane**2).sum(1).mean()), rel=1e-3)
  assert sources.representation_shift(before, before + np.array([0, 0, 0.02, 0]), 2) < 1e-3
  with pytest.raises(ValueError, match="do not fit"):
    sources.representation_shift(before, before[:-1])


def test_a_profile_is_what_numpy_counts():
  records = [record(0, "abab", score=1.0), record(0, "abcdefgh", score=0.0), record(1, "xy", score=1.0)]
  found = sources.source_profile(records, nll=np.array([2.0, 4.0, 1.0]), ngram=2, categories=["chat", "maths", "chat"])
  assert (found["records"], found["questions"], found["tokens"]) == (3, 2, 14)
  assert found["length"] == pytest.approx(14 / 3) and found["length_quantiles"][1] == 4
  assert found["perplexity"] == pytest.approx(np.exp(7 / 14)) and found["verified"] == pytest.approx(2 / 3)
  assert found["repetition"] == pytest.approx((1 / 3) / 3)
  assert found["shares"] == pytest.approx({"chat": 2 / 3, "maths": 1 / 3})
  assert "verified" not in sources.source_profile([record(0, "a")])
  with pytest.raises(ValueError, match="1 records without a token"):
    sources.source_profile([record(0, "")])
  with pytest.raises(ValueError, match="1 nll for 3 records"):
    sources.source_profile(records, nll=np.zeros(1))


def test_the_best_source_is_that_of_the_best_student_and_ties_are_said():
  quality = {"strong": 0.5, "suited": 0.9, "poor": 0.1}
  sets = {name: [record(0, name)] for name in quality}
  calls = []

  def train(seed, records):
    calls.append((seed, records[0].response))
    return quality[records[0].response] + 0.01 * seed

  found = sources.compare_sources(train, lambda student: student, sets, [0, 1, 2])
  assert found.best == "suited" and found.tied == ("suited",) and found.text == "suited is the best source: 0.91"
  assert found.scores["poor"] == pytest.approx([0.1, 0.11, 0.12]) and len(calls) == 9
  noisy = sources.compared({"a": [0.5, 0.7, 0.6], "b": [0.7, 0.5, 0.61], "c": [0.1, 0.1, 0.1]})
  assert noisy.best == "b" and set(noisy.tied) == {"a", "b"} and "ties with a" in noisy.text
  assert "all sources tie" in sources.compared({"a": [0.5, 0.7], "b": [0.7, 0.5]}).text
  with pytest.raises(ValueError, match="3 sources and 1 seeds"):
    sources.compare_sources(train, float, sets, [0])
  with pytest.raises(ValueError, match="a has a score that is not finite"):
    sources.compared({"a": [np.nan, 1.0], "b": [1.0, 1.0]})


def test_a_grid_has_a_cell_for_every_model_and_prompt_and_counts_what_cannot_be_read():
  answers = ["5", "9"]
  prompts = {"direct": ["2+3", "4+5"], "elaborate": ["think: 2+3", "think: 4+5"]}
  models = {
    "teacher": lambda prompt: f"so it is;{sum(map(int, prompt.split(' ')[-1].split('+')))}",
    "student": lambda prompt: "5" if "think" in prompt else ";5",
  }
  extract = lambda response: response.split(";")[1] if ";" in response else None  # noqa: E731
  found = sources.evaluation_grid(models, prompts, answers, extract)
  assert len(found) == 4 and found["teacher", "direct"].accuracy == 1
  assert found["student", "direct"] == (0.5, 0.0, 2.0) and found["student", "elaborate"] == (0.0, 1.0, 1.0)
  with pytest.raises(ValueError, match="1 prompts of kind direct and 2 answers"):
    sources.evaluation_grid(models, {"direct": ["2+3"]}, answers, extract)
