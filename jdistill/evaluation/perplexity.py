"""How well a language model predicts a text, in NumPy and float64."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import special

_ROWS = 16  # whose logits are held at once: with 512 tokens and 49,152 classes they take 3.2 GB in float64


def token_losses(
  predict: Callable[[Any], np.ndarray], x: Any, targets: np.ndarray, where: np.ndarray, *, rows: int = _ROWS
) -> np.ndarray:
  """`-log softmax(z_t)[target_t]` for every token that counts, a few rows at a time.

  Args:
    predict: inputs of `m` rows `-> logits [m, T, V]`; it is always asked about the same number of rows.
    x: pytree of arrays `[n, ...]`, `n >= 1`: what `predict` takes.
    targets: `[n, T]` ids.
    where: `[n, T]` bool, which of them count.
    rows: the most that are asked about at once.

  Returns:
    `[n, T]` in nats; 0 where nothing counts. The mean over what counts is the loss per token, and its exponential the
    perplexity.

  Raises:
    ValueError: shapes that do not match, or nothing that counts.
  """
  targets, where = np.asarray(targets), np.asarray(where, bool)
  count = len(jax.tree.leaves(x)[0])
  if targets.ndim != 2 or where.shape != targets.shape or len(targets) != count:
    raise ValueError(f"token_losses: {count} rows, targets {targets.shape} and where {where.shape} do not match")
  if not where.any():
    raise ValueError("token_losses: no token counts")
  size, found = min(rows, count), np.zeros(targets.shape)
  for begin in range(0, count, size):
    places = np.minimum(np.arange(begin, begin + size), count - 1)  # one shape, and so one compiled program
    logits = predict(jax.tree.map(lambda leaf, places=places: np.asarray(leaf)[places], x))
    log_probs = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    chosen = np.take_along_axis(log_probs, targets[places][..., None], axis=-1)[..., 0]
    found[places] = -chosen
  return np.where(where, found, 0.0)


def bits_per_byte(losses: np.ndarray, targets: np.ndarray, where: np.ndarray, token_bytes: np.ndarray) -> float:
  """All nats as bits, divided by the bytes of the tokens that count: comparable between tokenisers.

  Args:
    losses: of `token_losses`.
    targets, where: as given to it.
    token_bytes: `[V]`, how many bytes of text each token stands for; 0 for special ones, whose nats count all the same.

  Raises:
    ValueError: no token that counts stands for a byte.
  """
  total = np.sum(np.asarray(token_bytes)[np.asarray(targets)][np.asarray(where, bool)])
  if not total:
    raise ValueError("bits_per_byte: no token that counts stands for a byte")
  return float(np.sum(losses) / np.log(2) / total)
