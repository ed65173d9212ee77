"""Dyck words and corpora of domains: what they are made of, and what is refused."""

import numpy as np
import pytest

from jdistill.synthetic.domains import CORPORA, domain_texts
from jdistill.synthetic.dyck import BRACKETS, dyck_words, is_dyck


@pytest.mark.parametrize(("kinds", "deepest", "length"), [(1, 1, 2), (2, 6, 62), (4, 2, 20)])
def test_words_are_balanced_and_no_deeper_than_asked(kinds, deepest, length):
  words = dyck_words(np.random.default_rng(0), 50, length, kinds=kinds, deepest=deepest)
  assert len(words) == 50 and all(len(word) == length and is_dyck(word) for word in words)
  assert set("".join(words)) == set(BRACKETS[: 2 * kinds])
  depths = [max(np.cumsum([1 if c in BRACKETS[::2] else -1 for c in word])) for word in words]
  assert max(depths) == min(deepest, length // 2) or length > 2 * deepest


@pytest.mark.parametrize("word", ["", "([])()", "{<>}"])
def test_the_checker_accepts_balanced_words(word):
  assert is_dyck(word)


@pytest.mark.parametrize("word", ["([)]", "((", "a", ")("])
def test_the_checker_refuses_others(word):
  assert not is_dyck(word)


@pytest.mark.parametrize("change", [{"kinds": 5}, {"deepest": 0}, {"length": 3}, {"length": 0}, {"opening": 1.0}])
def test_bad_words_are_refused(change):
  with pytest.raises(ValueError, match="dyck_words"):
    dyck_words(np.random.default_rng(0), 2, **({"length": 4} | change))


@pytest.mark.parametrize("name", list(CORPORA))
def test_a_corpus_has_the_texts_asked_for_and_depends_on_its_seed(name):
  counts = list(range(3, 3 + len(CORPORA[name].domains)))
  texts = domain_texts(name, 0, counts, 40)
  assert [len(own) for own in texts.values()] == counts and texts == domain_texts(name, 0, counts, 40)
  assert all(0 < len(text) <= 40 for own in texts.values() for text in own)
  assert texts != domain_texts(name, 1, counts, 40)


def test_domains_are_what_their_names_say():
  texts = domain_texts("four_domains", 0, [4] * 4, 40)
  assert all(is_dyck(text) for text in texts["dyck"])
  for text in texts["addition"]:
    for problem in text.rstrip(";").split(";"):
      left, answer = problem.split("=")
      assert sum(map(int, left.split("+"))) == int(answer)
  assert set("".join(texts["markov1"])) <= set("abcdefgh") and set("".join(texts["markov3"])) <= set("abcdef")
  mixed = domain_texts("mixed_quality", 0, [30, 2, 30], 40)
  assert len(set(mixed["repeats"])) <= 4 and len(set(mixed["noise"])) == 30


def test_alike_domains_have_one_source():
  texts = domain_texts("alike_domains", 0, [200] * 4, 40)
  pairs = [np.zeros((8, 8)) for _ in range(4)]
  for counts, own in zip(pairs, texts.values(), strict=True):
    for text in own:
      symbols = np.frombuffer(text.encode(), np.uint8) - ord("a")
      np.add.at(counts, (symbols[:-1], symbols[1:]), 1)
  rows = [counts / counts.sum(1, keepdims=True) for counts in pairs]
  assert all(np.abs(one - rows[0]).max() < 0.1 for one in rows)  # 8,000 symbols each
  other = domain_texts("alike_domains", 1, [1] * 4, 40)
  assert len({own[0] for own in other.values()}) == 4


@pytest.mark.parametrize(
  ("arguments", "message"), [(("xyz", 0, [1], 40), "is not one of"), (("four_domains", 0, [1], 40), "1 counts for 4"),
                             (("four_domains", 0, [1] * 4, 5), "length=5")]
)  # fmt: skip
def test_what_a_corpus_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    domain_texts(*arguments)
