"""The task of domains: rows of one domain each, held-out rows of every one, scores by domain, files and refusals."""

import json

import numpy as np
import pytest
from scipy import special

from jdistill import tasks
from jdistill.base import UserError
from jdistill.tasks import Request


def task(dataset="four_domains", *, train_size=40, validation_size=3, test_size=5, seed=0, **options):
  request = Request(dataset, None, train_size, test_size, "none", validation_size, seed)
  return tasks.builder("domains")(request, **({"context": 24} | options))


def counts(data, of=4):
  return np.bincount(data.extra["domain"], minlength=of).tolist()


def test_every_domain_has_its_rows_in_each_split():
  found = task()
  assert found.domains == ("markov1", "markov3", "dyck", "addition") and found.kind == "tokens"
  assert counts(found.data) == [10] * 4 and counts(found.validation) == [3] * 4 and counts(found.test) == [5] * 4
  assert found.data.x.tokens.max() < found.num_classes and found.data.y.shape == (40, 24)
  assert (np.diff(found.data.extra["domain"]) != 0).sum() > 10  # among each other
  assert found.data.ids.tolist() == list(range(40)) and found.members(3).tolist() == list(range(40))
  mask = found.data.extra["mask"]
  np.testing.assert_array_equal(found.data.y[:, :-1][mask[:, :-1]], found.data.x.tokens[:, 1:][mask[:, :-1]])


def test_the_seed_decides_and_shares_are_kept():
  one, same, other = task(), task(), task(seed=1)
  np.testing.assert_array_equal(one.data.x.tokens, same.data.x.tokens)
  assert not np.array_equal(one.data.x.tokens, other.data.x.tokens)
  assert counts(task(proportions=(4.0, 3.0, 2.0, 1.0)).data) == [16, 12, 8, 4]
  assert counts(task("mixed_quality").data, 3) == [16, 16, 8]


def fixed(data, vocabulary, seed=3):
  """A model that knows the rows of a split by their tokens."""
  logits = np.random.default_rng(seed).normal(size=(*data.y.shape, vocabulary)).astype(np.float32)
  rows = {tuple(row): z for row, z in zip(data.x.tokens.tolist(), logits, strict=True)}
  return logits, lambda x: np.stack([rows[tuple(row)] for row in x.tokens.tolist()])


def test_scores_are_means_over_the_tokens_of_a_domain():
  found = task()
  logits, predict = fixed(found.test, found.num_classes)
  log_p = special.log_softmax(logits.astype(np.float64), -1)
  nll = -np.take_along_axis(log_p, found.test.y[..., None], -1)[..., 0]
  mask, domain = found.test.extra["mask"], found.test.extra["domain"]
  scores = found.score(predict, found.test)
  assert scores["nats"] == pytest.approx(nll[mask].mean(), rel=1e-9)
  for i, name in enumerate(found.domains):
    assert scores[f"nats_{name}"] == pytest.approx(nll[(domain == i)[:, None] & mask].mean(), rel=1e-9)
  own = task(scored="dyck")
  assert own.score(predict, own.test)["nats"] == scores["nats_dyck"]


def test_what_is_beside_a_teacher_is_the_ratio_of_perplexities():
  found = task()
  student, teacher = (
    {f"nats_{name}": value for name, value in zip(found.domains, values, strict=True)}
    for values in ((2.0, 1.0, 3.0, 0.5), (1.0, 1.5, 2.5, 0.5))
  )
  beside = found.beside(student, teacher)
  assert beside["max_log_ratio"] == 1.0 and beside["mean_log_ratio"] == pytest.approx(0.25)
  assert beside["log_ratio_markov3"] == -0.5  # a teacher that is worse is legal


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  words = [f"word{number}" for number in range(50)]
  text = lambda: " ".join(rng.choice(words, 6))  # noqa: E731
  for name, size in (("law", 40), ("code", 80)):
    (tmp_path / f"{name}.txt").write_text("\n\n".join(text() for _ in range(size)))
  lines = [{"domain": "law" if i % 3 else "code", "text": text()} for i in range(90)]
  (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
  return tmp_path


def test_files_are_domains(files):
  both = f"{files / 'law.txt'},{files / 'code.txt'}"
  found = task(both, train_size=None)
  assert found.domains == ("law", "code") and found.num_classes == 259
  natural = counts(found.data, 2)
  assert counts(found.validation, 2) == [3, 3] and natural[1] > 1.7 * natural[0]
  equal = counts(task(both, train_size=None, proportions=(1.0, 1.0)).data, 2)
  assert abs(equal[0] - equal[1]) <= 1 and equal[0] == natural[0]
  records = task(str(files / "all.jsonl"), train_size=None)
  assert records.domains == ("code", "law") and sum(counts(records.data, 2)) == len(records.data.y)
  held = {tuple(row) for part in (found.validation, found.test) for row in part.x.tokens.tolist()}
  assert not held & {tuple(row) for row in found.data.x.tokens.tolist()}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"validation_size": 0}, "validation_size=0: every domain needs held-out rows"),
    ({"scored": "dick"}, "task.scored='dick': no such domain; did you mean 'dyck'"),
    ({"proportions": (1.0, 1.0)}, "give one share for each of the 4 domains markov1, markov3, dyck, addition"),
    ({"proportions": (1.0, 1.0, 0.0, 1.0)}, "the domain 'dyck' has held-out rows and no training row"),
    ({"train_size": 2}, "has held-out rows and no training row"),
    ({"dataset": "python"}, "has 1 domain; give several files"),
    ({"dataset": "law.txt,law.txt"}, "cannot be read|two files are named"),
    ({"context": 5}, "task.context=5"),
  ],
)
def test_what_is_refused(change, message):
  with pytest.raises(UserError, match=message) as caught:
    task(**change)
  assert "\n" not in str(caught.value)


def test_too_little_text_of_a_domain_is_refused(files):
  both = f"{files / 'law.txt'},{files / 'code.txt'}"
  with pytest.raises(UserError, match=r"validation_size=200: 205 rows of 24 tokens of the domain 'law' would be"):
    task(both, validation_size=200, train_size=None)
  with pytest.raises(UserError, match=r"train_size: [0-9,]+ rows of the domain"):
    task(both, train_size=10_000, proportions=(1.0, 1.0))
