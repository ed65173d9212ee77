"""Corpora that are generated from a name: `"markov"`, `"addition"`, or with options `"markov:order=3,symbols=64"`."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.schema import Count, Positive, Range, Size, check_known, checked, fields, near_matches, validated
from jdistill.synthetic import arithmetic
from jdistill.synthetic.markov import MOST_SYMBOLS, MarkovSource, markov_source, markov_text, sample_markov


class Corpus(NamedTuple):
  """Texts that were made, and what is known of them.

  Attributes:
    records: `(prompt, response)` each; the prompt is empty for plain documents.
    difficulty: `[n]` int32, from 0, the difficulty of each.
    source: what the documents come from, where that is a `MarkovSource`; `None` otherwise.
    scratchpad: whether a response has steps before its answer.
  """

  records: list[tuple[str, str]]
  difficulty: np.ndarray
  source: MarkovSource | None = None
  scratchpad: bool = False


@validated("markov")
def markov(
  *,
  symbols: Annotated[int, Range(2, MOST_SYMBOLS)] = 16,
  order: Annotated[int, Range(0, 4)] = 2,
  concentration: Positive = 0.3,
  documents: Count = 2000,
  length: Annotated[int, Range(2)] = 24,
  prompt: Size = 0,
  seed: Size = 0,
) -> Corpus:
  """Documents of a random stationary Markov source, a letter or digit per symbol.

  Args:
    symbols, order, concentration: see `jdistill.synthetic.markov_source`.
    documents: how many.
    length: symbols of each.
    prompt: how many of these are its prompt, below `length`; 0 for plain documents.
    seed: of source and documents.

  Raises:
    UserError: an option out of its range.
  """
  if prompt >= length:
    raise UserError(f"markov.prompt={prompt}: leaves nothing of markov.length={length} to a response; lower it")
  if symbols**order > 2**20:
    raise UserError(f"markov.order={order}: gives {symbols**order:,} contexts of {symbols} symbols; lower one of them")
  source = markov_source(seed, symbols=symbols, order=order, concentration=concentration)
  drawn = sample_markov(source, np.random.default_rng((seed, 1)), documents, length)
  texts = [(text[:prompt], text[prompt:]) for text in markov_text(drawn)]
  return Corpus(texts, np.zeros(documents, np.int32), source)


@validated("addition")
def addition(
  *,
  least: Annotated[int, Range(1, arithmetic.MOST_DIGITS)] = 1,
  digits: Annotated[int, Range(1, arithmetic.MOST_DIGITS)] = 4,
  records: Count = 1000,
  scratchpad: bool = False,
  seed: Size = 0,
) -> Corpus:
  """Additions of two numbers; the difficulty is how many digits both have.

  Args:
    least, digits: the fewest and the most digits; difficulty 0 are those with the fewest.
    records: how many different ones of each difficulty; fewer where there are fewer, as the 100 of one digit.
    scratchpad: whether responses add digit by digit before their answer.
    seed: of the draw.

  Raises:
    UserError: an option out of its range.
  """
  if least > digits:
    raise UserError(f"addition.least={least}: exceeds addition.digits={digits}; lower it")
  found, difficulty = [], []
  for number, size in enumerate(range(least, digits + 1)):
    rng = np.random.default_rng((seed, size))
    own = arithmetic.addition_records(rng, records, digits=size, scratchpad=scratchpad)
    found += own
    difficulty += [number] * len(own)
  return Corpus(found, np.array(difficulty, np.int32), scratchpad=scratchpad)


CORPORA: dict[str, Callable[..., Corpus]] = {"markov": markov, "addition": addition}


def is_generated(name: str) -> bool:
  """Whether this is the name of a generated corpus, with options or without."""
  return name.partition(":")[0] in CORPORA


def generated(name: str) -> Corpus:
  """Makes the corpus of a name such as `"markov"` or `"addition:digits=3,scratchpad=true"`.

  Raises:
    UserError: an unknown name or option, or a value out of its range.
  """
  kind, _, options = name.partition(":")
  if kind not in CORPORA:
    raise UserError(f"dataset={name!r}: no generated corpus{near_matches(kind, CORPORA)}")
  known, values = fields(CORPORA[kind]), {}
  for part in options.split(",") if options else ():
    key, equals, value = part.partition("=")
    if not equals:
      raise UserError(f"dataset={name!r}: {part!r} is no KEY=VALUE; write {kind}:KEY=VALUE,KEY=VALUE")
    check_known(kind, {key: value}, known)
    values[key] = checked(f"{kind}.{key}", _value(value, known[key].kind), known[key])
  return CORPORA[kind](**values)


def _value(text: str, kind: type) -> object:
  """A word of a name as what it may be; as it is where it is no such thing."""
  if kind is bool:
    return {"true": True, "false": False}.get(text.lower(), text)
  try:
    return kind(text)
  except ValueError:
    return text
