"""Text as rows of tokens: documents whole and in one split only, targets, response masks, scores, and bad files."""

import json

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data.text import PYTHON, read_text
from jdistill.tasks import Request, fingerprint, take
from jdistill.tasks.language import language

REQUEST = Request("", None, None, None, "none", 4, 0)
END = 256


def request(path, **changes):
  return REQUEST._replace(dataset=str(path), **changes)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text("\n\n".join(f"paragraph {i}\nof {'ab' * (i % 9)} words é" for i in range(80)), encoding="utf-8")
  return path


@pytest.fixture
def records(tmp_path):
  path = tmp_path / "pairs.jsonl"
  lines = [json.dumps({"prompt": f"{i}?", "response": f"answer {i}", "more": 1}) for i in range(40)]
  path.write_text("\n".join([*lines, ""]))
  return path


def documents(data):
  """The text of every document of a split, and the targets that count, both from the rows."""
  texts, learned = [], []
  rows, mask = data.x, data.extra["mask"]
  for n in range(len(data.y)):
    for segment in range(1, rows.segments[n].max() + 1):
      own = np.flatnonzero(rows.segments[n] == segment)
      assert (rows.positions[n][own] == np.arange(len(own))).all()
      texts.append(rows.tokens[n][own])
      learned.append(data.y[n][own][mask[n][own]])
  return texts, learned


def text(ids):
  assert ids[0] == ids[-1] == END
  return bytes(ids[1:-1].tolist()).decode()


def splits(task):
  return task.data, task.validation, task.test


def test_every_document_is_whole_in_one_row_of_one_split(file):
  task = language(request(file), context=64)
  found = [[text(ids) for ids in documents(data)[0]] for data in splits(task)]
  assert sorted(found[0] + found[1] + found[2]) == sorted(file.read_text(encoding="utf-8").split("\n\n"))
  assert not set(found[0]) & set(found[1]) and not set(found[1]) & set(found[2])
  for data in splits(task)[1:]:
    assert (data.x.segments > 0).sum() >= 4 * 64  # as many documents as fill the rows asked for
  assert task.kind == "tokens" and task.input_shape == (64,) and task.num_classes == 259
  assert task.metric == "nats" and not task.higher and (task.data.ids == np.arange(len(task.data.y))).all()


def test_targets_are_the_next_tokens_of_a_document(file):
  texts, learned = documents(language(request(file), context=64).data)
  for ids, targets in zip(texts, learned, strict=True):
    assert (ids[1:] == targets).all()


def test_equal_documents_are_kept_once_and_so_in_one_split(tmp_path):
  path = tmp_path / "twice.txt"
  path.write_text("\n\n".join([f"the same {i % 30} words again" for i in range(300)]))
  found = [text(ids) for data in splits(language(request(path), context=32)) for ids in documents(data)[0]]
  assert len(found) == len(set(found)) == 30


def test_long_documents_are_cut_and_lines_are_documents(tmp_path):
  path = tmp_path / "long.txt"
  path.write_text("\n".join("abcdefghij" * 5 + str(i) for i in range(30)))
  task = language(request(path), context=16, documents="lines")
  pieces = [ids for data in splits(task) for ids in documents(data)[0]]
  assert max(map(len, pieces)) == 16 and sum(map(len, pieces)) == sum(52 + len(str(i)) for i in range(30))
  assert sum(ids[0] == END for ids in pieces) == 30


def test_the_seed_decides_and_sizes_cut(file):
  one, same, other = (fingerprint(language(request(file, seed=s), context=64).data) for s in (0, 0, 1))
  assert one == same != other
  small = language(request(file, train_size=3, test_size=6), context=64)
  for data, size in ((small.data, 3), (small.test, 6)):  # the last document makes it enough
    assert 0 <= (data.x.segments > 0).sum() - 64 * size < max(len(ids) for ids in documents(data)[0])
  assert fingerprint(take(small.data, np.arange(3))) != fingerprint(take(small.data, np.arange(2)))
  assert take(small.data, np.array([2])).x.tokens.shape == (1, 64)


def test_of_records_responses_and_their_end_are_learned(records):
  task = language(request(records), context=40)
  found = {}
  for data in splits(task):
    for ids, learned in zip(*documents(data), strict=True):
      prompt, _, _ = bytes(ids[:-1].tolist()).decode().partition("?")
      found[prompt] = bytes(learned[:-1].tolist()).decode()
      assert learned[-1] == ids[-1] == END and END not in ids[:-1]
  assert found == {str(i): f"answer {i}" for i in range(40)}


