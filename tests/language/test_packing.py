"""Documents in rows: each once and whole, unseen by the others, with targets inside it."""

import jax
import numpy as np
import pytest

from jdistill import language, models
from jdistill.base import UserError

RNG = np.random.default_rng(3)
LENGTHS = (5, 3, 8, 2, 1, 7, 4)
DOCUMENTS = [RNG.integers(1, 11, length) for length in LENGTHS]


def test_every_document_is_in_one_row_and_rows_are_few():
  packed = language.pack(DOCUMENTS, 8)
  assert packed.rows.tokens.shape == (4, 8)  # 30 tokens
  for i, document in enumerate(DOCUMENTS):
    rows, columns = np.nonzero(packed.documents == i)
    assert len(set(rows)) == 1 and np.all(np.diff(columns) == 1)
    np.testing.assert_array_equal(packed.rows.tokens[rows, columns], document)
    np.testing.assert_array_equal(packed.rows.positions[rows, columns], np.arange(len(document)))
    assert len(set(packed.rows.segments[rows, columns])) == 1 and np.all(packed.rows.segments[rows, columns] > 0)
  np.testing.assert_array_equal(packed.rows.segments == 0, packed.documents == -1)
  np.testing.assert_array_equal(packed.counted, packed.documents >= 0)
  for row in packed.rows.segments:
    assert len({int(n) for n in row if n}) == row.max()


def test_the_fullest_row_with_room_is_taken():
  """7 and 1, 5 and 3, 4 and 2; the 8 alone: one row more would be needed if the 2 had gone to the 5."""
  found = language.pack([np.ones(n, np.int32) for n in LENGTHS], 8).documents
  members = {tuple(sorted(LENGTHS[i] for i in set(row.tolist()) - {-1})) for row in found}
  assert members == {(8,), (1, 7), (3, 5), (2, 4)}


def test_long_documents_are_split_where_that_is_asked_for():
  document = np.arange(1, 11)
  packed = language.pack([document, [3]], 4, split=True)
  assert packed.rows.tokens.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 3, 0]]
  assert packed.documents.tolist() == [[0] * 4, [0] * 4, [0, 0, 1, -1]]
  assert packed.rows.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 0]]


def test_packed_documents_are_predicted_like_separate_ones():
  model = models.language_model(models.DecoderConfig(11, width=16, kv_heads=2, context=8))
  params, apply = model.init(jax.random.key(0)).params, jax.jit(model.apply)
  packed, apart = language.pack(DOCUMENTS, 8), language.pad(DOCUMENTS)
  together, alone = (np.asarray(apply(params, each.rows).logits) for each in (packed, apart))
  assert apart.rows.tokens.shape == (7, 8)
  for i in range(len(DOCUMENTS)):
    np.testing.assert_allclose(together[packed.documents == i], alone[apart.documents == i], atol=1e-5)
    np.testing.assert_array_equal(np.nonzero(apart.documents == i)[0], np.full(LENGTHS[i], i))


def test_prompts_and_responses():
  documents, counted = language.join([[5, 6], [7]], [[8], [9, 2]], end_token=2)
  assert [document.tolist() for document in documents] == [[5, 6, 8, 2], [7, 9, 2]]
  assert [mask.tolist() for mask in counted] == [[False, False, True, True], [False, True, True]]
  packed = language.pack(documents, 8, counted=counted)
  assert packed.rows.tokens.tolist() == [[5, 6, 8, 2, 7, 9, 2, 0]]
  targets, mask = jax.jit(language.next_tokens)(packed.rows, packed.counted)
  assert targets.tolist() == [[6, 8, 2, 7, 9, 2, 0, 5]]
  assert mask.tolist() == [[False, True, True, False, True, True, False, False]]
  _, everything = language.next_tokens(packed.rows)
  assert everything.tolist() == [[True, True, True, False, True, True, False, False]]
  assert [m.tolist() for m in language.join([[1]], [[3, 4]])[1]] == [[False, True, True]]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: language.pack(DOCUMENTS, 7), "documents: number 2 has 8 tokens, more than a row of 7; cut or split it"),
    (lambda: language.pad(DOCUMENTS, 4), "documents: number 0 has 5 tokens, more than a row of 4"),
    (lambda: language.pack([[1], []], 7), "documents: number 1 is no list of whole numbers, or empty"),
    (lambda: language.pack([[1.5]], 7), "documents: number 0 is no list of whole numbers, or empty"),
    (lambda: language.pack([[1]], 0), "length=0: rows must have at least 1 token"),
    (lambda: language.pack([[1]], 4, counted=[]), "counted: 0 masks for 1 documents; give one each"),
    (lambda: language.pack([[1]], 4, counted=[[True, True]]), r"counted: mask 0 has shape \(2,\) for a document of 1"),
    (lambda: language.pad([[1]], 4, counted=[[False]]), "counted: no token of 1 documents is to be learned; the mask"),
    (lambda: language.join([[1]], []), "responses: 0 for 1 prompts; give one each"),
    (lambda: language.join([[1], []], [[1], [2]]), "prompts: number 1 is empty; give at least one token, or leave"),
    (lambda: language.join([[1]], [[]]), "responses: number 0 is empty"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
