"""A hand-made step of a language model: two rows of different lengths and one of padding, and its losses in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Outputs
from jdistill.methods.knowledge import StepOutputs

RNG = np.random.default_rng(5)
STUDENT, TEACHER = RNG.normal(size=(3, 4, 5)), 3 * RNG.normal(size=(3, 4, 5))
TARGETS = RNG.integers(0, 5, (3, 4))
MASK = np.array([[True, True, False, True], [True, False, False, False], [True] * 4])
WHERE = np.array([True, True, False])
COUNTED = MASK & WHERE[:, None]


def step(student=STUDENT, *, memory=(), epoch=0.0, epochs=None, **changes):
  """What terms see; `changes` of the batch."""
  batch = Batch(jnp.zeros((3, 4), jnp.int32), jnp.int32(TARGETS), jnp.arange(3, dtype=jnp.int32))
  batch = batch._replace(**({"extra": {"mask": jnp.asarray(MASK)}} | changes))
  outputs = [Outputs(jnp.asarray(z, jnp.float32), jnp.zeros((3, 4, 1))) for z in (student, TEACHER)]
  return StepOutputs(
    batch, outputs[0], (outputs[1],), {}, {}, memory, (), jnp.asarray(WHERE), jnp.float32(epoch), jax.random.key(0),
    jnp.arange(3), epochs=epochs,
  )  # fmt: skip


def log_softmax(z):
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def reduced(values, reduction="token_mean"):
  """One number of values `[3, 4]`, row by row."""
  rows = [row[own] for row, own in zip(values, COUNTED, strict=True) if own.any()]
  if reduction == "token_mean":
    return np.concatenate(rows).mean()
  return np.mean([row.mean() if reduction == "sequence_mean" else row.sum() for row in rows])


def cross_entropy():
  return -np.take_along_axis(log_softmax(STUDENT), TARGETS[..., None], -1)[..., 0]


def kl(p, q):
  return (np.exp(p) * (p - q)).sum(-1)
