"""A student, a teacher and a batch of records, small enough to be sampled from in tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import language, models
from jdistill.base import Batch
from jdistill.methods.knowledge import Sampling

END, VOCABULARY, LENGTH = 9, 10, 12
NETWORK = models.build("decoder", num_classes=VOCABULARY, image_shape=(LENGTH,), width=8, depth=1, heads=2)
STUDENT, TEACHER = (NETWORK.init(jax.random.key(seed)).params for seed in (0, 1))
MODEL = NETWORK.language


@functools.cache
def batch(first=0):
  """Four rows of a prompt and a response each."""
  prompts, responses = [[1, 2, 3], [4], [5, 6], [2, 2]], [[7, 7], [8, 7, 8, 8], [1], [first, 3, 1]]
  documents, counted = language.join(prompts, responses, end_token=END)
  packed = language.pad(documents, LENGTH, counted=counted)
  with jax.ensure_compile_time_eval():  # it may be asked for first while something is traced
    rows = jax.tree.map(jnp.asarray, packed.rows)
    targets, mask = language.next_tokens(rows, packed.counted)
    weight = jnp.float32([1, 1, 0, 1])  # the third is padding
    return Batch(rows, targets, jnp.int32([5, 3, 0, 8]), weight, extra={"mask": mask})


def sampling(memory=(), *, teachers=((MODEL, TEACHER),), held_out=None, epoch=0.0, epochs=4.0, data=None):
  return Sampling(data or batch(), MODEL, STUDENT, teachers, memory, held_out, jnp.float32(epoch), epochs)


def log_softmax(logits):
  z = np.asarray(logits, np.float64)
  return z - np.log(np.sum(np.exp(z - z.max(-1, keepdims=True)), -1, keepdims=True)) - z.max(-1, keepdims=True)


def log_probs(params, rows, targets):
  """Of the next tokens, in float64 from the logits on."""
  logits = log_softmax(MODEL.apply(params, rows).logits)
  return np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]
