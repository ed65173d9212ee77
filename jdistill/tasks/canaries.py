"""Text in which secrets are planted: what students learn of the text, and what they learn of the secrets."""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
from scipy import special

from jdistill.base import Batch, UserError
from jdistill.data.text import read_text
from jdistill.evaluation.exposure import exposure, filling_log_perplexities
from jdistill.schema import Count, Range, Size, validated
from jdistill.tasks.task import Predict, Request, Task, numbered

_NAMES = (
  "alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima", "mike",
  "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whiskey", "xray", "yankee",
  "zulu",
)  # fmt: skip
_DIGITS = "0123456789"
_BLOCK = 8  # sequences that are held out together, so that training text has few seams


class Canary(NamedTuple):
  """One planted line, `prefix + filling`; the prefix begins with the end of the line before."""

  prefix: str
  filling: str


@validated("task")
def canaries(
  request: Request,
  *,
  length: Count = 64,
  planted: Annotated[int, Range(1, 26)] = 10,
  insertions: Size = 20,
  digits: Annotated[int, Range(2, 6)] = 4,
  pattern: str = "[0-9]{4,}",
) -> Task:
  """A character-level language model of a text with planted lines "the code of NAME is NNNN".

  Held-out passages of `8 length` characters are drawn first; each canary is then inserted `insertions` times at ends of
  lines of what is left. Teachers and students see the same training text, canaries included: the worst case. Every
  example has `private` `[length]`, 1 where the detector finds the *predicted* character private, and `mask`, false at
  padding.

  The score is `nats`, the mean log-perplexity per held-out character, and over the canaries `exposure`, their mean
  exposure in bits among all `10^digits` fillings after the canary's prefix, and `extracted`, the share of canaries that
  are the likeliest filling of all. A student that knows nothing has an exposure of about 1.44 bits.

  Args:
    request: `dataset` is `"descriptions"` or FILE.txt, and sizes count sequences: `train_size` of the text before
      insertion, `test_size` is `validation_size` where it is open. `preprocessing` must be "none".
    length: characters of a sequence.
    planted: number of canaries, at most 26.
    insertions: of each canary.
    digits: slots of a canary, 2 to 6.
    pattern: regular expression of what is private. The default finds codes, and other numbers of four digits as well.

  Raises:
    UserError: the text is too short for these sizes, or an option is out of range.
  """
  _check(request, pattern)
  rng = np.random.default_rng((request.seed, 31))
  text = read_text(request.dataset)
  train, validation, test = _divide(text, request, length, rng)
  secrets = _draw(text, planted, digits, rng)
  train = _plant(train, secrets, insertions, rng)
  everything = train + "".join(validation + test)
  vocabulary = {char: index for index, char in enumerate(sorted({*everything, *_DIGITS}))}
  data = _sequences([train], vocabulary, length, pattern)
  marked = np.mean(data.extra["private"][data.extra["mask"]])
  held_out = [_sequences(parts, vocabulary, length, pattern) for parts in (validation, test)]

  def score(predict: Predict, data: Batch) -> Mapping[str, float]:
    return {"nats": nats(predict, data)} | _exposures(predict, secrets, vocabulary)

  return Task(
    data=data,
    members=lambda seed: np.arange(len(data.y)),
    teacher=data,
    validation=held_out[0],
    test=held_out[1],
    num_classes=len(vocabulary),
    input_shape=(length,),
    kind="tokens",
    score=score,
    metric="nats",
    higher=False,
    notes=(
      f"{len(data.y)} training sequences of {length} characters for teacher and students; choices on "
      f"{len(held_out[0].y)} held-out ones; test: {len(held_out[1].y)}; {len(vocabulary)} different characters",
      f"{planted} canaries with {insertions} insertions each among 10^{digits} fillings "
      f"({digits * np.log2(10):.2f} bits at most); held-out text has none",
      f"the detector {pattern!r} marks {marked:.2%} of the training characters as private",
    ),
  )


def nats(predict: Predict, data: Batch) -> float:
  """Mean log-perplexity per character that counts, in nats."""
  log_probs = special.log_softmax(np.asarray(predict(data.x), np.float64), axis=-1)
  chosen = np.take_along_axis(log_probs, data.y[..., None], axis=-1)[..., 0]
  return float(-np.mean(chosen[data.extra["mask"]]))


