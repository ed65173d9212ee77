"""Generated records as padded rows of tokens, one record each, divided by difficulty."""

import jax
import numpy as np

from jdistill.base import Batch, UserError
from jdistill.language import Tokenizer, join, next_tokens, pad
from jdistill.synthetic import Corpus, generated, is_generated
from jdistill.tasks.task import Request, numbered, take


def corpus_of(request: Request, kind: str) -> Corpus:
  """The corpus of this kind that a request names.

  Raises:
    UserError: it names another data set, or asks for preprocessing.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: text has no pixels; use 'none'")
  if not is_generated(str(request.dataset)) or str(request.dataset).partition(":")[0] != kind:
    raise UserError(f"dataset={request.dataset!r}: this task knows the truth about {kind!r} alone; use that")
  return generated(str(request.dataset))


def rows_of(corpus: Corpus, words: Tokenizer, context: int | None) -> Batch:
  """All records as examples: `mask` says which targets are of a response, `domain` the difficulty of each.

  Raises:
    UserError: a record that is longer than `context`, which is open for the longest one.
  """
  encoded = zip(*([words.encode(text) for text in record] for record in corpus.records), strict=True)
  documents, counted = join(*encoded, end_token=words.eos)
  longest = max(map(len, documents))
  if context is not None and longest > context:
    raise UserError(f"task.context={context}: the longest record has {longest} tokens; raise it, or leave it open")
  padded = pad(documents, context or longest, counted=counted)
  targets, mask = jax.device_get(next_tokens(padded.rows, padded.counted))
  return numbered(padded.rows, targets, mask=mask, domain=corpus.difficulty)


def divide(data: Batch, request: Request) -> tuple[Batch, Batch, Batch]:
  """Training, validation and test examples, in which every difficulty has its natural share.

  Raises:
    UserError: fewer examples than are asked for.
  """
  rng = np.random.default_rng((request.seed, 47))
  domain, shuffled = data.extra["domain"], rng.permutation(len(data.ids))
  # the places of a difficulty are spread evenly, so that every stretch has all of them in their shares
  place = np.empty(len(shuffled))
  for number in np.unique(domain):
    own = shuffled[domain[shuffled] == number]
    place[own] = (np.arange(len(own)) + 0.5) / len(own)
  order = np.argsort(place, kind="stable")
  held = [request.validation_size, request.test_size or request.validation_size]
  train = len(order) - sum(held) if request.train_size is None else request.train_size
  if not request.validation_size or train < 1 or train + sum(held) > len(order):
    raise UserError(
      f"validation_size={request.validation_size}: {sum(held)} examples held out and {train} for training are not all "
      f"there among {len(order)}; change the sizes, or generate more in dataset={str(request.dataset)!r}"
    )
  validation, test, rest = np.split(order[: sum(held) + train], np.cumsum(held))
  return tuple(_renumbered(take(data, np.sort(own))) for own in (rest, validation, test))


def _renumbered(data: Batch) -> Batch:
  return data._replace(ids=np.arange(len(data.ids), dtype=np.int32))
