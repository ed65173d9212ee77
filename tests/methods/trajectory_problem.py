"""A small problem of trajectory matching, and its outer gradient in NumPy by finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_trajectory as reference

from jdistill.base import Outputs, Segment
from jdistill.methods.dataset.batches import inner_batches
from jdistill.methods.dataset.trajectory import trajectory_method
from jdistill.synthetic import SyntheticSet

SIZE, STEPS, BATCH = 5, 4, 2  # two rounds of three batches, of which the first holds one image
SHAPE = (3, 3, 1)
RATES = {"image_lr": 1.0, "label_lr": 1.0, "lr_lr": 1.0, "image_momentum": 0.0, "label_momentum": 0.0, "lr_momentum": 0}
OPTIONS = {"inner_steps": STEPS, "batch_size": BATCH, "threshold": None, **RATES}
KEY = jax.random.key(3)


def apply(theta, x, **_):
  features = x.size // x.shape[0]
  cut = features * reference.HIDDEN
  hidden = jnp.tanh(x.reshape(x.shape[0], features) @ theta[:cut].reshape(features, reference.HIDDEN))
  return Outputs(hidden @ theta[cut:].reshape(reference.HIDDEN, reference.CLASSES), hidden)


def problem(dtype=np.float64, seed=0, shape=SHAPE, hard=False):
  """NumPy arrays `images, labels, lr` and `start, target`; the target lies where training leads, roughly."""
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(SIZE, *shape)).astype(dtype)
  labels = np.arange(SIZE, dtype=np.int32) % 3 if hard else rng.normal(size=(SIZE, 3)).astype(dtype)
  start = rng.normal(size=np.prod(shape) * 3 + 9).astype(dtype) * dtype(0.5)
  target = start + rng.normal(size=start.shape).astype(dtype) * dtype(0.1)
  return images, labels, np.asarray(0.3, dtype), start, target


@functools.lru_cache
def shared_step(*options):
  """A compiled step by its options: it knows the shapes of a set, and takes the values from the state."""
  initial = SyntheticSet(*(jnp.asarray(a) for a in problem(np.float32)[:3]))
  return jax.jit(trajectory_method(apply, initial, **(OPTIONS | dict(options))).step)


def build(parts, **options):
  images, labels, lr, start, target = parts
  initial = SyntheticSet(*(jnp.asarray(a) for a in (images, labels, lr)))
  segment = Segment(jnp.asarray(start), jnp.asarray(target))
  method = trajectory_method(apply, initial, **(OPTIONS | options))
  state = method.init(jax.random.key(0), segment)
  if images.shape[1:] == SHAPE and labels.ndim == 2:
    method = method._replace(step=shared_step(*sorted(options.items())))
  return method, state, segment


def batches(key, size=SIZE, batch_size=BATCH, steps=STEPS):
  return tuple(np.asarray(a) for a in inner_batches(jax.random.split(key)[0], size, batch_size, steps))


def params(state):
  return {name: np.array(role.params) for name, role in state.roles.items()}


def reference_gradient(values, fixed, start, target, key, **options):
  """Finite differences of the outer loss in all of `values`, with the batches of `key`."""
  indices, mask = batches(key)
  value = lambda **at: reference.outer_loss(**at, **fixed, start=start, target=target, indices=indices, mask=mask,  # noqa: E731
                                            **options)  # fmt: skip
  return value(**values), reference.numeric_gradients(value, values)


def moved(method, state, segment, key=KEY):
  """One step with rates of one and no momentum moves everything by its gradient; the gradient, and the metrics."""
  new, metrics = jax.jit(method.step)(key, state, segment)
  after = params(new)
  return {name: value - after[name] for name, value in params(state).items()}, metrics
