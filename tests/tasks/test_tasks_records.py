"""Tasks of generated records: which examples are where, and scores against models whose figures are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import tasks
from jdistill.base import LanguageModel, Outputs, UserError, Variables
from jdistill.language import byte_tokenizer
from jdistill.synthetic import document_entropy, generated, markov_oracle, oracle_logits
from jdistill.synthetic.markov import ALPHABET
from jdistill.tasks.oracle import divergence, reading

WORDS = byte_tokenizer()


def request(dataset, train=40, validation=20, **changes):
  return tasks.Request(dataset, None, train, None, "none", validation, 0, **changes)


@functools.lru_cache
def build(name, dataset, **sizes):
  return tasks.builder(name)(request(dataset, **sizes))


def texts(part):
  return ["".join(map(chr, row[row < 256][: int(s.sum()) - 1])) for row, s in zip(*part.x[:2], strict=True)]


MARKOV = "markov:symbols=4,order=1,length=8,prompt=4,documents=400"


def test_additions_are_divided_by_difficulty_and_apart():
  task = build("arithmetic", "addition:digits=3,records=100,seed=2")
  parts = task.data, task.validation, task.test
  assert [len(part.ids) for part in parts] == [40, 20, 20]
  seen = [set(texts(part)) for part in parts]
  assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
  for part in parts:
    if part is not task.data:
      assert sorted(np.bincount(part.extra["domain"])) == [6, 7, 7]
    for text, domain, mask in zip(texts(part), part.extra["domain"], part.extra["mask"], strict=True):
      prompt, answer = text.split("=")
      a, b = map(int, prompt.split("+"))
      assert a + b == int(answer) and len(str(a)) == len(str(b)) == domain + 1
      assert mask.sum() == len(answer) + 1  # with its end


def test_accuracy_is_the_share_of_right_answers_of_each_difficulty():
  task = build("arithmetic", "addition:digits=3,records=100,seed=2")
  part = task.test
  logits = np.array(jax.nn.one_hot(part.y, task.num_classes))
  wrong = np.array([3, 7, 11])
  place = part.extra["mask"][wrong].argmax(1)  # the first token of the answer
  logits[wrong, place] = 0
  logits[wrong, place, 5] = 1
  found = task.score(lambda x: logits, part)
  right = np.isin(np.arange(20), wrong, invert=True)
  assert found["accuracy"] == pytest.approx(np.mean([found[f"accuracy_{n}"] for n in (1, 2, 3)]))
  for digits in (1, 2, 3):
    assert found[f"accuracy_{digits}"] == pytest.approx(right[part.extra["domain"] == digits - 1].mean())


def truth(task, x):
  corpus = generated(MARKOV)
  ids = np.concatenate([WORDS.encode(one) for one in ALPHABET[:4]])
  return oracle_logits(markov_oracle(corpus.source, ids, WORDS.size, WORDS.eos, 8), *map(jnp.asarray, x[:2]), order=1)


def test_the_oracle_is_at_no_distance_from_itself_and_its_loss_is_the_entropy():
  task = build("oracle", MARKOV)
  prompts = [text[:4] for part in (task.data, task.validation, task.test) for text in texts(part)]
  assert len(set(prompts)) == len(prompts)
  found = task.score(lambda x: truth(task, x), task.test)
  assert found["golden"] == pytest.approx(0, abs=1e-6)
  # a uniform student: log V less the entropy of every token, which is exact
  source, vocabulary = generated(MARKOV).source, task.num_classes
  flat = task.score(lambda x: np.zeros((*x.tokens.shape, vocabulary)), task.test)
  assert flat["nats"] == pytest.approx(np.log(vocabulary), rel=1e-12)
  rows = np.exp(np.asarray(truth(task, task.test.x), np.float64))[task.test.extra["mask"]]
  entropy = -np.sum(np.where(rows > 0, rows * np.log(np.maximum(rows, 1e-300)), 0), axis=1).mean()
  assert flat["golden"] == pytest.approx(np.log(vocabulary) - entropy, rel=1e-5)  # logits of the oracle are float32
  assert entropy == pytest.approx((document_entropy(source, 8) - document_entropy(source, 4)) / 5, rel=0.25)


def fixed_writer(task, tokens):
  """A model that always writes these tokens, with certainty."""
  size = task.num_classes

  def logits(place):
    return 50.0 * jax.nn.one_hot(jnp.asarray(tokens)[jnp.clip(place - 4, 0, len(tokens) - 1)], size)

  def apply(params, x, **options):
    del params, options
    place = jnp.cumsum(x.segments > 0, axis=1)
    return Outputs(logits(place), jnp.zeros((*place.shape, 0)))

  return LanguageModel(
    lambda key: Variables({}), apply, lambda batch, length: jnp.zeros((), jnp.int32),
    lambda params, cache, tokens, mask: (logits(jnp.sum(mask, axis=1)), cache + tokens.shape[1]),
    lambda params, cache, tokens: (logits(jnp.full(tokens.shape, cache + 1)), cache + 1), 9, size,
  )  # fmt: skip


def test_the_proxy_is_measured_on_what_the_teacher_writes():
  task = build("oracle", MARKOV)
  own = [int(WORDS.encode(one)[0]) for one in "ab"] + [WORDS.eos]
  writer = tasks.Writer(fixed_writer(task, own), {})
  judge = task.against(writer, task.validation)

  # a student that is sure of `a` where the teacher is: ln 2 in two of three tokens
  def student(x):
    place = np.cumsum(np.asarray(x.segments) > 0, axis=1)
    logits = np.full((*place.shape, task.num_classes), -1e9)
    for at, sure in ((4, False), (5, False), (6, True)):
      logits[place == at, own[at - 4]] = 0
      logits[place == at, 0] = -1e9 if sure else 0
    return logits

  found = judge(student)
  assert found["proxy"] == pytest.approx(2 / 3 * np.log(2), abs=1e-9)
  assert found["teacher_golden"] > 1


def test_the_divergence_is_exact():
  rng = np.random.default_rng(0)
  p, q, where = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5)), np.array([[1, 1, 0], [0, 1, 0]], bool)
  a, b = (np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (p, q))
  assert divergence(p, q, where) == pytest.approx((a * np.log(a / b)).sum(-1)[where].mean(), rel=1e-12)


def test_the_reading_counts_seeds():
  steps = np.round(np.geomspace(1, 1000, 20)).astype(int)
  steps = np.unique(steps)
  line = steps**-0.5
  down, up = 0.5 + line, 0.5 + np.abs(np.log(steps / 30)) / 10
  curves = {"golden": np.stack([down, up], 1), "proxy": np.stack([line, line + (steps > 200) * 0.05], 1)}
  curves["teacher_golden"] = np.full_like(curves["golden"], 0.2)
  found = reading(steps, curves)
  first = steps[np.argmin(up)]
  assert found["golden rises, proxy falls"] == f"1 of 2 seeds, first at update {first}"
  assert found["proxy off its line"].startswith("1 of 2 seeds, first at update ")
  assert found["teacher from oracle"] == "0.2"
  near = reading(steps, curves | {"teacher_golden": np.full_like(line[:, None], 0.001)})
  assert "nothing to hack" in near["teacher from oracle"]
  assert "a line needs 5" in reading(steps[:4], {name: own[:4] for name, own in curves.items()})["proxy off its line"]
  assert reading(steps, {"golden": curves["golden"]}) == {}


@pytest.mark.parametrize(
  ("name", "dataset", "changes", "message"),
  [
    ("oracle", "addition", {}, "dataset='addition': this task knows the truth about 'markov' alone"),
    ("oracle", "python", {}, "knows the truth about 'markov' alone"),
    ("oracle", "markov", {}, "has no prompts; add prompt=N"),
    ("arithmetic", MARKOV, {}, "knows the truth about 'addition' alone"),
    (
      "arithmetic",
      "addition:digits=1",
      {"train": 90},
      "40 examples held out and 90 for training are not all there among 100",
    ),
    ("arithmetic", "addition:digits=1", {"validation": 0}, "validation_size=0"),
    ("oracle", "markov:symbols=2,order=1,length=4,prompt=2", {}, "are not all there among 2"),
  ],
)
def test_bad_requests_are_refused(name, dataset, changes, message):
  with pytest.raises(UserError) as error:
    tasks.builder(name)(request(dataset, **changes))
  assert message in str(error.value)


def test_pixels_and_short_contexts_are_refused():
  with pytest.raises(UserError, match="text has no pixels"):
    tasks.builder("oracle")(request(MARKOV)._replace(preprocessing="zca"))
  with pytest.raises(UserError, match=r"task\.context=5: the longest record has 9 tokens"):
    tasks.builder("oracle")(request(MARKOV), context=5)
