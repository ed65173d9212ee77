"""Hard labels in the training with stored ones: mixed as the images are, and no teacher is asked."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment
from jdistill.base import Batch, Outputs
from jdistill.methods.knowledge.logits import mixed_labels, two_distances
from jdistill.methods.knowledge.recipe import StepOutputs
from jdistill.teachers import hard

Y, CLASSES = np.int32([2, 0, 1]), 3
LOGITS = np.float32(np.random.default_rng(0).normal(size=(3, CLASSES)))
MIX = augment.MixRecord(jnp.int32([1, 2, 0]), jnp.float32(0.3), jnp.zeros(4, jnp.int32))
BATCH = Batch(jnp.zeros((3, 2, 2, 1)), jnp.asarray(Y), jnp.arange(3, dtype=jnp.int32))


def asked(record):
  source = hard.one_hot(CLASSES, count=50)
  assert source.nbytes == 200 and source.arrays == () and source.replay is None
  return jax.jit(lambda batch, record: source.targets((), None, batch, record, jnp.int32(0))[0])(BATCH, record)


def loss(recipe, target):
  outputs = (Outputs(jnp.asarray(LOGITS), jnp.zeros((3, 0))), target)
  step = StepOutputs(BATCH, outputs[0], outputs[1:], {}, {}, (), (), None, jnp.float32(0), None, None)
  return recipe.terms["ce"].value(step)


def test_classes_are_mixed_as_the_images_are():
  found, eye = asked(MIX), np.eye(CLASSES)
  np.testing.assert_allclose(found.logits, 0.3 * eye[Y] + 0.7 * eye[Y[[1, 2, 0]]], rtol=1e-6)
  np.testing.assert_array_equal(found.taps["pasted"], Y[[1, 2, 0]])
  plain = asked(None)
  np.testing.assert_array_equal(plain.logits, eye[Y])
  np.testing.assert_array_equal(plain.taps["share"], np.ones(3))


def test_the_loss_is_the_cross_entropy_with_the_mixed_classes():
  logits = LOGITS.astype(np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  for record in (MIX, None):
    target = asked(record)
    want = -(np.asarray(target.logits, np.float64) * log_p).sum(-1)
    np.testing.assert_allclose(loss(mixed_labels(), target), want, rtol=1e-5)
    np.testing.assert_array_equal(loss(mixed_labels(), target), loss(two_distances(1.0, 0.0), target))
