"""Text by the tokens of a file: documents between their ends, bits per byte, chats, and what a tokeniser lacks."""

import json
import math

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import chat_text, train_bpe
from jdistill.tasks import Request
from jdistill.tasks.language import language

REQUEST = Request("", None, None, None, "none", 4, 0)
END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEXTS = [f"paragraph {i}\nof {'ab' * (i % 9)} words é" for i in range(80)]


@pytest.fixture
def words(tmp_path):
  """A tokeniser in a file whose chats end in another token than its documents, as SmolLM2-Instruct's."""
  found = train_bpe(TEXTS, 300)
  (tmp_path / "tokenizer.json").write_text(found.to_json())
  named = {"bos_token": TURN, "eos_token": TURN_END}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
  return found


@pytest.fixture
def text(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text("\n\n".join(TEXTS), encoding="utf-8")
  return REQUEST._replace(dataset=str(path))


@pytest.fixture
def records(tmp_path):
  path = tmp_path / "pairs.jsonl"
  path.write_text("\n".join(json.dumps({"prompt": f"{i}?", "response": f"answer {i}"}) for i in range(60)))
  return REQUEST._replace(dataset=str(path))


def documents(data):
  for n in range(len(data.y)):
    rows = data.x
    for segment in range(1, rows.segments[n].max() + 1):
      own = np.flatnonzero(rows.segments[n] == segment)
      yield rows.tokens[n][own], data.y[n][own][data.extra["mask"][n][own]]


@pytest.mark.parametrize("name", ["tokenizer.json", "."])
def test_documents_stand_between_ends_of_text_and_bits_are_per_byte_of_the_text(tmp_path, words, text, name):
  task = language(text, context=64, tokenizer=str(tmp_path / name))
  assert task.num_classes == words.size == task.text.tokenizer.size
  found = [ids for ids, _ in documents(task.test)]
  assert all(ids[0] == ids[-1] == words.special[END] for ids in found)
  assert all(words.decode(ids[1:-1]) in TEXTS for ids in found)
  uniform = lambda x: np.zeros((*x.tokens.shape, words.size), np.float32)  # noqa: E731
  scores = task.score(uniform, task.test)
  count = sum(len(ids) - 1 for ids in found)  # the first of a document is predicted by nothing
  nbytes = sum(len(words.decode(ids[1:-1]).encode()) for ids in found)
  assert scores["nats"] == pytest.approx(math.log(words.size)) and scores["perplexity"] == pytest.approx(words.size)
  assert scores["bits_per_byte"] == pytest.approx(count * math.log2(words.size) / nbytes)
  held = "".join(words.decode(ids, special=False) for ids, _ in documents(task.validation))
  assert task.text.probe.replace("\n\n", "") in held.replace("\n\n", "") and task.exhibit is None


def test_every_token_stands_for_the_bytes_it_writes(words):
  counts = words.token_bytes()
  for one in TEXTS[:9]:
    assert counts[words.encode(one)].sum() == len(one.encode())
  assert [counts[number] for number in words.special.values()] == [0, 0, 0]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_records_as_chats_are_learned_where_the_assistant_writes(tmp_path, words, records, system):
  task = language(records, context=96, tokenizer=str(tmp_path), template="chat", system=system)
  for ids, learned in documents(task.data):
    number = words.decode(ids, special=False).rpartition("answer ")[2].strip()
    turns = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"answer {number}"}]
    assert words.decode(ids) == chat_text(turns, system=system)
    assert words.decode(learned) == f"answer {number}{TURN_END}"


def test_what_a_tokeniser_lacks_is_told(tmp_path, records, text):
  bare = train_bpe(TEXTS, 280, special_tokens=())
  (tmp_path / "tokenizer.json").write_text(bare.to_json())
  own = {"context": 96, "tokenizer": str(tmp_path / "tokenizer.json")}
  with pytest.raises(
    UserError, match=r"task\.template='chat': .*: has no special token <\|im_start\|> and <\|im_end\|>"
  ):
    language(records, template="chat", **own)
  with pytest.raises(UserError, match=r"task\.tokenizer: .* has no token that ends a response"):
    language(records, **own)
  (ids, _), *_ = documents(language(text, **own | {"context": 48}).data)
  assert bare.decode(ids) in TEXTS  # a text needs no ends
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match=r"task\.tokenizer: .*tokenizer\.json: is no tokenizer\.json") as caught:
    language(text, **own)
  assert "\n" not in str(caught.value)
