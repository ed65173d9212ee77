"""Several teachers, several responses: what is verified, split and counted, and how roll-outs are judged."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.language import byte_tokenizer
from jdistill.synthetic.traces import addition_samples, addition_trace
from jdistill.tasks import Request
from jdistill.tasks.candidates import SKILLS, candidates

WORDS = byte_tokenizer()


def made(dataset="addition", train_size=60, test_size=10, validation_size=8, **options):
  request = Request(dataset, None, train_size, test_size, "none", validation_size, 0)
  return candidates(request, **({"questions": 400, "samples": 3, "teachers": ("steps", "shuffled")} | options))


def texts(data):
  rows, there = np.asarray(data.x.tokens), np.asarray(data.x.segments) > 0
  return [WORDS.decode(row[own & (row != WORDS.eos)].tolist()) for row, own in zip(rows, there, strict=True)]


def carries(prompt):
  a, b = prompt.split("+")
  return any(int(x) + int(y) > 9 for x, y in zip(a[::-1], b[::-1], strict=True))


def test_only_right_responses_are_there_and_the_teachers_share_is_told():
  task = made()
  extra = task.data.extra
  for text in texts(task.data):
    prompt, _, response = text.partition("=")
    assert int(response.split(";")[1]) == sum(map(int, prompt.split("+")))
  for number, teacher in enumerate(("steps", "shuffled")):
    own = extra["domain"] == number
    assert np.unique(extra["own_score"][own]).tolist() == pytest.approx([own.sum() / (60 * 3)])
    assert abs(own.sum() / 180 - SKILLS[teacher]) < 0.1
  assert np.bincount(extra["question"]).max() == 6 and len(task.domains) == 2
  assert extra["own_score"][extra["domain"] == 1].tolist() == [1.0] * 180


def test_held_out_questions_are_hard_and_nobody_is_trained_on_them():
  task = made()
  held = [text.split("=")[0] for part in (task.validation, task.test) for text in texts(part)]
  train = {text.split("=")[0] for text in texts(task.data)}
  assert len(held) == 18 and all(map(carries, held)) and not train & set(held)
  assert sum(map(carries, train)) == 15


def test_the_verifier_reads_roll_outs():
  task = made()
  rows, mask = task.data.x, np.asarray(task.data.extra["mask"])
  response = np.concatenate([np.zeros((len(mask), 1), bool), mask[:, :-1]], axis=1)
  assert np.asarray(task.verifier.right(rows, response)).all() and task.verifier.end_token == WORDS.eos
  changed = np.array(rows.tokens)
  last = mask.sum(axis=1) + mask.argmax(axis=1) - 1  # of the answer; the end comes after it
  changed[np.arange(len(last)), last] = np.where(changed[np.arange(len(last)), last] == ord("7"), ord("8"), ord("7"))
  assert not np.asarray(task.verifier.right(rows._replace(tokens=changed), response)).any()


def test_samples_differ_in_the_order_of_digits_and_some_are_wrong():
  made_ = addition_samples([(12, 39)], "steps", WORDS.encode, tokenizer="bytes", samples=40)
  found = {WORDS.decode(one.response) for one in made_}
  assert found == {f"{x},{y};51" for x in ("2+9+0=11", "9+2+0=11") for y in ("1+3+1=5", "3+1+1=5")}
  assert {one.question for one in made_} == {0} and [one.seed for one in made_] == list(range(40))
  carried = addition_samples([(12, 39)], "carry_first", WORDS.encode, tokenizer="bytes", samples=2)
  assert WORDS.decode(carried[1].response) == addition_trace(12, 39, "carry_first")[1]
  many = addition_samples([(12, 39)], "steps", WORDS.encode, tokenizer="bytes", samples=400, skill=0.7)
  answers = [WORDS.decode(one.response).split(";")[1] for one in many]
  assert abs(np.mean([answer == "51" for answer in answers]) - 0.7) < 0.08
  assert set(answers) == {"51", "61", "52"}
  for options in ({"samples": 0}, {"samples": 1, "skill": 1.5}):
    with pytest.raises(ValueError, match="at least 1, and skill"):
      addition_samples([(1, 2)], "steps", WORDS.encode, tokenizer="bytes", **options)


def test_questions_without_a_right_response_are_named():
  (note,) = (one for one in made(samples=1).notes if "no response" in one)
  assert note.startswith("steps: no response to") and note.endswith(", ...")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dataset": "python"}, "set dataset='addition'"),
    ({"teachers": ("steps", "answer")}, r"task\.teachers: 'answer' is no teacher; choose of steps"),
    ({"teachers": ("steps",)}, "needs at least two; name more"),
    ({"train_size": 4000}, "train_size=4000: 3000 easy questions .* change the sizes"),
    ({"validation_size": 0}, "change the sizes"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(UserError, match=message) as caught:
    made(**options)
  assert "\n" not in str(caught.value)
