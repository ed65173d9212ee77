"""Attention matching: synthetic images at which random networks look, layer by layer, where they look at real ones."""

from typing import Annotated

import jax

from jdistill.base import Augmentation, Method, Network, Outputs, UserError, View
from jdistill.losses import attention_matching, distribution_matching
from jdistill.methods.dataset.mean_matching import mean_matching
from jdistill.schema import Count, NonNegative, Positive, Range, Share, validated
from jdistill.synthetic import SyntheticSet


@validated("method")
def datadam(
  network: Network,
  initial: SyntheticSet,
  *,
  attention_weight: NonNegative = 1.0,
  mean_weight: NonNegative = 0.01,
  power: Annotated[float, Range(1)] = 4.0,
  batch_real: Count = 256,
  image_lr: Positive = 1.0,
  image_momentum: Share = 0.5,
  classes_at_once: Count | None = None,
  siamese: Augmentation | None = None,
  view: View | None = None,
) -> Method:
  """Builds attention matching (DataDAM).

  One step draws a network at random and moves the synthetic images along the gradient of

      attention_weight sum_l sum_c || mean_b A_l(a_c(real[c, b])) - mean_i A_l(a_c(synthetic[c, i])) ||^2
      + mean_weight    sum_c || mean_b f(a_c(real[c, b])) - mean_i f(a_c(synthetic[c, i])) ||^2

  with the spatial attention `A_l` of `jdistill.losses.attention_matching` at every tap of the network but the last (of
  a ConvNet each block after its activation and before pooling), and `f` what enters its head. The second term alone is
  `dm`. The release multiplies the whole by 100 (`attention_weight=100`, `mean_weight=1`), and its main script has
  `power=1` and batch norm, where the paper's table has 4 and instance norm.

  Args:
    network: drawn anew in every step.
    initial: the starting set, equally many images per class, sorted by class.
    attention_weight: of the first term.
    mean_weight: lambda; 0.01 for small images, 0.02 for large ones.
    power: p, of the activations.
    batch_real: the most real images per class and step that the stream may give. The release takes 64 (the paper's
      number is unverified).
    image_lr, image_momentum: SGD on images. The paper takes a rate of 10 above 50 images per class.
    classes_at_once, siamese, view: as for `dm`.

  Returns:
    A `Method`, as `dm`.

  Raises:
    ValueError: as `dm`.
    UserError: both weights are zero; a network in which nothing but the last tap is a map, unless `attention_weight` is
      zero.

  References:
    Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching" (arXiv 2310.00093), sec. 3.
  """
  if not attention_weight and not mean_weight:
    raise UserError("method.attention_weight=0.0: and method.mean_weight=0.0 leave nothing to match; raise one of them")
  if attention_weight:
    _check_maps(network, jax.ShapeDtypeStruct((1, *initial.images.shape[1:]), initial.images.dtype))

  def compare(real: Outputs, synthetic: Outputs, weight: jax.Array | None) -> jax.Array:
    terms = []
    if attention_weight:
      names = list(synthetic.taps)[:-1]
      maps = ([side.taps[name] for name in names] for side in (real, synthetic))
      terms.append(attention_weight * attention_matching(*maps, power=power, real_weight=weight))
    if mean_weight:
      terms.append(mean_weight * distribution_matching(real.embedding, synthetic.embedding, real_weight=weight))
    return sum(terms)

  return mean_matching(
    "datadam",
    network,
    initial,
    compare,
    batch_real=batch_real,
    image_lr=image_lr,
    image_momentum=image_momentum,
    classes_at_once=classes_at_once,
    siamese=siamese,
    view=view,
  )


def _check_maps(network: Network, image: jax.ShapeDtypeStruct) -> None:
  """Refuses networks whose taps before the last are not maps with places."""

  def taps(variables, x):
    return list(network.apply(variables.params, x, train=True, stats=variables.stats).taps.values())

  found = [tap.shape[1:] for tap in jax.eval_shape(taps, jax.eval_shape(network.init, jax.random.key(0)), image)]
  if len(found) < 2 or any(len(shape) < 2 for shape in found[:-1]):
    shown = ", ".join(map(str, found)) or "none"
    raise UserError(
      f"model: attention needs two taps or more, all but the last of them maps; found {shown}; take a ConvNet of two "
      "blocks or more, or set method.attention_weight=0.0"
    )