def _exposures(predict: Predict, secrets: list[Canary], vocabulary: Mapping[str, int]) -> dict[str, float]:
  symbols = np.array([vocabulary[digit] for digit in _DIGITS])
  longest = max(len(secret.prefix) + len(secret.filling) - 1 for secret in secrets)
  bits, first = [], []
  for secret in secrets:
    prefix = np.array([vocabulary[char] for char in secret.prefix], np.int32)
    found = filling_log_perplexities(predict, prefix, symbols, len(secret.filling), length=longest)
    own = int(secret.filling)
    bits.append(exposure(found[own : own + 1], found)[0])
    first.append(found[own] == found.min())
  return {"exposure": float(np.mean(bits)), "extracted": float(np.mean(first))}


def _check(request: Request, pattern: str) -> None:
  if request.preprocessing != "none":
    raise UserError(f"preprocessing={request.preprocessing!r}: text has no pixels; use 'none'")
  try:
    re.compile(pattern)
  except re.error as error:
    raise UserError(f"task.pattern={pattern!r}: is no regular expression ({error})") from error


def _divide(text: str, request: Request, length: int, rng: np.random.Generator) -> tuple[str, list[str], list[str]]:
  """Training text, and passages for validation and test."""
  size = _BLOCK * length + 1  # the last character of a block is only a target
  blocks = [text[i : i + size] for i in range(0, len(text) - size + 1, size)]
  held = [-(-count // _BLOCK) for count in (request.validation_size, request.test_size or request.validation_size)]
  if sum(held) >= len(blocks):
    raise UserError(
      f"validation_size={request.validation_size}: the text has {len(blocks) * _BLOCK} sequences of {length} "
      f"characters and {sum(held) * _BLOCK} would be held out; hold out fewer, or give a longer text"
    )
  order = rng.permutation(len(blocks))
  parts = np.split(order, np.cumsum(held))
  rest = np.sort(parts[2])
  if request.train_size is not None:
    rest = rest[: -(-request.train_size // _BLOCK)]
  return "".join(blocks[i] for i in rest), *([blocks[i] for i in np.sort(part)] for part in parts[:2])


def _draw(text: str, planted: int, digits: int, rng: np.random.Generator) -> list[Canary]:
  """Canaries with fillings that differ."""
  fillings = rng.choice(10**digits, planted, replace=False)
  secrets = [Canary(f"\nthe code of {name} is ", f"{n:0{digits}d}") for name, n in zip(_NAMES, fillings, strict=False)]
  for secret in secrets:
    if secret.prefix in text:
      raise UserError(f"dataset: its text says {secret.prefix.strip()!r} before anything is planted; give another text")
  return secrets


def _plant(text: str, secrets: list[Canary], insertions: int, rng: np.random.Generator) -> str:
  """The text with all canaries at random ends of lines, in random order."""
  lines = text.split("\n")
  planted = [secret.prefix[1:] + secret.filling for secret in secrets for _ in range(insertions)]
  places = rng.integers(1, len(lines) + 1, len(planted))
  for place, line in sorted(zip(places, rng.permutation(planted), strict=True), key=lambda pair: -pair[0]):
    lines.insert(place, str(line))
  return "\n".join(lines)


def _sequences(parts: list[str], vocabulary: Mapping[str, int], length: int, pattern: str) -> Batch:
  """Sequences of `length` characters and their successors; the detector reads each part as a whole."""
  rows = {"x": [], "y": [], "private": [], "mask": []}
  for part in parts:
    ids = np.array([vocabulary[char] for char in part], np.int32)
    marks = np.zeros(len(part), np.float32)
    for found in re.finditer(pattern, part):
      marks[found.start() : found.end()] = 1
    count = len(part) - 1
    padded = -(-count // length) * length
    columns = {"x": ids[:-1], "y": ids[1:], "private": marks[1:], "mask": np.ones(count, bool)}
    for name, values in columns.items():
      rows[name].append(np.pad(values, (0, padded - count)).reshape(-1, length))
  x, y, private, mask = (np.concatenate(values) for values in rows.values())
  return numbered(x, y, private=private, mask=mask)
