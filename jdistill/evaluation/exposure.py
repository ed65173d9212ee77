"""How much a language model remembers of secrets planted in its training text, in NumPy and float64.

A canary is a format with random slots, such as "the code is NNNN", filled at random and inserted into the training
text. A model that learned the filling gives it a lower log-perplexity than the other fillings.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special, stats

METHODS = ("rank", "interpolation", "extrapolation", "auto")
_FEWEST = 100  # fillings; with fewer, ranks say next to nothing


def log_perplexity(logits: np.ndarray, tokens: np.ndarray, slot_mask: np.ndarray) -> np.ndarray:
  """`-sum_t log softmax(logits_t)[token_t]` over the slots.

  Args:
    logits: `[B, L, V]`; position `t` is the prediction of `tokens[:, t]`.
    tokens: `[B, L]` ids.
    slot_mask: `[B, L]` bool, true at random slots; the format's fixed characters do not count.

  Returns:
    `[B]` in nats.

  Raises:
    ValueError: shapes do not match, or a row has no slot.

  References:
    Carlini et al., The Secret Sharer, arXiv 1802.08232, definition 1 (there to base 2, which changes no rank).
  """
  logits, tokens, slots = np.asarray(logits, np.float64), np.asarray(tokens), np.asarray(slot_mask, bool)
  if logits.ndim != 3 or tokens.shape != logits.shape[:2] or slots.shape != tokens.shape:
    raise ValueError(
      f"log_perplexity: logits {logits.shape} need tokens and slot_mask of {logits.shape[:2]}, got {tokens.shape} and "
      f"{slots.shape}"
    )
  if not slots.any(axis=1).all():
    raise ValueError("log_perplexity: a row of slot_mask has no slot")
  chosen = np.take_along_axis(special.log_softmax(logits, axis=-1), tokens[..., None], axis=-1)[..., 0]
  return -np.sum(np.where(slots, chosen, 0.0), axis=1)


def filling_log_perplexities(
  predict: Callable[[np.ndarray], np.ndarray],
  prefix: np.ndarray,
  symbols: np.ndarray,
  slots: int,
  *,
  length: int | None = None,
) -> np.ndarray:
  """Log-perplexities of all fillings of the slots after a prefix.

  Fillings share their beginnings, and a causal model predicts all positions at once, so `S^(slots - 1)` sequences are
  enough for `S^slots` fillings: the last slot is read off the prediction.

  Args:
    predict: `x [n, l] -> logits [n, l, V]` of a causal model; position `t` predicts token `t + 1`.
    prefix: `[p]` ids before the slots, `p >= 1`.
    symbols: `[S]` ids that may fill a slot.
    slots: how many slots follow each other.
    length: of the sequences that `predict` gets, filled up at the end, where nothing depends on it; `None` for the
      shortest. One length for several prefixes is one compiled program.

  Returns:
    `[S^slots]` in nats, in lexicographic order of the symbols' positions: filling `i` has the digits of `i` to base S.

  Raises:
    ValueError: an empty prefix, fewer than 100 fillings, or a `length` that is too short.
  """
  prefix, symbols = np.asarray(prefix), np.asarray(symbols)
  shortest = len(prefix) + slots - 1
  if not len(prefix) or (length is not None and length < shortest):
    raise ValueError(f"filling_log_perplexities: prefix of {len(prefix)} tokens, {slots} slots and length={length}")
  if slots < 1 or len(symbols) ** slots < _FEWEST:
    raise ValueError(f"filling_log_perplexities: {len(symbols)}^{slots} fillings are fewer than {_FEWEST}; add slots")
  heads = symbols[np.asarray(list(itertools.product(range(len(symbols)), repeat=slots - 1)), int)]
  x = np.full((len(heads), length or shortest), symbols[0], prefix.dtype)
  x[:, : len(prefix)], x[:, len(prefix) : shortest] = prefix, heads
  logits = np.asarray(predict(x), np.float64)[:, len(prefix) - 1 : shortest]
  log_probs = special.log_softmax(logits, axis=-1)  # [heads, slots, V]
  known = np.take_along_axis(log_probs[:, :-1], heads[..., None], axis=-1)[..., 0].sum(axis=1)
  return -(known[:, None] + log_probs[:, -1][:, symbols]).ravel()


def exposure(canary_logppl: Sequence[float], reference_logppl: Sequence[float], *, method: str = "rank") -> np.ndarray:
  """How exposed canaries are, in bits: from 0 for the least likely filling to `log2 m` for the most likely one.

      "rank":           log2 m - log2(1 + #{r < c}), where the references are *all* fillings, the canary's own, too
      "interpolation":  log2 m - log2(1 + #{r <= c}), where they are `m` other fillings; ties count against the canary
      "extrapolation":  -log2 F(c), with F the distribution function of a skew-normal fitted to them
      "auto":           extrapolation for canaries that no reference beats or equals, interpolation for the others

  A random ordering has an expected exposure of about 1.44 bits (1 / ln 2), not 0. Ranks below all references say no
  more than `log2 m`; only there extrapolation is worth its assumption.

  Args:
    canary_logppl: `[K]` log-perplexities of the fillings that were planted.
    reference_logppl: `[m]` of the fillings to compare with, in the same unit, with the same prefix.
    method: one of these.

  Returns:
    `[K]` in bits; interpolation may fall to `log2(m / (m + 1))`, just below 0.

  Raises:
    ValueError: an unknown method, not-finite values, fewer than 100 references, or, with "rank", a canary that is not
      among the references.

  References:
    Carlini et al., The Secret Sharer, arXiv 1802.08232, sections 4.2 and 4.3; the conventions about ties and the fit
    are those of tensorflow/privacy.
  """
  canaries, references = np.asarray(canary_logppl, np.float64), np.asarray(reference_logppl, np.float64)
  if method not in METHODS:
    raise ValueError(f"exposure: method={method!r} is unknown; choose one of {', '.join(METHODS)}")
  if canaries.ndim != 1 or references.ndim != 1:
    raise ValueError(f"exposure: takes [K] and [m], got {canaries.shape} and {references.shape}")
  if not np.isfinite(canaries).all() or not np.isfinite(references).all():
    raise ValueError("exposure: log-perplexities must be finite")
  if len(references) < _FEWEST:
    raise ValueError(f"exposure: {len(references)} references are fewer than {_FEWEST}; rank against more fillings")
  ordered = np.sort(references)
  below = np.searchsorted(ordered, canaries, side="left")
  upto = np.searchsorted(ordered, canaries, side="right")
  if method == "rank":
    if (upto == below).any():
      raise ValueError("exposure: method='rank' wants all fillings, a canary is not among them; use 'interpolation'")
    return np.log2(len(references)) - np.log2(1 + below)
  interpolated = np.log2(len(references)) - np.log2(1 + upto)
  if method == "interpolation" or (method == "auto" and upto.all()):
    return interpolated
  extrapolated = -stats.skewnorm.logcdf(canaries, *stats.skewnorm.fit(references)) / np.log(2)
  return extrapolated if method == "extrapolation" else np.where(upto == 0, extrapolated, interpolated)


def check_references(canaries: Sequence[str], references: Sequence[str]) -> None:
  """Refuses reference fillings among which a canary is: it would be compared with itself.

  Args:
    canaries, references: fillings, as text.

  Raises:
    ValueError: naming the canary.
  """
  shared = sorted(set(canaries) & set(references))
  if shared:
    raise ValueError(f"references: {shared[0]!r} is a canary; draw reference fillings that were never planted")
