"""LAD's label channel: one code per image and class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import encode_noised_labels, fixed_codes

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, size=(2, 3, 4))
LABELS[0, 0, :2] = LABELS[1, 2, 3] = 255


def test_encoding_is_one_code_per_image_and_class():
  labels = jnp.asarray(LABELS)
  code = encode_noised_labels(jax.random.key(0), labels, 3, sigma=0.0, ignore=255)
  assert code.shape == (2, 3, 4, 1)
  values = {(b, c): np.unique(np.asarray(code)[b][LABELS[b] == c]) for b in range(2) for c in (0, 1, 2, 255)}
  assert all(len(v) == 1 for v in values.values())
  assert len({float(v[0]) for v in values.values()}) == 8
  other = encode_noised_labels(jax.random.key(1), labels, 3, sigma=0.0, ignore=255)
  assert (np.asarray(code) != np.asarray(other)).all()


def test_encoding_with_fixed_codes():
  np.testing.assert_allclose(fixed_codes(21), (np.arange(22) - 11) / 10, rtol=1e-6)
  labels = jnp.asarray(LABELS)
  codes = jnp.array([1.0, 2.0, 3.0, 4.0])
  wanted = np.where(LABELS == 255, 4, LABELS + 1)[..., None]
  encode = lambda sigma: encode_noised_labels(  # noqa: E731
    jax.random.key(0), labels, 3, sigma=sigma, scale=10.0, codes=codes, ignore=255
  )
  np.testing.assert_allclose(encode(0.0), 10 * wanted)
  noise = np.asarray(encode(0.02)) / 10 - wanted
  assert 0.01 < noise.std() < 0.03 and len(np.unique(noise)) == noise.size


def test_errors():
  key, labels = jax.random.key(0), jnp.zeros((1, 2, 2), int)
  for call, match in (
    (lambda: encode_noised_labels(key, labels + 5, 3), r"must be in \[0, 3\) or ignore=-1, got \[5\]"),
    (lambda: encode_noised_labels(key, labels, 3, codes=jnp.ones(3)), "codes must be"),
    (lambda: encode_noised_labels(key, labels, 3, sigma=-1.0), "sigma"),
    (lambda: encode_noised_labels(key, labels[0], 3), "3 axes"),
  ):
    with pytest.raises(ValueError, match=match):
      call()
