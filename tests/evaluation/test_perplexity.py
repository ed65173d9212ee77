"""The loss per token and bits per byte, against sums by hand."""

import numpy as np
import pytest

from jdistill.evaluation.perplexity import bits_per_byte, token_losses

RNG = np.random.default_rng(0)
LOGITS, TARGETS, WHERE = RNG.normal(size=(5, 3, 4)), RNG.integers(0, 4, (5, 3)), RNG.random((5, 3)) < 0.7


def predict(x):
  assert len(x["row"]) == predict.rows  # always the same shape
  return LOGITS[x["row"]].astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_every_token_has_its_loss_however_many_rows_are_asked_about(rows):
  predict.rows = min(rows, 5)
  found = token_losses(predict, {"row": np.arange(5)}, TARGETS, WHERE, rows=rows)
  for place in np.ndindex(5, 3):
    odds = np.exp(LOGITS[place])
    want = -np.log(odds[TARGETS[place]] / odds.sum()) if WHERE[place] else 0.0
    assert found[place] == pytest.approx(want, abs=1e-6)


def test_bits_per_byte_leaves_bytes_of_special_tokens_out_and_their_nats_in():
  losses = np.array([[1.0, 2.0, 0.0]])
  targets, where, sizes = np.array([[0, 3, 1]]), np.array([[True, True, False]]), np.array([1, 1, 2, 0])
  assert bits_per_byte(losses, targets, where, sizes) == pytest.approx(3 / np.log(2))
  assert bits_per_byte(losses, np.array([[2, 3, 1]]), where, sizes) == pytest.approx(3 / np.log(2) / 2)
  with pytest.raises(ValueError, match="no token that counts stands for a byte"):
    bits_per_byte(losses, np.array([[3, 3, 1]]), where, sizes)


def test_shapes_that_do_not_match():
  predict.rows = 5
  with pytest.raises(ValueError, match=r"token_losses: 5 rows, targets \(4, 3\)"):
    token_losses(predict, {"row": np.arange(5)}, TARGETS[:4], WHERE[:4])
  with pytest.raises(ValueError, match="token_losses: no token counts"):
    token_losses(predict, {"row": np.arange(5)}, TARGETS, np.zeros_like(WHERE))
