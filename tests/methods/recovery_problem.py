"""A linear network with two "batch norms", six images of three classes, and what recovery descends, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Outputs, Variables
from jdistill.methods.dataset.sre2l import sre2l
from jdistill.synthetic import SyntheticSet

SHAPE, CLASSES = (2, 2, 1), 3
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), 2)
IMAGES = RNG.normal(size=(6, *SHAPE))
RANGE = (np.array([-1.5]), np.array([1.2]))
# two "layers" whose names do not stand in the order in which they are passed
TEACHER = Variables(
  RNG.normal(size=(4, CLASSES)),
  {
    "norm9": {"mean": RNG.normal(size=4), "var": RNG.uniform(0.5, 2, 4)},
    "norm1": {"mean": RNG.normal(size=CLASSES), "var": RNG.uniform(0.5, 2, CLASSES)},
  },
)


def apply(params, x, *, train=False, stats=None, **_):
  """A linear network whose norm inputs are its pixels and its logits."""
  assert not train
  pixels = x.reshape(x.shape[0], -1)
  logits = pixels @ params
  moments = lambda rows: (jnp.mean(rows, 0), jnp.var(rows, 0))  # noqa: E731
  return Outputs(logits, pixels, {}, {"norm9": moments(pixels), "norm1": moments(logits)}, stats)


def on_device(dtype):
  return jax.tree.map(lambda a: jnp.asarray(a.astype(dtype)), TEACHER)


def build(dtype=np.float32, images=IMAGES, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.1, dtype))
  method = sre2l(apply, initial, tuple(bound.astype(dtype) for bound in RANGE), **({"jitter": 0} | options))
  return method, on_device(dtype)


def log_probs(weights, x):
  logits = x.reshape(len(x), -1) @ weights
  return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def reference_loss(x, y, r_bn, *, variance=1.0, first=10.0, weights=TEACHER.params):
  pixels = x.reshape(len(x), -1)
  total = -log_probs(weights, x)[np.arange(len(y)), y].mean()
  for rows, layer, weight in ((pixels, "norm9", first), (pixels @ weights, "norm1", 1.0)):
    stats = TEACHER.stats[layer]
    of_means, of_variances = (np.linalg.norm(f(0) - stats[k]) for f, k in ((rows.mean, "mean"), (rows.var, "var")))
    total += r_bn * weight * (of_means + variance * of_variances)
  return total
