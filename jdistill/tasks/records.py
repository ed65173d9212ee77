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
  """Training, validation and test examples.

  Held-out examples are of all difficulties alike, but a difficulty gives at most a quarter of its own to each of the
  two; where that is too few, the others give more. Training examples have the natural shares.

  Raises:
    UserError: fewer examples than are asked for.
  """
  rng = np.random.default_rng((request.seed, 47))
  domain, shuffled = data.extra["domain"], rng.permutation(len(data.ids))
  own = [shuffled[domain[shuffled] == number] for number in np.unique(domain)]
  held = [request.validation_size, request.test_size or request.validation_size]
  counts = [_alike(size, [len(one) // 4 for one in own]) for size in held]
  rest = len(shuffled) - sum(held)
  train = rest if request.train_size is None else request.train_size
  if not request.validation_size or None in counts or not 0 < train <= rest:
    raise UserError(
      f"validation_size={request.validation_size}: {sum(held)} examples held out and {train} for training are not all "
      f"there among {len(shuffled)}, of which a half may be held out; change the sizes, or generate more in "
      f"dataset={str(request.dataset)!r}"
    )
  parts = [np.split(one, np.cumsum(each)) for one, each in zip(own, zip(*counts, strict=True), strict=True)]
  validation, test, left = (np.concatenate(leaves) for leaves in zip(*parts, strict=True))
  chosen = shuffled[np.isin(shuffled, left)][:train]
  return tuple(_renumbered(take(data, np.sort(one))) for one in (chosen, validation, test))


def _alike(total: int, most: list[int]) -> list[int] | None:
  """`total` as the sum of numbers that are as equal as their bounds allow; `None` where these do not."""
  found = [0] * len(most)
  for rank, place in enumerate(np.argsort(most, kind="stable")):
    found[place] = min(most[place], (total - sum(found)) // (len(most) - rank))
  return found if sum(found) == total else None


def _renumbered(data: Batch) -> Batch:
  return data._replace(ids=np.arange(len(data.ids), dtype=np.int32))
