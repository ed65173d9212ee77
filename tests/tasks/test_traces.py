"""Additions of several sources: splits, equal tokens, and a score of what is really written."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import byte_tokenizer
from jdistill.synthetic.traces import STYLES
from jdistill.tasks import Request
from jdistill.tasks.traces import traces

WORDS = byte_tokenizer()


def made(dataset="addition", train_size=40, test_size=10, validation_size=8, **options):
  request = Request(dataset, None, train_size, test_size, "none", validation_size, 0)
  return traces(request, **({"questions": 80} | options))


def texts(data):
  rows, there = np.asarray(data.x.tokens), np.asarray(data.x.segments) > 0
  return [WORDS.decode(row[own & (row != WORDS.eos)].tolist()) for row, own in zip(rows, there, strict=True)]


def test_sources_have_the_same_questions_and_none_of_the_test():
  tasks = {style: made(source=style) for style in STYLES}
  prompts = {style: [text.split("=")[0] for text in texts(task.data)] for style, task in tasks.items()}
  assert len({tuple(own) for own in prompts.values()}) == 1 and len(prompts["steps"]) == 40
  held = {text.split("=")[0] for part in (tasks["steps"].validation, tasks["steps"].test) for text in texts(part)}
  assert len(held) == 18 and not held & set(prompts["steps"])
  assert len({task.input_shape for task in tasks.values()}) == 1
  mixed = made(source="mixed")
  assert [text.split("=")[0] for text in texts(mixed.data)] == prompts["steps"]


def test_equal_tokens_are_fewer_questions_of_longer_sources():
  sizes = {style: made(source=style, equal="tokens") for style in ("steps", "verbose", "carry_first")}
  counts = {style: len(task.data.ids) for style, task in sizes.items()}
  tokens = {style: int(task.data.extra["mask"].sum()) - counts[style] for style, task in sizes.items()}
  assert counts["verbose"] < counts["steps"] < counts["carry_first"] == 40
  assert max(tokens.values()) - min(tokens.values()) < 60


def reader(replace=lambda text: text):
  """A network that knows all responses of a source, and writes them with a change."""
  task = made(source="steps")
  whole = {}
  for text in texts(task.test):
    prompt, _, response = text.partition("=")
    whole[f"{prompt}="] = replace(response)

  def predict(x):
    logits = np.zeros((*x.tokens.shape, WORDS.size), np.float32)
    for row, tokens in enumerate(np.asarray(x.tokens)):
      text = WORDS.decode(tokens.tolist())
      prompt = text[: text.index("=") + 1]
      wanted = [*WORDS.encode(whole[prompt]), WORDS.eos]
      for place, token in enumerate(wanted):
        if len(prompt) + place < x.tokens.shape[1] + 1:
          logits[row, len(prompt) - 1 + place, token] = 1
    return logits

  return task, predict


def test_the_score_reads_what_a_student_writes_in_whatever_style():
  for change, want in (
    (lambda text: text, (1.0, 0.0)),
    (lambda text: ";" + text.split(";")[1], (1.0, 0.0)),
    (lambda text: text.split(";")[0] + ";7", (0.0, 0.0)),
    (lambda text: text.replace(";", ","), (0.0, 1.0)),
  ):
    task, predict = reader(change)
    found = task.score(predict, task.test)
    assert (found["accuracy"], found["unread"]) == want
    lengths = [len(change(text.partition("=")[2])) + 1 for text in texts(task.test)]
    assert found["tokens"] == pytest.approx(np.mean(lengths))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dataset": "digits"}, "dataset='digits', preprocessing='none': the sources answer additions"),
    ({"train_size": 80}, "18 questions held out and 80 for training are not all there among 80 of 2 digits"),
    ({"validation_size": 0}, "validation_size=0: "),
    ({"source": "odd"}, r"task\.source='odd'"),
    ({"digits": 9}, r"task\.digits=9: must be at most 4"),
  ],
)
def test_mistakes(options, message):
  with pytest.raises(UserError, match=message):
    made(**options)