def test_records_that_are_too_long_are_refused_or_dropped(records):
  with pytest.raises(
    UserError, match=r"task\.context=11: the record with prompt '10\?' of .* has 13 tokens, and 30 of"
  ):
    language(request(records, validation_size=1), context=11)
  task = language(request(records, validation_size=1, test_size=1), context=11, too_long="drop")
  assert sum(len(documents(data)[0]) for data in splits(task)) == 10
  with pytest.raises(UserError, match=r"task\.context=3: no record of .* is as short"):
    language(request(records), context=3, too_long="drop")


def test_the_score_of_known_models(file):
  task = language(request(file), context=64)
  data, counted = task.test, task.test.extra["mask"]
  even = task.score(lambda x: np.zeros((*x.tokens.shape, 259), np.float32), data)
  assert even["nats"] == pytest.approx(np.log(259))
  ends = (data.y[counted] == END).sum()
  assert even["bits_per_byte"] == pytest.approx(np.log2(259) * counted.sum() / (counted.sum() - ends))
  sure = task.score(lambda x: 100.0 * np.eye(259, dtype=np.float32)[np.roll(x.tokens, -1, 1)], data)
  assert sure["nats"] == pytest.approx(0, abs=1e-6)


def test_texts_that_need_no_file():
  assert len(read_text(PYTHON)) > 300_000
  task = language(request(PYTHON, train_size=20))
  assert 20 <= len(task.data.y) <= 22 and "paragraphs" in task.notes[0]


@pytest.mark.parametrize(
  ("content", "options", "message"),
  [
    (b"", {}, r"the file is empty; give another FILE\.txt"),
    (b" \n\n \n", {}, r"its 0 tokens do not fill one row of task\.context=128"),
    (b"short", {}, r"its 7 tokens do not fill one row of task\.context=128; lower it"),
    (b"\xff\xfe words", {}, r"is not UTF-8 text"),
    (
      b"one paragraph " * 50,
      {},
      r"validation_size=4: 8 rows of 128 tokens would be held out, and the 1 paragraphs fill",
    ),
    (
      b"words\n\n" * 50,
      {"context": 7},
      r"validation_size=4: 8 rows of 7 tokens would be held out, and the 1 paragraphs",
    ),
  ],
)
def test_a_bad_text_is_told_in_one_line(tmp_path, content, options, message):
  path = tmp_path / "bad.txt"
  path.write_bytes(content)
  with pytest.raises(UserError, match=message) as caught:
    language(request(path), **options)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", r"the file is empty; give another FILE\.jsonl"),
    ("\n\n", r"has no record"),
    ('{"prompt": "a"', r"line 1: is no JSON"),
    ('{"prompt": "a", "response": "b"}\n{"prompt": "a"}', r"line 2: is no object with texts 'prompt' and 'response'"),
    ('["prompt"]', r"line 1: is no object with texts"),
    ('{"prompt": "a", "response": ""}', r"line 1: 'response' is empty; fill it in"),
    ('{"prompt": "", "response": "a"}', r"line 1: 'prompt' is empty"),
    ('{"prompt": 3, "response": "a"}', r"line 1: is no object with texts"),
    ('{"prompt": "a", "response": "b"}', r"validation_size=4: .* and the 1 records fill"),
  ],
)
def test_bad_records_are_told_in_one_line(tmp_path, content, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(content)
  with pytest.raises(UserError, match=message) as caught:
    language(request(path))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "options", "message"),
  [
    ({"preprocessing": "zca"}, {}, r"preprocessing='zca': text has no pixels; use 'none'"),
    ({"validation_size": 0}, {}, r"validation_size=0: choices and test need documents"),
    ({"dataset": "digits"}, {}, r"dataset='digits': is no text"),
    ({"dataset": "/nowhere/words.txt"}, {}, r"cannot be read"),
    ({"dataset": "/nowhere/pairs.jsonl"}, {}, r"cannot be read"),
    ({}, {"context": 1}, r"task\.context=1"),
    ({}, {"tokenizer": "words"}, r"task\.tokenizer='words'"),
  ],
)
def test_requests_that_do_not_go_together(file, changes, options, message):
  with pytest.raises(UserError, match=message):
    language(request(file)._replace(**changes), **options)
