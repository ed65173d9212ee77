"""Language models of several domains: each row of tokens belongs to one, and each has held-out rows of its own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data.text import read_records, read_text
from jdistill.evaluation.perplexity import token_losses
from jdistill.language import Rows, byte_tokenizer, next_tokens, pack, pad
from jdistill.schema import NonNegative, Range, Size, near_matches, validated
from jdistill.synthetic.domains import CORPORA, domain_texts
from jdistill.tasks.task import Predict, Request, Task, numbered


class _Texts(NamedTuple):
  """Documents of tokens by domain, in which 0 or the tokenizer's end token begins and ends each."""

  documents: Mapping[str, list[np.ndarray]]
  vocabulary: int
  words: str
  whole: bool  # whether each is a row of its own


@validated("task")
def domains(
  request: Request,
  *,
  context: Annotated[int, Range(12)] = 64,
  proportions: tuple[NonNegative, ...] = (),
  teacher_size: Size = 0,
  scored: str = "",
) -> Task:
  """The next token of texts from several domains.

  Every row of tokens has documents of one domain alone, its number in `extra["domain"]` and `mask` as in the task
  `language`. Each domain has its own held-out rows for choices and test.

  The score is `nats`, the mean loss per token that counts of all held-out rows, and `nats_NAME` of every domain. Where
  a run has a teacher, `log_ratio_NAME = log(ppl_student / ppl_teacher)` of the same rows stands beside it, with
  `max_log_ratio` and `mean_log_ratio` over domains.

  Args:
    request: `dataset` is a generated corpus, `"four_domains"`, `"alike_domains"` or `"mixed_quality"`
      (`jdistill.synthetic.domains`), FILE.jsonl with texts `domain` and `text` in every line, or several texts
      FILE.txt, separated by commas and named like their files. `validation_size` and `test_size` count rows of *each*
      domain (the latter is open for as many as the former), `train_size` those of all; of files it is open for all that
      are left, of generated corpora for 2,000. `preprocessing` must be "none".
    context: tokens of a row.
    proportions: shares of the training rows by domain, in the order of the names; empty for those of the corpus. Their
      sum does not matter. Of files, the largest number of rows that has them is kept.
    teacher_size: rows for the teacher alone, in the same shares; 0 lets it see those of the students. A teacher that
      scores the students' rows should not have seen them: it knows some by heart, noise among them.
    scored: the domain whose loss is `nats`; empty for all.

  Raises:
    UserError: too little text of a domain, or an option that does not fit.
  """
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: text has no pixels; use 'none'")
  if request.validation_size < 1:
    raise UserError("validation_size=0: every domain needs held-out rows; give some")
  held = (request.validation_size, request.test_size or request.validation_size)
  rng = np.random.default_rng((request.seed, 47))
  if request.dataset in CORPORA:
    corpus = CORPORA[request.dataset]
    counts = _shared_out(request.train_size or 2000, proportions or corpus.shares, list(corpus.domains))
    own = _shared_out(teacher_size, proportions or corpus.shares, list(corpus.domains))
    found = _generated(request, np.add(counts, own).tolist(), held, context)
  else:
    found, counts, own = _read(request.dataset), None, None
  names = tuple(found.documents)
  if scored and scored not in names:
    raise UserError(f"task.scored={scored!r}: no such domain{near_matches(scored, names)}")
  parts = [_split(found, name, held, context, rng) for name in names]
  available = [len(rows[0]) for rows in parts]
  if counts is None:
    own = _of_files(available, teacher_size, proportions, names) if teacher_size else [0] * len(names)
    counts = _of_files(np.subtract(available, own).tolist(), request.train_size, proportions, names)
  _check_pool(available, counts, own, names)
  validation, test = (_together([rows[i] for rows in parts]) for i in (1, 2))
  train = _shuffled(_together([rows[0][:n] for rows, n in zip(parts, counts, strict=True)]), rng)
  lessons = train
  if teacher_size:
    places = [(n, n + more) for n, more in zip(counts, own, strict=True)]
    lessons = _shuffled(_together([rows[0][a:b] for rows, (a, b) in zip(parts, places, strict=True)]), rng)
  score = _score(names, scored)
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=lessons,
    validation=validation,
    test=test,
    num_classes=found.vocabulary,
    input_shape=(context,),
    kind="tokens",
    score=score,
    metric="nats",
    higher=False,
    notes=(
      f"rows of {context} tokens ({found.words}): "
      + ", ".join(f"{count:,} of {name}" for name, count in zip(names, counts, strict=True))
      + (f"; {len(lessons.y):,} others for the teacher" if teacher_size else "")
      + f"; of each domain choices on {held[0]:,} held-out ones, test: {held[1]:,}",
    ),
    domains=names,
    beside=lambda student, teacher: _log_ratios(names, student, teacher),
  )


