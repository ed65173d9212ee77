"""What the data of a teacher is like and what a student makes of it: profiles, comparisons and grids of prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from jdistill.selection.responses import Response, repetition_ratio

_QUANTILES = (0.1, 0.5, 0.9)


def mean_token_entropy(logits: np.ndarray, mask: np.ndarray) -> float:
  """The mean entropy of the next token over the tokens that count, in nats.

  Args:
    logits: `[B, T, V]` of the teacher itself; for a black box of one fixed scorer for all sources: say which.
    mask: `[B, T]` bool.

  Raises:
    ValueError: no token counts, or shapes that do not match.
  """
  mask = np.asarray(mask, bool)
  if np.shape(logits)[:-1] != mask.shape or not mask.any():
    raise ValueError(f"mean_token_entropy: logits {np.shape(logits)} and mask {mask.shape} with {mask.sum()} tokens")
  log_probs = special.log_softmax(np.asarray(logits, np.float64)[mask], axis=-1)
  return float(np.mean(special.entr(np.exp(log_probs)).sum(axis=-1)))


def representation_shift(before: np.ndarray, after: np.ndarray, k: int = 2) -> float:
  """How far the mean hidden state of a student moves in training, in the plane of the first `k` principal components.

  Args:
    before, after: `[n, D]`, states of the same inputs.
    k: components, of both sets together.

  Returns:
    The distance of the two means after projection, in units of the root mean square distance from their common mean.

  Raises:
    ValueError: shapes that differ, or `k` out of range.
  """
  before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
  if before.shape != after.shape or before.ndim != 2 or not 1 <= k <= min(2 * len(before), before.shape[1]):
    raise ValueError(f"representation_shift: {before.shape} and {after.shape} with k={k} do not fit")
  both = np.concatenate([before, after])
  centred = both - both.mean(axis=0)
  axes = np.linalg.svd(centred, full_matrices=False)[2][:k]
  projected = centred @ axes.T
  spread = np.sqrt(np.mean(np.sum(projected**2, axis=1)))
  gap = np.linalg.norm(projected[: len(before)].mean(axis=0) - projected[len(before) :].mean(axis=0))
  return float(gap / spread) if spread > 0 else 0.0


def source_profile(
  records: Sequence[Response], *, nll: np.ndarray | None = None, ngram: int = 4, categories: Sequence[str] | None = None
) -> dict[str, Any]:
  """What responses of one source are like.

  Args:
    records: of the source.
    nll: `[n]` summed nats of every response under one scorer, the same for all sources.
    ngram: of the repetition.
    categories: of every record, for their shares.

  Returns:
    `records`, `questions`, `tokens`, `length` (mean), `length_quantiles` (10%, 50%, 90%), `length_std`, `repetition`,
    `verified` (the mean score where all have one), `perplexity` (per token, with `nll`), and `shares`.

  Raises:
    ValueError: no records, no tokens, or lists of other lengths.
  """
  sizes = np.array([len(record.response) for record in records], np.float64)
  if not len(sizes) or not sizes.sum():
    raise ValueError(f"source_profile: {len(sizes)} records without a token")
  for name, values in (("nll", nll), ("categories", categories)):
    if values is not None and len(values) != len(records):
      raise ValueError(f"source_profile: {len(values)} {name} for {len(records)} records")
  out: dict[str, Any] = {
    "records": len(records),
    "questions": len({record.question for record in records}),
    "tokens": int(sizes.sum()),
    "length": float(sizes.mean()),
    "length_std": float(sizes.std()),
    "length_quantiles": [float(q) for q in np.quantile(sizes, _QUANTILES)],
    "repetition": float(np.mean([repetition_ratio(record.response, ngram) for record in records])),
  }
  if all(record.score is not None for record in records):
    out["verified"] = float(np.mean([record.score for record in records]))
  if nll is not None:
    out["perplexity"] = float(np.exp(np.sum(np.asarray(nll, np.float64)) / sizes.sum()))
  if categories is not None:
    names, counts = np.unique(list(categories), return_counts=True)
    out["shares"] = {str(name): float(count / len(records)) for name, count in zip(names, counts, strict=True)}
  return out


class Comparison(NamedTuple):
  """Students of several sources, with paired seeds.

  Attributes:
    scores: one per seed, by source.
    best: the source with the greatest mean.
    tied: sources whose paired difference from the best has an interval of 95% that holds 0, the best among them.
    text: one sentence.
  """

  scores: dict[str, list[float]]
  best: str
  tied: tuple[str, ...]
  text: str


def compare_sources(
  train: Callable[[int, Sequence[Response]], Any],
  evaluate: Callable[[Any], float],
  sources: Mapping[str, Sequence[Response]],
  seeds: Sequence[int],
) -> Comparison:
  """Trains the same student on the data of every source, alike, and names the best: also the smoke test of DED.

  A source is judged by its student and not by its teacher.

  Args:
    train: `(seed, records) -> student`, from the same start for the same seed.
    evaluate: `(student) -> score`, higher is better.
    sources: records by name.
    seeds: at least two, for a spread.

  Raises:
    ValueError: fewer than two sources or seeds, or a score that is not finite.

  References:
    arXiv 2505.14464 (comparison), arXiv 2508.09883 (smoke test).
  """
  if len(sources) < 2 or len(seeds) < 2:
    raise ValueError(f"compare_sources: {len(sources)} sources and {len(seeds)} seeds; give at least 2 of each")
  scores = {name: [float(evaluate(train(seed, records))) for seed in seeds] for name, records in sources.items()}
  return compared(scores)


def compared(scores: Mapping[str, Sequence[float]]) -> Comparison:
  """The comparison that paired scores amount to; see `compare_sources`.

  Raises:
    ValueError: a score that is not finite.
  """
  values = {name: np.asarray(own, np.float64) for name, own in scores.items()}
  wrong = [name for name, own in values.items() if not np.isfinite(own).all()]
  if wrong:
    raise ValueError(f"compare_sources: {wrong[0]} has a score that is not finite")
  best = max(values, key=lambda name: values[name].mean())
  tied = tuple(name for name, own in values.items() if name == best or _holds_zero(values[best] - own))
  mean = f"{values[best].mean():.4g}"
  if len(tied) == len(values):
    text = f"all sources tie within the spread of seeds; {best} has the greatest mean, {mean}"
  elif len(tied) > 1:
    text = f"{best} has the greatest mean, {mean}, and ties with {', '.join(n for n in tied if n != best)}"
  else:
    text = f"{best} is the best source: {mean}"
  return Comparison({name: list(map(float, own)) for name, own in values.items()}, best, tied, text)


def _holds_zero(gaps: np.ndarray) -> bool:
  error = gaps.std(ddof=1) / np.sqrt(len(gaps))
  return bool(gaps.mean() <= stats.t.ppf(0.975, len(gaps) - 1) * error)


class Graded(NamedTuple):
  """Answers of one model to one kind of prompt.

  Attributes:
    accuracy: share of right answers, of all.
    unread: share of responses of which no answer could be taken.
    tokens: mean tokens of a response: what inference costs.
  """

  accuracy: float
  unread: float
  tokens: float


def evaluation_grid(
  models: Mapping[str, Callable[[Sequence], Sequence]],
  prompts: Mapping[str, Sequence[Sequence]],
  answers: Sequence[Any],
  extract: Callable[[Sequence], Any],
) -> dict[tuple[str, str], Graded]:
  """Every model with every kind of prompt, such as student and teacher with a direct and an elaborate one.

  Args:
    models: `(prompt) -> response` by name.
    prompts: one for each answer, by kind.
    answers: what is right.
    extract: `(response) -> answer`, `None` where there is none; it must take an answer out of a verbose response.

  Raises:
    ValueError: as many prompts as answers are not given, or none at all.

  References:
    arXiv 2410.18588.
  """
  out = {}
  for kind, own in prompts.items():
    if len(own) != len(answers) or not len(answers):
      raise ValueError(f"evaluation_grid: {len(own)} prompts of kind {kind} and {len(answers)} answers; give one each")
    for name, model in models.items():
      responses = [model(prompt) for prompt in own]
      found = [extract(response) for response in responses]
      right = [one is not None and one == answer for one, answer in zip(found, answers, strict=True)]
      unread = [one is None for one in found]
      out[name, kind] = Graded(*(float(np.mean(v)) for v in (right, unread, [len(one) for one in responses])))
  return out
