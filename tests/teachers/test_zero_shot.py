"""Zero-shot logits of given embeddings."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.teachers.zero_shot import class_embeddings, zero_shot_logits


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_logits_are_scaled_cosines_with_the_mean_prompt():
  rng = np.random.default_rng(0)
  prompts, images = rng.normal(size=(3, 4, 5)) * [[[1.0], [5.0], [1.0], [1.0]]], unit(rng.normal(size=(6, 5)))
  classes = class_embeddings(np.float32(prompts))
  np.testing.assert_allclose(classes, unit(prompts.mean(1)), rtol=1e-5)
  assert np.abs(np.asarray(classes) - unit(unit(prompts).mean(1))).max() > 0.01  # means come first
  np.testing.assert_allclose(
    zero_shot_logits(np.float32(images), classes), 100 * images @ unit(prompts.mean(1)).T, 1e-4
  )


def test_what_is_refused():
  one = unit(np.ones((2, 3)))
  with pytest.raises(UserError, match=r"images: embeddings must have length 1, found 1\.732; divide"):
    zero_shot_logits(np.ones((2, 3)), one)
  with pytest.raises(UserError, match=r"classes: embeddings must have length 1, found 2"):
    zero_shot_logits(one, 2 * one)
  with pytest.raises(UserError, match=r"give one width for both"):
    zero_shot_logits(one, one[:, :2])
  with pytest.raises(UserError, match=r"prompts: shape \(2, 3\)"):
    class_embeddings(one)
  with pytest.raises(UserError, match="points nowhere"):
    class_embeddings(np.stack([one, -one], axis=1))