class _Packed(NamedTuple):
  rows: Rows
  targets: np.ndarray
  mask: np.ndarray

  def __len__(self) -> int:
    return len(self.targets)

  def __getitem__(self, part) -> "_Packed":
    return jax.tree.map(lambda leaf: leaf[part], _Packed(Rows(*self.rows), self.targets, self.mask))


def _shared_out(total: int, shares: Sequence[float], names: Sequence[str]) -> list[int]:
  """Rows of each domain, in these shares."""
  if len(shares) != len(names) or sum(shares) <= 0:
    raise UserError(
      f"task.proportions={tuple(shares)}: give one share for each of the {len(names)} domains {', '.join(names)}"
    )
  edges = np.round(np.cumsum([0, *shares]) / sum(shares) * total).astype(int)
  return np.diff(edges).tolist()


def _generated(request: Request, counts: Sequence[int], held: tuple[int, int], context: int) -> _Texts:
  """A corpus whose tokens are its characters, behind 0 for the end of a text."""
  whole = [count + sum(held) for count in counts]
  texts = domain_texts(request.dataset, request.seed, whole, context - 2)
  characters = sorted({character for own in texts.values() for text in own for character in text})
  ids = {character: number for number, character in enumerate(characters, 1)}
  encode = lambda text: np.array([0, *(ids[one] for one in text), 0], np.int32)  # noqa: E731
  documents = {name: [encode(text) for text in own] for name, own in texts.items()}
  return _Texts(documents, len(characters) + 1, f"{len(characters)} characters", True)


def _read(dataset: str) -> _Texts:
  """The different texts of every domain, as bytes."""
  texts: dict[str, dict[str, None]] = {}
  if str(dataset).lower().endswith(".jsonl"):
    for name, text in read_records(dataset, ("domain", "text")):
      texts.setdefault(name, {})[text] = None
  else:
    for file in str(dataset).split(","):
      name = file.strip().rpartition("/")[2].rpartition(".")[0]
      if name in texts:
        raise UserError(f"dataset={dataset!r}: two files are named {name!r}; rename one")
      parts = read_text(file.strip()).split("\n\n")
      texts[name] = dict.fromkeys(part.strip("\n") for part in parts if part.strip())
  if len(texts) < 2:
    raise UserError(
      f"dataset={dataset!r}: has {len(texts)} domain; give several files FILE.txt separated by commas, FILE.jsonl with "
      f"keys 'domain' and 'text', or one of {', '.join(CORPORA)}"
    )
  if bad := [name for name in texts if not name.isprintable() or "/" in name]:
    raise UserError(f"dataset={dataset!r}: {bad[0]!r} is no name of a domain; give one without '/' and line breaks")
  words = byte_tokenizer()
  encode = lambda text: np.array([words.bos, *words.encode(text), words.eos], np.int32)  # noqa: E731
  return _Texts({name: [encode(text) for text in own] for name, own in texts.items()}, words.size, "bytes", False)


