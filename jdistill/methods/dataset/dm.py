"""Distribution matching: synthetic images whose embeddings have the class means of real ones, in random networks."""

import jax

from jdistill.base import Augmentation, Method, Network, Outputs, View
from jdistill.losses import distribution_matching
from jdistill.methods.dataset.mean_matching import mean_matching
from jdistill.schema import Count, Positive, Share, validated
from jdistill.synthetic import SyntheticSet


@validated("method")
def dm(
  network: Network,
  initial: SyntheticSet,
  *,
  batch_real: Count = 256,
  image_lr: Positive = 1.0,
  image_momentum: Share = 0.5,
  classes_at_once: Count | None = None,
  siamese: Augmentation | None = None,
  view: View | None = None,
) -> Method:
  """Builds distribution matching (DM).

  One step draws a network at random, shows it real and synthetic images of every class, and moves the synthetic ones
  along the gradient of

      sum_c || mean_b f(a_c(real[c, b])) - mean_i f(a_c(synthetic[c, i])) ||^2

  with `f` what enters the network's head (`Outputs.embedding`; of a ConvNet the last block's flattened output) and
  `a_c` one draw of the augmentation for all images of a class. Networks are in training mode: those with batch norm
  normalise all real images of a step together, and all synthetic ones.

  Args:
    network: drawn anew in every step.
    initial: the starting set, equally many images per class, sorted by class.
    batch_real: the most real images per class and step that the stream may give.
    image_lr, image_momentum: SGD on images.
    classes_at_once: classes that pass through the network together, for less memory; must divide the number of classes.
      `None` takes all, which networks with batch norm need, or on a CPU as many as it is fastest with.
    siamese: an augmentation that is shared by the images of a batch, such as `jdistill.augment.dsa(siamese=True)`: the
      same key must give the same transformation for any number of images. `None` for none.
    view: what the network is shown in the place of each synthetic image; means are over all of it. `None` for the
      images themselves.

  Returns:
    A `Method` whose stream is made of `Batch`es of real images, `x` `[C, b, height, width, channels]` with `weight`
    `[C, b]` or `None` (see `class_batches`), and whose result is a `SyntheticSet` with the initial labels and rate.

  Raises:
    ValueError: labels that are not sorted by class with equally many of each; `classes_at_once` with batch norm, or
      one that does not divide; at trace time, a stream of other classes or more images than `batch_real`.

  References:
    Zhao and Bilen, "Dataset Condensation with Distribution Matching" (arXiv 2110.04181), alg. 1.
  """

  def compare(real: Outputs, synthetic: Outputs, weight: jax.Array | None) -> jax.Array:
    return distribution_matching(real.embedding, synthetic.embedding, real_weight=weight)

  return mean_matching(
    "dm",
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
