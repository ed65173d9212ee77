"""Barlow Twins as a recipe: a network that learns from two views of every example, without labels or a teacher."""

from typing import Annotated

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.augment import compose, dsa, flip, resized_crop
from jdistill.base import Augmentation, Batch, Key
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term, student_features
from jdistill.models.connectors import projector
from jdistill.schema import Above, Count, NonNegative, Range, Traced, validated


@validated("method")
def barlow_twins(
  *,
  redundancy_weight: Annotated[NonNegative, Traced] = 0.005,
  features: Count = 8192,
  layers: Count = 3,
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = 0.08,
  flip_images: bool = True,
  operators: str = "color",
) -> Recipe:
  """Barlow Twins (arXiv 2103.03230): the features of two views of an image agree, and do not repeat each other.

  Both views are drawn from the batch as `train.augment` leaves it, the network sees one after the other, so that batch
  norm has the moments of each, and a projector on its embedding is trained with it and thrown away. The loss is
  `jdistill.losses.barlow_twins` of the projections. Labels are never looked at, and the network's head learns nothing:
  what is left is its embedding.

  The authors' views have blurring and solarisation too; here they have a resized crop, mirroring, and operators of
  `jdistill.augment.dsa`, all of those named in turn.

  Args:
    redundancy_weight: of the correlations between different features; 0.005 in the paper, for 8192 of them.
    features, layers: width of every layer of the projector, and how many there are; 8192 and 3 in the paper.
    crop_scale: smallest share of the area that a resized crop keeps; `None` for no crops.
    flip_images: mirror with probability 1/2; not for digits.
    operators: joined with `_`, such as `"color_rotate"`; `"none"` for none.
  """
  augment = views(crop_scale, flip_images, operators)

  def both(key: Key, batch: Batch) -> tuple[jax.Array, jax.Array]:
    def view(key: Key) -> jax.Array:
      return augment.apply(augment.sample(key, batch.x.shape), batch.x)

    return jnp.concatenate([view(own) for own in jax.random.split(key)]), batch.x

  def loss(step: StepOutputs) -> jax.Array:
    first, second = jnp.split(step.connectors["projector"], 2)
    return losses.barlow_twins(first, second, redundancy_weight=redundancy_weight, where=step.where)

  return Recipe(
    {"barlow_twins": Term(loss)},
    connectors={"projector": projector((features,) * layers, views=2)},
    augmented_inputs=both,
    passes=2,
    predict=student_features,
    probed=True,
    needs=(),
  )


def views(crop_scale: float | None, flip_images: bool, operators: str) -> Augmentation:
  """The augmentation of one view, drawn for every image by itself.

  Raises:
    UserError: an unknown operator.
  """
  parts = [] if crop_scale is None else [resized_crop((crop_scale, 1.0))]
  parts += [flip()] if flip_images else []
  return compose(*parts, dsa(operators, mode="multiple"))
