"""A student of two layers with its data, its teacher and runs of it, for tests of the builder of students."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdistill.base import Batch, Network, Outputs, Variables
from jdistill.methods.knowledge import Memory, Outer, Recipe, StudentInput, Term, student_method

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
N, BATCH, STEPS, FEATURES, CLASSES = 14, 4, 3, 2, 3
X, Y = RNG.normal(size=(N, FEATURES)).astype(np.float32), RNG.integers(0, CLASSES, N).astype(np.int32)
DATA = Batch(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(100 + np.arange(N), jnp.int32))
ALL = jnp.arange(N, dtype=jnp.int32)
HELD_OUT = Batch(jnp.float32(RNG.normal(size=(5, FEATURES))), jnp.int32([0, 1, 2, 1, 0]), jnp.arange(5))
SGD = optax.sgd(0.1)


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  hidden = jnp.tanh(x @ params["a"])
  return Outputs(hidden @ params["b"], hidden, stats=stats or {})


def init(key):
  a, b = jax.random.split(key)
  return Variables({"a": jax.random.normal(a, (FEATURES, 5)), "b": jax.random.normal(b, (5, CLASSES))})


NETWORK = Network(init, apply)
TEACHER = init(jax.random.key(9)).params


def taught(arrays, key, batch, record, step):
  return (apply(arrays, batch.x),)


def build(recipe, **options):
  return student_method(NETWORK, recipe, **({"optimizer": SGD, "targets": taught, "num_examples": N} | options))


def inputs(number=0, rows=None, data=DATA, weight=None, steps=STEPS, **options):
  """Update `number` of epochs of `steps` updates each."""
  rows = jnp.asarray(np.arange(len(data.y)) if rows is None else rows, jnp.int32)
  batch = jax.tree.map(lambda leaf: leaf[rows], data)._replace(weight=None if weight is None else jnp.float32(weight))
  here = {"rows": rows, "targets": TEACHER} | options
  return StudentInput(batch, jnp.int32(number), jnp.float32(number / steps), **here)


ROWS = [np.random.default_rng(seed).permutation(N)[: STEPS * BATCH].reshape(STEPS, BATCH) for seed in range(4)]


def run(method, epochs=1, rows=ROWS, **options):
  """The states after each epoch, the first of them the start, and the mean metrics of each."""
  steps = len(rows[0])
  states = [jax.jit(method.init)(KEY, inputs(0, rows[0][0], steps=steps, **options))]
  step, shown = jax.jit(method.step), []
  for number in range(epochs):
    state, found = states[-1], []
    for position, chosen in enumerate(rows[number]):
      update = number * steps + position
      state, metrics = step(jax.random.fold_in(KEY, update), state, inputs(update, chosen, steps=steps, **options))
      found.append(metrics)
    states.append(state)
    shown.append({name: float(np.mean([one[name] for one in found])) for name in found[0]})
  return states, shown


WHOLE = [[np.arange(N)]] * 3  # one update of all examples per epoch


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b, rtol=2e-5):
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=2e-6), a, b)


def params(state, role="student"):
  return state.roles[role].params


def watched(recipe):
  """The recipe with a memory that writes down which rows were seen."""

  def update(step):
    return step.memory.at[step.rows].add(1)

  return recipe._replace(memory=Memory(lambda key, n, batch: jnp.zeros(n, jnp.int32), update))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def same_tree(a, b):
  return all(np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def controlled(through=True, size=50):
  """Cross entropy and KD, mixed by one learned number."""

  def mixed(view):
    share = jax.nn.sigmoid(view.params["mixer"])
    return share * labels_nats(view.student.logits, view.y) + (1 - share) * 2.0 * (view.student.logits**2).sum(-1)

  outer = Outer(
    "mixer", lambda key, student, teachers: jnp.float32(0.4), labels_nats, batch_size=size, lr=0.3, through=through
  )
  return Recipe({"mixed": Term(mixed)}, outer=outer)


def labels_nats(found, y):
  logits = found.logits if isinstance(found, Outputs) else found
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)[:, 0]
