"""Addition records, and the checker against Python's own reading of the same texts."""

import re

import jax
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data.text import has_records, read_records, read_text
from jdistill.language import byte_tokenizer
from jdistill.synthetic import addition_record, addition_records, character_codes, check_addition, generated

WORDS = byte_tokenizer()
CODES = character_codes(WORDS.decode, WORDS.size, WORDS.eos)
END = WORDS.eos


def judge(records, *, scratchpad=False, length=48, pad_left=3):
  """Verdicts of `(prompt, response, ended)`."""
  tokens = np.full((len(records), length), ord("7"), np.int32)  # padding that would be read as digits
  where, response = (np.zeros(tokens.shape, bool) for _ in range(2))
  for i, (prompt, answer, ended) in enumerate(records):
    row = [*WORDS.encode(prompt), *WORDS.encode(answer), *([END] if ended else [])]
    place = slice(pad_left, pad_left + len(row))
    tokens[i, place], where[i, place] = row, True
    response[i, pad_left + len(prompt) : pad_left + len(row)] = True
  both = [
    check_addition(tokens, where, response, CODES, scratchpad=scratchpad),
    jax.jit(check_addition, static_argnames="scratchpad")(tokens, where, response, CODES, scratchpad=scratchpad),
  ]
  for a, b in zip(*both, strict=True):
    np.testing.assert_array_equal(a, b)
  return np.asarray(both[0].correct), np.asarray(both[0].readable)


def reference(prompt, answer, ended, scratchpad):
  """`(correct, readable)` by regular expressions and Python's whole numbers."""
  asked = re.fullmatch(r"(\d+)\+(\d+)=", prompt)
  found = re.fullmatch(r"[\d+=,]*;(\d+)" if scratchpad else r"(\d+)", answer)
  readable = bool(asked and found and ended)
  return readable and found[1] == str(int(asked[1]) + int(asked[2])), readable


@pytest.mark.parametrize("scratchpad", [False, True])
def test_what_is_made_is_correct(scratchpad):
  rng = np.random.default_rng(0)
  records = [record for digits in (1, 2, 5, 8) for record in addition_records(rng, 20, digits=digits)]
  records = [addition_record(*map(int, p[:-1].split("+")), scratchpad=scratchpad) for p, _ in records]
  correct, readable = judge([(*record, True) for record in records], scratchpad=scratchpad, length=128)
  assert correct.all() and readable.all()
  assert not judge([(*record, False) for record in records], scratchpad=scratchpad, length=128)[1].any()


@pytest.mark.parametrize("scratchpad", [False, True])
def test_the_checker_reads_as_python_does(scratchpad):
  rng = np.random.default_rng(1)
  records = []
  for _ in range(300):
    a, b = rng.integers(0, 10 ** rng.integers(1, 9), 2)
    prompt, answer = addition_record(int(a), int(b), scratchpad=scratchpad)
    letters = list(answer)
    for _ in range(rng.integers(0, 3)):  # some damage
      at = int(rng.integers(0, len(letters) + 1))
      change = rng.integers(0, 3)
      if change == 0:
        letters.insert(at, rng.choice(list("0123456789+=,;x")))
      elif at < len(letters):
        letters[at : at + 1] = [] if change == 1 else [rng.choice(list("0123456789;"))]
    records.append((prompt, "".join(letters), bool(rng.random() < 0.9)))
  found = judge(records, scratchpad=scratchpad, length=160)
  expected = np.array([reference(*record, scratchpad) for record in records])
  np.testing.assert_array_equal(np.stack(found, 1), expected)
  assert 30 < expected[:, 0].sum() < expected[:, 1].sum() < 300


@pytest.mark.parametrize(
  ("record", "expected"),
  [
    (("3+4=", "07", True), (False, True)),  # nobody writes it so
    (("0+0=", "0", True), (True, True)),
    (("3+4=", "", True), (False, False)),
    (("+4=", "4", True), (False, False)),
    (("3+=", "3", True), (False, False)),
    (("3-4=", "7", True), (False, False)),
    (("99999999+99999999=", "199999998", True), (True, True)),
    (("1+1=", "4294967298", True), (False, True)),  # 2 modulo 2^32
    (("123456789+1=", "123456790", True), (False, False)),  # nine digits are more than it reads
  ],
)
def test_single_cases(record, expected):
  correct, readable = judge([record])
  assert (correct[0], readable[0]) == expected


def test_records_are_different_and_of_their_difficulty():
  for digits, count in ((1, 100), (3, 400)):
    records = addition_records(np.random.default_rng(2), 400, digits=digits)
    assert len(set(records)) == len(records) == count
    assert all(re.fullmatch(rf"\d{{{digits}}}\+\d{{{digits}}}=", prompt) for prompt, _ in records)
  corpus = generated("addition:digits=2,records=50")
  assert [len(prompt) for prompt, _ in corpus.records] == [4 + 2 * d for d in corpus.difficulty]
  np.testing.assert_array_equal(np.bincount(corpus.difficulty), [50, 50])


def test_generated_corpora_are_data_sets():
  assert has_records("addition") and has_records("markov:prompt=4") and not has_records("markov")
  assert read_records("addition:digits=1,records=7", ("response", "prompt"))[0][1].endswith("=")
  documents = read_text("markov:documents=5,length=9").split("\n\n")
  assert [len(document) for document in documents] == [9] * 5
  assert documents == [a + b for a, b in read_records("markov:documents=5,length=9,prompt=4", ("prompt", "response"))]


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("addition:digit=3", "addition.digit='3': unknown key; did you mean 'digits'"),
    ("addition:digits=9", "addition.digits=9: must be at most 8"),
    ("addition:digits=x", "addition.digits='x': must be of type int"),
    ("addition:least=3,digits=2", "addition.least=3: exceeds addition.digits=2"),
    ("addition:scratchpad=1", "addition.scratchpad='1': must be of type bool"),
    ("markov:order", "'order' is no KEY=VALUE"),
    ("markov:prompt=24", "markov.prompt=24: leaves nothing"),
    ("markov:symbols=64,order=4", "markov.order=4: gives 16,777,216 contexts"),
  ],
)
def test_bad_names_are_refused(name, message):
  with pytest.raises(UserError) as error:
    read_text(name)
  assert message in str(error.value)


def test_tokenizers_without_digits_are_refused():
  with pytest.raises(ValueError, match="no token is '0' alone"):
    character_codes(lambda ids: "ab", 3, 2)
  with pytest.raises(ValueError, match="must be one \\[B, T\\]"):
    check_addition(np.zeros((2, 3), int), np.ones((2, 3), bool), np.ones((2, 4), bool), CODES)
