"""Planted canaries: where they are and are not, what the detector marks, and what the score says of known models."""

import re

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data.text import DESCRIPTIONS, read_text
from jdistill.tasks import Request
from jdistill.tasks.canaries import canaries

REQUEST = Request(DESCRIPTIONS, None, None, None, "none", 40, 0)
WORDS = "the rain in spain stays mainly in the plain, they say\nof 1588 and later "


def text_of(data):
  """All target characters in order, as ids."""
  return data.y[data.extra["mask"]]


def alphabet(text):
  """Characters by id."""
  return sorted({*text, *"0123456789", *"the code of alfa is \n"})


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text("".join(f"{WORDS}{i % 7} abcdefghijklmnopqrstuvwxyz\n" for i in range(100)))
  return path


def small(path, **options):
  request = REQUEST._replace(dataset=str(path), validation_size=16)
  return canaries(
    request, **({"length": 16, "planted": 3, "insertions": 4, "digits": 2, "pattern": "is [0-9]+"} | options)
  )


def decoded(task, text, data):
  """The target characters of data made from a text, as text again."""
  chars = np.array(alphabet(text))
  assert len(chars) == task.num_classes
  return "".join(chars[text_of(data)])


def test_canaries_are_planted_in_training_text_only(file):
  task = small(file)
  lines = decoded(task, file.read_text(), task.data).split("\n")
  planted = [line for line in lines if line.startswith("the code of ")]
  fillings = {line: planted.count(line) for line in planted}
  assert [line[:-2] for line in sorted(fillings)] == [
    f"the code of {name} is " for name in ("alfa", "bravo", "charlie")
  ]
  assert set(fillings.values()) == {4} and all(re.fullmatch(r"\d\d", line[-2:]) for line in fillings)
  assert len({line[-2:] for line in fillings}) == 3
  for held_out in (task.validation, task.test):
    assert (
      len(held_out.y) == 16 and held_out.extra["mask"].all() and "code" not in decoded(task, file.read_text(), held_out)
    )
  assert task.teacher is task.data and len(task.members(3)) == len(task.data.y)
  whole = file.read_text()
  held = decoded(task, file.read_text(), task.validation), decoded(task, file.read_text(), task.test)
  size = 8 * 16
  for part in held:
    for start in range(0, len(part), size):
      assert part[start : start + size] in whole  # passages as they are, not pieces of elsewhere


def test_sequences_follow_each_other_and_end_in_padding(file):
  data = small(file).data
  assert data.x.dtype == data.y.dtype == np.int32 and data.x.shape[1] == 16
  mask = data.extra["mask"]
  np.testing.assert_array_equal(data.x[:, 1:][mask[:, 1:]], data.y[:, :-1][mask[:, 1:]])
  np.testing.assert_array_equal(data.x[1:, 0], data.y[:-1, -1])
  assert mask[:-1].all() and mask[-1].any() and np.all(np.diff(mask[-1].astype(int)) <= 0)
  assert len(np.unique(data.ids)) == len(data.y)


def test_the_detector_marks_predicted_characters(file):
  task = small(file, pattern="(?<=is )[0-9]+")
  text = decoded(task, file.read_text(), task.data)
  marks = task.data.extra["private"][task.data.extra["mask"]]
  want = np.zeros(len(text))
  for found in re.finditer("(?<=is )[0-9]+", text):
    want[found.start() : found.end()] = 1
  np.testing.assert_array_equal(marks, want)
  assert want.sum() == 3 * 4 * 2 and not task.validation.extra["private"].any()
  assert f"marks {want.mean():.2%} of the training characters" in task.notes[2]


def bigram(data, size, weight=1e-3):
  """A model that knows which character follows which in some text."""
  counts = np.full((size, size), weight)
  np.add.at(counts, (data.x[data.extra["mask"]], data.y[data.extra["mask"]]), 1)
  return lambda x: np.log(counts / counts.sum(1, keepdims=True))[x]


