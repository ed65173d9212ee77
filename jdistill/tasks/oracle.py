"""A language whose truth is known: a Markov source as the oracle, and how far students and teachers are from it."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jdistill.base import Batch, UserError
from jdistill.evaluation.hacking import detect_bend, detect_teacher_hacking
from jdistill.evaluation.perplexity import token_losses
from jdistill.language import Rows, byte_tokenizer, generate, next_tokens, with_prompts
from jdistill.schema import Range, validated
from jdistill.synthetic import markov_oracle, oracle_logits
from jdistill.synthetic.markov import ALPHABET
from jdistill.tasks.records import corpus_of, divide, rows_of
from jdistill.tasks.task import Predict, Request, Task, Writer, take

_PERFECT = 0.01  # nats; a teacher that is so near to the oracle leaves nothing to hack


@validated("task")
def oracle(request: Request, *, context: Annotated[int, Range(3)] | None = None) -> Task:
  """Responses of a Markov source to prompts of it, one to a row (the laboratory of arXiv 2502.02671).

  The figures are means over the tokens of responses to held-out prompts, in nats:

  - `golden`: `KL(oracle || student)` on responses of the oracle, exact in every token;
  - `nats`: the loss on them;
  - `proxy`: `KL(teacher || student)` on responses that the teacher writes to the same prompts, once;
  - `teacher_golden`: `KL(oracle || teacher)`, which a perfect imitation of the teacher would have as its `golden`.

  No two records have the same prompt, so that those of training and those of scores are different.

  Args:
    request: `dataset` is `"markov:prompt=N"`, with further options (`jdistill.synthetic.generated`). Sizes count
      records.
    context: tokens of a row; open for a record.

  Raises:
    UserError: another data set or one without prompts, sizes that do not fit, or an option out of its range.
  """
  corpus, words = corpus_of(request, "markov"), byte_tokenizer()
  if not corpus.records[0][0]:
    raise UserError(f"dataset={request.dataset!r}: has no prompts; add prompt=N to its options")
  prompts = [prompt for prompt, _ in corpus.records]
  kept = np.sort(np.unique(prompts, return_index=True)[1])
  train, validation, test = divide(_renumbered(take(rows_of(corpus, words, context), kept)), request)
  ids = np.concatenate([words.encode(one) for one in ALPHABET[: corpus.source.symbols]])
  length = len("".join(corpus.records[0]))
  truth = markov_oracle(corpus.source, ids, words.size, words.eos, length)
  logits = jax.jit(functools.partial(oracle_logits, order=corpus.source.order))

  def golden(predict: Predict, data: Batch) -> float:
    known = np.asarray(logits(truth, data.x.tokens, data.x.segments))
    return divergence(known, predict(data.x), data.extra["mask"])

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    mask = data.extra["mask"]
    nats = float(np.sum(token_losses(predict, data.x, data.y, mask)) / np.sum(mask))
    return {"golden": golden(predict, data), "nats": nats}

  def against(writer: Writer, data: Batch) -> Callable[[Predict], Mapping[str, float]]:
    teacher = jax.jit(lambda params, x: writer.model.apply(params, x).logits)
    own = functools.partial(teacher, writer.params)
    x, mask = _written(writer, data, words.eos)
    theirs, floor = np.asarray(own(x)), golden(lambda x: np.asarray(own(x)), data)
    return lambda predict: {"proxy": divergence(theirs, predict(x), mask), "teacher_golden": floor}

  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=words.size,
    input_shape=(train.y.shape[1],),
    kind="tokens",
    score=score,
    against=against,
    reading=reading,
    metric="golden",
    higher=False,
    notes=(
      f"{len(train.y):,} records of an order-{corpus.source.order} source of {corpus.source.symbols} symbols for "
      f"teacher and students, choices on {len(validation.y):,} held-out ones; test: {len(test.y):,}; all prompts "
      "are different",
    ),
  )


def divergence(p_logits: np.ndarray, q_logits: np.ndarray, where: np.ndarray) -> float:
  """The mean of `KL(p || q)` over the tokens that count, in float64 and nats; both `[n, T, V]`."""
  p, q = (special.log_softmax(np.asarray(one, np.float64)[where], axis=-1) for one in (p_logits, q_logits))
  return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def reading(steps: np.ndarray, curves: Mapping[str, np.ndarray]) -> dict[str, str]:
  """Whether students hack their teacher, from their curves: in how many of the seeds, and from which update on.

  Args:
    steps: `[E]` updates.
    curves: `golden`, `proxy` and `teacher_golden`, `[E, seeds]`; without a teacher nothing is told.
  """
  if "proxy" not in curves:
    return {}
  seeds = curves["golden"].shape[1]
  later = steps > 0
  seen = [detect_teacher_hacking(steps, curves["golden"][:, i], curves["proxy"][:, i]) for i in range(seeds)]
  found = {"golden rises, proxy falls": _told(seen)}
  try:
    bends = [detect_bend(steps[later], curves["proxy"][later, i]) for i in range(seeds)]
    found["proxy off its line"] = _told(bends)
  except ValueError as error:
    found["proxy off its line"] = str(error).partition(": ")[2]
  floor = float(curves["teacher_golden"][-1].mean())
  dull = f"; below {_PERFECT}, so that there is nothing to hack" if floor < _PERFECT else ""
  return found | {"teacher from oracle": f"{floor:.4g}{dull}"}


def _told(verdicts: list) -> str:
  steps = [verdict.step for verdict in verdicts if verdict.hacking]
  where = f", first at update {min(steps):,}" if steps else ""
  return f"{len(steps)} of {len(verdicts)} seeds{where}"


def _written(writer: Writer, data: Batch, end_token: int) -> tuple[Rows, np.ndarray]:
  """What a teacher writes to the prompts of some records, with the tokens whose targets it wrote."""
  tokens, segments, mask = (np.asarray(leaf) for leaf in (data.x.tokens, data.x.segments, data.extra["mask"]))
  size = int(mask[0].argmax()) + 1  # all prompts are equally long
  samples = generate(
    writer.model, writer.params, jnp.asarray(tokens[:, :size]), jax.random.key(2502), max_new=tokens.shape[1] - size,
    end_token=end_token, prompt_mask=jnp.asarray(segments[:, :size] > 0),
  )  # fmt: skip
  rows, response = with_prompts(tokens[:, :size], None, samples)
  return jax.device_get((rows, next_tokens(rows, response)[1]))


def _renumbered(data: Batch) -> Batch:
  return data._replace(ids=np.arange(len(data.ids), dtype=np.int32))