def _split(
  found: _Texts, name: str, held: tuple[int, int], context: int, rng: np.random.Generator
) -> tuple[_Packed, _Packed, _Packed]:
  """Rows of one domain for training, validation and test; no document is in two of them."""
  documents = found.documents[name]
  order = rng.permutation(len(documents))
  if found.whole:
    parts = np.split(order, np.cumsum(held))
    validation, test, rest = (_packed([documents[i] for i in np.sort(own)], context, True) for own in parts)
    return rest, validation, test
  filled = np.cumsum([len(documents[i]) for i in order]) / context
  first = int(np.searchsorted(filled, held[0])) + 1
  last = first + int(np.searchsorted(filled[first:] - filled[min(first, len(order)) - 1], held[1])) + 1
  if last >= len(order):
    raise UserError(
      f"validation_size={held[0]}: {sum(held)} rows of {context} tokens of the domain {name!r} would be held out, and "
      f"its {len(documents):,} texts fill {filled[-1]:.0f}; hold out fewer, or give more of it"
    )
  validation, test, rest = (
    _packed([documents[i] for i in np.sort(own)], context) for own in np.split(order, (first, last))
  )
  return rest, validation[: held[0]], test[: held[1]]


def _packed(documents: list[np.ndarray], context: int, whole: bool = False) -> _Packed:
  if not documents:
    nothing = np.zeros((0, context), np.int32)
    return _Packed(Rows(nothing, nothing, nothing), nothing, nothing > 0)
  packed = pad(documents, context) if whole else pack(documents, context, split=True)
  targets, mask = jax.device_get(next_tokens(packed.rows, packed.counted))
  kept = mask.any(axis=1)  # a row of one token has nothing to learn
  return _Packed(Rows(*packed.rows), targets, mask)[kept]


def _of_files(
  available: Sequence[int], total: int | None, proportions: Sequence[float], names: Sequence[str]
) -> list[int]:
  """Rows of each domain: the natural shares, or the asked ones of as many rows as these allow."""
  if not proportions:
    most = sum(available)
    return list(available) if total is None or total >= most else _shared_out(total, available, names)
  whole = _shared_out(1_000_000, proportions, names)
  most = min(int(have / share * 1_000_000) for have, share in zip(available, whole, strict=True) if share)
  return _shared_out(most if total is None else total, proportions, names)


def _check_pool(available: Sequence[int], counts: Sequence[int], own: Sequence[int], names: Sequence[str]) -> None:
  for name, have, count, more in zip(names, available, counts, own, strict=True):
    if count < 1:
      raise UserError(
        f"task.proportions: the domain {name!r} has held-out rows and no training row; raise its share, or train_size"
      )
    if count + more > have:
      raise UserError(
        f"train_size: {count + more:,} rows of the domain {name!r} are asked, and it fills {have:,}; lower it"
      )


def _together(parts: Sequence[_Packed]) -> Batch:
  x, y, mask = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  domain = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
  return numbered(x, y, mask=mask, domain=domain)


def _shuffled(data: Batch, rng: np.random.Generator) -> Batch:
  """The rows of all domains among each other: that is the order of the corpus."""
  order = rng.permutation(len(data.y))
  moved = jax.tree.map(lambda leaf: leaf[order], data)
  return moved._replace(ids=data.ids)


def _score(names: Sequence[str], scored: str):
  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    mask, domain = data.extra["mask"], data.extra["domain"]
    values = token_losses(predict, data.x, data.y, mask)
    own = [float(np.sum(values[domain == i]) / np.sum(mask[domain == i])) for i in range(len(names))]
    whole = own[names.index(scored)] if scored else float(np.sum(values) / np.sum(mask))
    return {"nats": whole} | {f"nats_{name}": one for name, one in zip(names, own, strict=True)}

  return score


def _log_ratios(names: Sequence[str], student: Mapping[str, float], teacher: Mapping[str, float]) -> dict[str, float]:
  """`log(ppl_student / ppl_teacher)` of every domain, the greatest of them and their mean."""
  own = {f"log_ratio_{name}": student[f"nats_{name}"] - teacher[f"nats_{name}"] for name in names}
  return {"max_log_ratio": max(own.values()), "mean_log_ratio": float(np.mean(list(own.values())))} | own
