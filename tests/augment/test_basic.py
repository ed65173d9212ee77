"""Flip-and-crop, the identity, and composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment, base


def test_identity_has_an_empty_record():
  aug = augment.identity()
  x = jnp.ones((2, 3, 3, 1))
  record = aug.sample(jax.random.key(0), x.shape)
  assert jax.tree.leaves(record) == []
  assert aug.apply(record, x) is x


@pytest.mark.parametrize("shape", [(16, 8, 8, 1), (16, 6, 5, 3)])
def test_flip_crop_is_a_window_of_the_padded_mirrored_image(shape):
  aug = augment.flip_crop(pad=2)
  x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  record = aug.sample(jax.random.key(1), shape)
  y = jax.jit(aug.apply)(record, jnp.array(x))
  for b in range(shape[0]):
    image = x[b, :, ::-1] if record.flip[b] else x[b]
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    top, left = int(record.shift[b, 0]) + 2, int(record.shift[b, 1]) + 2
    np.testing.assert_array_equal(y[b], padded[top : top + shape[1], left : left + shape[2]])


def test_flip_crop_draws_every_place_alike():
  n = 5000
  record = augment.flip_crop(pad=1).sample(jax.random.key(2), (n, 4, 4, 1))
  assert abs(float(record.flip.mean()) - 0.5) < 5 * 0.5 / np.sqrt(n)
  places, counts = np.unique(np.asarray(record.shift), axis=0, return_counts=True)
  assert len(places) == 9 and places.min() == -1 and places.max() == 1
  assert ((counts - n / 9) ** 2 / (n / 9)).sum() < 31.8  # chi square, 8 degrees of freedom, p = 1e-4


def test_flip_crop_without_padding_only_flips():
  aug, x = augment.flip_crop(pad=0), jax.random.normal(jax.random.key(3), (4, 3, 5, 1))
  record = aug.sample(jax.random.key(4), x.shape)._replace(flip=jnp.array([True, False, True, False]))
  y = jax.jit(aug.apply)(record, x)
  np.testing.assert_array_equal(y[::2], x[::2, :, ::-1])
  np.testing.assert_array_equal(y[1::2], x[1::2])


def test_compose_applies_the_first_first_with_independent_draws():
  add = base.Augmentation(lambda key, shape: jax.random.normal(key, ()), lambda record, x: x + record)
  double = base.Augmentation(lambda key, shape: (), lambda record, x: 2 * x)
  aug = augment.compose(add, double, add)
  record = aug.sample(jax.random.key(0), (1, 1, 1, 1))
  assert float(record[0]) != float(record[2])
  np.testing.assert_allclose(aug.apply(record, jnp.float32(3)), 2 * (3 + record[0]) + record[2], rtol=1e-6)


def test_compose_of_real_parts_scans_over_vmapped_records():
  shape = (2, 4, 4, 1)
  aug = augment.compose(augment.dsa("flip", siamese=True), augment.dsa("color_crop", siamese=True), augment.identity())
  records = jax.vmap(lambda k: aug.sample(k, shape))(jax.random.split(jax.random.key(1), 3))
  x = jax.random.normal(jax.random.key(2), shape)
  _, scanned = jax.lax.scan(lambda _, r: (None, aug.apply(r, x)), None, records)
  for n in range(3):
    record = jax.tree.map(lambda leaf, n=n: leaf[n], records)
    np.testing.assert_allclose(scanned[n], jax.jit(aug.apply)(record, x), atol=1e-6)


def test_compose_of_nothing_is_the_identity():
  aug, x = augment.compose(), jnp.ones((1, 2, 2, 1))
  np.testing.assert_array_equal(aug.apply(aug.sample(jax.random.key(0), x.shape), x), x)


def test_mistakes_are_named_in_one_line():
  with pytest.raises(base.UserError, match=r"pad: -1 is negative"):
    augment.flip_crop(pad=-1)
  with pytest.raises(base.UserError, match=r"shape: \(4, 4\) has rank 2"):
    augment.flip_crop().sample(jax.random.key(0), (4, 4))
  record = augment.flip_crop().sample(jax.random.key(0), (2, 4, 4, 1))
  with pytest.raises(base.UserError, match=r"record: drawn for 2 images but x has 5"):
    augment.flip_crop().apply(record, jnp.ones((5, 4, 4, 1)))
