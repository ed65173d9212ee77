"""The parts that methods of regression share, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, UserError
from jdistill.methods.dataset import regression
from jdistill.synthetic import SyntheticSet

RNG = np.random.default_rng(0)


def test_initial_targets():
  images, classes = np.zeros((4, 2, 2, 1), np.float32), np.int32([0, 2, 1, 0])
  hard = SyntheticSet(images, classes, np.float32(1))
  np.testing.assert_allclose(regression.initial_targets(hard), np.eye(3)[classes] - 1 / 3, rtol=1e-6)
  want = (np.eye(3)[classes] - 1 / 3) / np.sqrt(0.3)
  np.testing.assert_allclose(regression.initial_targets(hard, scaled=True), want, rtol=1e-6)
  soft = hard._replace(labels=jnp.float32(RNG.normal(size=(4, 3))))
  kept = regression.initial_targets(soft)
  np.testing.assert_array_equal(kept, soft.labels)
  kept.delete()
  assert np.isfinite(soft.labels).all()


def test_margin_and_accuracy():
  labels = RNG.normal(size=(6, 4))
  ranked = np.sort(labels, axis=1)
  margin = ranked[:, -1] - ranked[:, -2]
  cap = float(np.median(margin))
  assert regression.label_margin(jnp.float32(labels), cap) == pytest.approx(np.minimum(margin, cap).mean(), rel=1e-5)
  slope = jax.grad(lambda y: regression.label_margin(y, cap))(jnp.float32(labels))
  want = np.where((margin < cap)[:, None], (labels == ranked[:, -1:]) * 1.0 - (labels == ranked[:, -2:-1]), 0) / 6
  np.testing.assert_allclose(slope, want, atol=1e-7)
  y = np.int32([0, 1, 2, 3, 0, 1])
  assert regression.share_correct(jnp.float32(labels), y) == pytest.approx((labels.argmax(1) == y).mean())


def test_mirrors():
  images, targets = jnp.float32(RNG.normal(size=(3, 2, 4, 1))), jnp.float32(RNG.normal(size=(3, 2)))
  x, y = regression.with_mirrors(images, targets)
  np.testing.assert_array_equal(x, np.concatenate([images, np.flip(images, 2)]))
  np.testing.assert_array_equal(y, np.concatenate([targets, targets]))


def test_mistakes():
  with pytest.raises(UserError, match=r"method\.image_lr=0 and method\.label_lr=0: kip learns nothing"):
    regression.check_learns("kip", image_lr=0.0, label_lr=0.0)
  regression.check_learns("kip", image_lr=0.0, label_lr=0.1)
  batch = Batch(jnp.zeros((3, 2, 2, 1)), jnp.zeros((3, 2), jnp.int32), jnp.arange(3))
  with pytest.raises(ValueError, match=r"real images \(3, 2, 2, 1\) with labels \(3, 2\)"):
    regression.check_real("kip", batch, (2, 2, 1))
