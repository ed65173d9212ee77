"""SSLD: a symmetric divergence from the teacher on labelled images and on unlabelled ones that the teacher mined."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import losses
from jdistill.base import Key, Outputs, UserError, Variables
from jdistill.methods.knowledge.recipe import Look, Order, Recipe, StepOutputs, Term
from jdistill.selection import mine_top_k_per_class

DIVERGENCES = ("js", "jeffreys", "soft_ce", "kl")
MINES = ("top_k", "random", "none", "all")


def ssld(
  *,
  divergence: str = "js",
  mine: str = "top_k",
  per_class: int = 100,
  predicted_only: bool = False,
  random_seed: int = 0,
) -> Recipe:
  """A divergence between the softmaxes of student and teacher at temperature 1, without labels (arXiv 2103.05959).

  Examples with a label `y >= 0` always train, though the label is not read. Of those without (`y = -1`), the pool, the
  teacher mines some once before training. Every epoch takes as many steps as all examples would need, and passes more
  than once over fewer of them, so that arms with pools of different size take the same number of updates.

  It has two stages: this one on labelled and mined images (`config.start_method`), then the same on the labelled ones
  alone (`mine="none"`) at about a hundredth of the rate.

  Args:
    divergence: `"js"`, Jensen-Shannon, as the paper describes; `"jeffreys"`, the mean of both Kullback-Leibler
      divergences, as in its code; `"soft_ce"`, cross entropy with the teacher's probabilities, as some of its
      configurations have; `"kl"`, which differs from that by a constant.
    mine: which of the pool train: `"top_k"`, for each class the `per_class` images that the teacher finds likeliest to
      show it; `"random"`, as many as these, drawn at random; `"none"`; `"all"`.
    per_class: images per class; a class that has fewer gives what it has, with a warning.
    predicted_only: a class mines only among images whose likeliest class it is.
    random_seed: decides the draw of `"random"`, which all students share.

  Returns:
    The `Recipe`. Its order has the metrics `selected`, the share of the members that train, `mined`, that of the pool,
    and where the examples have `extra["junk"]`, `junk`, the share of junk among those of the pool that train.

  Raises:
    UserError: an unknown divergence or kind of mining, or `per_class < 1`.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959).
  """
  for key, value, known in (("divergence", divergence, DIVERGENCES), ("mine", mine, MINES)):
    if value not in known:
      raise UserError(f"method.{key}={value!r}: unknown; choose one of {', '.join(known)}")
  if per_class < 1:
    raise UserError(f"method.per_class={per_class}: give at least 1 image per class")

  def prepare(teachers: tuple[Outputs, ...], y: jax.Array, variables: tuple[Variables, ...]) -> jax.Array:
    del variables
    return mined(
      jax.nn.softmax(teachers[0].logits), y, mine=mine, per_class=per_class, predicted_only=predicted_only,
      seed=random_seed,
    )  # fmt: skip

  return Recipe(
    {"divergence": Term(lambda step: _divergence(divergence, step))}, prepare=prepare, order=order, needs=("teacher",)
  )


def _divergence(name: str, step: StepOutputs) -> jax.Array:
  student, teacher = step.student.logits, step.teacher.logits
  if name == "js":
    return losses.js_divergence(student, teacher)
  if name == "jeffreys":
    return losses.jeffreys_divergence(student, teacher)
  if name == "kl":
    return losses.kl_divergence(student, teacher)
  return losses.soft_cross_entropy(student, jax.lax.stop_gradient(teacher))


def mined(
  probabilities: jax.Array, y: jax.Array, *, mine: str, per_class: int, predicted_only: bool = False, seed: int = 0
) -> jax.Array:
  """`[n]` bool: which examples of the pool train. Runs on the host.

  Args:
    probabilities: `[n, classes]` of the teacher.
    y: `[n]` labels, -1 for the pool.
    mine, per_class, predicted_only: see `ssld`.
    seed: decides a random draw.
  """
  pool = np.flatnonzero(np.asarray(y) < 0)
  chosen = pool
  if mine == "none":
    chosen = pool[:0]
  elif mine != "all":
    found = mine_top_k_per_class(np.asarray(probabilities)[pool], per_class, predicted_only=predicted_only)
    short = np.flatnonzero(found.taken < per_class)
    if short.size:
      words = ", ".join(f"{c} ({found.taken[c]})" for c in short)
      warnings.warn(
        f"ssld: the pool has fewer than per_class={per_class} images for class {words}; all of them are taken"
      )
    chosen = pool[found.indices]
    if mine == "random":
      chosen = np.random.default_rng(seed).permutation(pool)[: len(chosen)]
  return jnp.zeros(len(np.asarray(y)), bool).at[chosen].set(True)


def order(key: Key, epoch: jax.Array, look: Look, members: jax.Array, batch_size: int) -> Order:
  """Labelled and mined members in random order, again and again until the steps are full."""
  del epoch
  data, n = look.data, members.shape[0]
  pool = data.y[members] < 0
  keep = jnp.logical_or(~pool, look.constants[members])
  from_pool = keep & pool
  steps = -(-n // batch_size)
  shuffle = jax.random.permutation(key, n)
  first_kept = shuffle[jnp.argsort(jnp.logical_not(keep[shuffle]), stable=True)]
  places = jnp.arange(steps * batch_size) % jnp.maximum(jnp.sum(keep), 1)
  count = lambda where: jnp.sum(where).astype(jnp.float32)  # noqa: E731
  metrics = {"selected": count(keep) / n, "mined": count(from_pool) / jnp.maximum(count(pool), 1)}
  if "junk" in data.extra:
    metrics["junk"] = count(from_pool & data.extra["junk"][members]) / jnp.maximum(count(from_pool), 1)
  indices = members[first_kept[places]].reshape(steps, batch_size)
  return Order(indices, jnp.broadcast_to(jnp.any(keep), indices.shape), metrics)
