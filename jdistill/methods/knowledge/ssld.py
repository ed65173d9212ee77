"""SSLD: a symmetric divergence from the teacher on labelled images and on unlabelled ones that the teacher mined."""

from typing import Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Block, DataPolicy, Key, Look, PyTree
from jdistill.data.policies import walk
from jdistill.methods.knowledge.recipe import Recipe, Term
from jdistill.schema import Count, Size, validated
from jdistill.selection import mine_top_k_per_class

_DIVERGENCES = {
  "js": losses.js_divergence,
  "jeffreys": losses.jeffreys_divergence,
  "soft_ce": lambda student, teacher: losses.soft_cross_entropy(student, jax.lax.stop_gradient(teacher)),
  "kl": losses.kl_divergence,
}


@validated("method")
def ssld(
  *,
  divergence: Literal["js", "jeffreys", "soft_ce", "kl"] = "js",
) -> Recipe:
  """A divergence between the softmaxes of student and teacher at temperature 1, without labels (arXiv 2103.05959).

  It has two stages: this one on labelled and mined images (`ssld_policy`, `config.start_method`), then the same on the
  labelled ones alone (`mine="none"`) at about a hundredth of the rate.

  Args:
    divergence: `"js"`, Jensen-Shannon, as the paper describes; `"jeffreys"`, the mean of both Kullback-Leibler
      divergences, as in its code; `"soft_ce"`, cross entropy with the teacher's probabilities, as some of its
      configurations have; `"kl"`, which differs from that by a constant.

  References:
    Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones"
    (arXiv 2103.05959).
  """
  loss = _DIVERGENCES[divergence]
  return Recipe({"divergence": Term(lambda step: loss(step.student.logits, step.teacher.logits))})


@validated("data_policy")
def ssld_policy(
  size: int,
  batch_size: int,
  *,
  mine: Literal["top_k", "random", "none", "all"] = "top_k",
  per_class: Count = 100,
  predicted_only: bool = False,
  random_seed: Size = 0,
) -> DataPolicy:
  """SSLD's mining: labelled examples and those of the pool that the teacher mines, once (arXiv 2103.05959).

  Examples with a label `y >= 0` always train. Of those without (`y = -1`), the pool, the teacher mines some before the
  first epoch. Every epoch takes as many steps as all examples would need, and passes more than once over fewer of them,
  so that arms with pools of different size take the same number of updates.

  Its metrics are `selected`, the share of the examples that train, `mined`, that of the pool, `short`, for how many
  classes there were fewer than `per_class` images, and where the examples have `extra["junk"]`, `junk`, the share of
  junk among those of the pool that train.

  Args:
    size: labelled examples and pool together.
    batch_size: per step.
    mine: which of the pool train: `"top_k"`, for each class the `per_class` images that the teacher finds likeliest to
      show it; `"random"`, as many as these, drawn at random; `"none"`; `"all"`.
    per_class: images per class; a class that has fewer gives what it has.
    predicted_only: a class mines only among images whose likeliest class it is.
    random_seed: decides the draw of `"random"`, which all students share.
  """

  def mined(look: Look, positions: jax.Array, pool: jax.Array) -> tuple[jax.Array, jax.Array]:
    if mine in ("none", "all"):
      return pool if mine == "all" else jnp.zeros_like(pool), jnp.zeros((), jnp.float32)
    probabilities = jax.nn.softmax(look.teacher(positions))
    keep, taken = mine_top_k_per_class(probabilities, per_class, predicted_only=predicted_only, where=pool)
    if mine == "random":
      rank = jnp.where(pool, jax.random.uniform(jax.random.key(random_seed), pool.shape), 2.0)
      keep = jnp.argsort(jnp.argsort(rank)) < jnp.sum(keep)
    return keep, jnp.sum(taken < per_class).astype(jnp.float32)

  def init(key: Key) -> tuple[jax.Array, jax.Array, jax.Array]:
    del key
    return jnp.zeros((), bool), jnp.zeros(size, bool), jnp.zeros((), jnp.float32)

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look) -> tuple[Block, PyTree]:
    del epoch
    positions = jnp.arange(size, dtype=jnp.int32)
    examples = look.examples(positions)
    pool = examples.y < 0
    done, *before = state
    chosen, short = jax.lax.cond(done, lambda: tuple(before), lambda: mined(look, positions, pool))
    keep = jnp.logical_or(~pool, chosen)
    block = walk(key, keep, batch_size, repeat=True)
    count = lambda where: jnp.sum(where).astype(jnp.float32)  # noqa: E731
    metrics = dict(block.metrics) | {"mined": count(chosen) / jnp.maximum(count(pool), 1), "short": short}
    if (junk := examples.extra.get("junk")) is not None:
      metrics["junk"] = count(chosen & junk) / jnp.maximum(count(chosen), 1)
    return block._replace(metrics=metrics), (jnp.ones((), bool), chosen, short)

  steps = -(-size // min(batch_size, size))
  return DataPolicy(init, draw, steps, looks=True, hint="give labelled examples, or mine from the pool")
