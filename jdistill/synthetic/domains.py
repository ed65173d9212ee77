"""Corpora of several domains that are generated: domains of different difficulty, alike domains, mixed quality."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdistill.synthetic.arithmetic import addition_records
from jdistill.synthetic.dyck import dyck_words
from jdistill.synthetic.markov import markov_source, markov_text, sample_markov

_MOTIFS = ("the same line again. ", "click here to win! ", "all rights reserved. ", "lorem ipsum dolor. ")
_NOISE = "abcdefghijklmnopqrstuvwxyz0123456789()[]+=;. "


class Corpus(NamedTuple):
  """How a corpus is generated.

  Attributes:
    domains: by name `(rng, source seed, count, length) -> count texts` of at most `length` characters.
    shares: of the training rows, by domain.
  """

  domains: Mapping[str, Callable[[np.random.Generator, int, int, int], list[str]]]
  shares: Sequence[float]


def _markov(order: int, symbols: int, concentration: float):
  def texts(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
    source = markov_source(seed, symbols=symbols, order=order, concentration=concentration)
    return markov_text(sample_markov(source, rng, count, length))

  return texts


def _dyck(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
  del seed
  return dyck_words(rng, count, length - length % 2)


def _addition(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
  """Problems one behind the other, `12+39=51;`; none comes twice before all have come."""
  del seed
  each = max(1, length // 10)  # characters of the longest problem
  problems = ["".join(pair) + ";" for pair in addition_records(rng, count * each, digits=2)]
  return ["".join(problems[(i * each + j) % len(problems)] for j in range(each)) for i in range(count)]


def _structured(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
  """Dyck words and additions in turn."""
  first = _dyck(rng, seed, -(-count // 2), length)
  second = _addition(rng, seed, count // 2, length)
  return [(first, second)[i % 2][i // 2] for i in range(count)]


def _repeats(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
  """One of four lines, over and over."""
  del seed
  return [(_MOTIFS[i] * (length // len(_MOTIFS[i]) + 1))[:length] for i in rng.integers(len(_MOTIFS), size=count)]


def _noise(rng: np.random.Generator, seed: int, count: int, length: int) -> list[str]:
  """Characters drawn uniformly and independently."""
  del seed
  return ["".join(_NOISE[i] for i in row) for row in rng.integers(len(_NOISE), size=(count, length))]


CORPORA: dict[str, Corpus] = {
  "four_domains": Corpus(
    {"markov1": _markov(1, 8, 0.3), "markov3": _markov(3, 6, 0.1), "dyck": _dyck, "addition": _addition},
    (0.25, 0.25, 0.25, 0.25),
  ),
  "alike_domains": Corpus({f"copy{i}": _markov(1, 8, 0.3) for i in range(4)}, (0.25, 0.25, 0.25, 0.25)),
  "mixed_quality": Corpus({"repeats": _repeats, "structured": _structured, "noise": _noise}, (0.4, 0.4, 0.2)),
}


def domain_texts(name: str, seed: int, counts: Sequence[int], length: int) -> dict[str, list[str]]:
  """The texts of all domains of a corpus.

  `"four_domains"`: an order-1 and an order-3 Markov source, Dyck-2 and additions of two digits. `"alike_domains"`: the
  same order-1 source four times. `"mixed_quality"`: trivial repeats, what has a structure (Dyck-2 and additions), and
  uniform noise.

  Args:
    name: one of `CORPORA`.
    seed: of the draw; sources are those of this seed, too.
    counts: how many texts of each domain.
    length: characters of a text, at most; at least 10.

  Raises:
    ValueError: an unknown name, other numbers of counts, or texts that are too short.
  """
  if name not in CORPORA:
    raise ValueError(f"domain_texts: name={name!r} is not one of {', '.join(CORPORA)}")
  domains = CORPORA[name].domains
  if len(counts) != len(domains) or length < 10:
    raise ValueError(f"domain_texts: {len(counts)} counts for {len(domains)} domains, length={length} of at least 10")
  rng = np.random.default_rng((seed, 43))
  return {domain: make(rng, seed, count, length) for (domain, make), count in zip(domains.items(), counts, strict=True)}