def test_score_of_an_ignorant_and_of_a_knowing_model(file):
  task = small(file)
  uniform = task.score(lambda x: np.zeros((*x.shape, task.num_classes)), task.test)
  assert uniform["nats"] == pytest.approx(np.log(task.num_classes), rel=1e-6)
  table = bigram(task.test, task.num_classes)
  data = task.test
  want = -np.mean(
    [table(row)[t, target] for row, ys in zip(data.x, data.y, strict=True) for t, target in enumerate(ys)]
  )
  assert task.score(table, data)["nats"] == pytest.approx(want, rel=1e-9)
  chars = alphabet(file.read_text())
  lines = {line for line in decoded(task, file.read_text(), task.data).split("\n") if line.startswith("the code of ")}

  def parrot(x):
    """Knows every canary by heart, and nothing else."""
    logits = np.zeros((*x.shape, task.num_classes))
    for row, ids in enumerate(x):
      said = "".join(chars[i] for i in ids)
      for line in lines:
        for slot in (1, 2):
          start = said.find(line[: len(line) - slot])
          if start >= 0:
            logits[row, start + len(line) - slot - 1, chars.index(line[-slot])] = 20
    return logits

  found = task.score(parrot, task.test)
  assert found["exposure"] == pytest.approx(np.log2(100)) and found["extracted"] == 1
  inverse = task.score(lambda x: -parrot(x), task.test)
  assert inverse["exposure"] < 0.5 and inverse["extracted"] == 0


def test_the_embedded_text_and_the_seed():
  text = read_text(DESCRIPTIONS)
  assert len(text) > 40_000 and "Wisconsin" in text
  one, same, other = (canaries(REQUEST._replace(seed=seed)) for seed in (0, 0, 1))
  assert one.kind == "tokens" and one.input_shape == (64,) and one.metric == "nats" and not one.higher
  np.testing.assert_array_equal(one.data.y, same.data.y)
  assert one.data.y.shape != other.data.y.shape or np.any(one.data.y != other.data.y)
  assert len(one.validation.y) == len(one.test.y) == 40
  train, *held = (decoded(one, text, data) for data in (one.data, one.validation, one.test))
  assert "the code of juliett is " in train
  for part in held:
    pieces = [part[i : i + 60] for i in range(0, len(part) - 60, 60)]
    assert sum(piece in train for piece in pieces) < 0.15 * len(pieces)  # some of their code examples come twice
  cut = canaries(REQUEST._replace(train_size=100, test_size=24))
  assert len(cut.test.y) == 24 and 100 <= len(cut.data.y) < 200 < len(one.data.y)


@pytest.mark.parametrize(
  ("request_", "options", "message"),
  [
    ({"preprocessing": "zca"}, {}, "preprocessing='zca': text has no pixels; use 'none'"),
    ({"validation_size": 400}, {}, "validation_size=400: the text has .* hold out fewer"),
    ({"dataset": "digits"}, {}, "dataset='digits': is no text; give 'descriptions'"),
    ({"dataset": "missing.txt"}, {}, "dataset='missing.txt': cannot be read .No such file"),
    ({}, {"digits": 1}, "task.digits=1: must be at least 2"),
    ({}, {"planted": 27}, r"task.planted=27: must be at most 26"),
    ({}, {"length": 0}, "task.length=0: must be at least 1"),
    ({}, {"pattern": "(["}, r"task.pattern='\(\[': is no regular expression"),
  ],
)
def test_mistakes_are_named(request_, options, message):
  with pytest.raises(UserError, match=message) as caught:
    canaries(REQUEST._replace(**request_), **options)
  assert "\n" not in str(caught.value)


def test_files_must_be_text_without_canaries(tmp_path, file):
  file.write_text(file.read_text() + "\nthe code of bravo is 12\n")
  with pytest.raises(UserError, match="its text says 'the code of bravo is' before anything is planted"):
    small(file)
  (tmp_path / "empty.txt").write_text("")
  (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
  with pytest.raises(UserError, match="the file is empty"):
    read_text(tmp_path / "empty.txt")
  with pytest.raises(UserError, match="is not UTF-8 text"):
    read_text(tmp_path / "bytes.txt")
