"""Networks between those that teachers started from and those that they became, with real images by class."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

from jdistill.base import Batch
from jdistill.methods.dataset.by_class import real_batches
from jdistill.methods.dataset.segments import expert_order
from jdistill.schema import Count, validated
from jdistill.synthetic import Feed, Materials


class Extraction(NamedTuple):
  """What a step of a method sees that compares features of real images with those of synthetic ones.

  Attributes:
    real: real images of every class, `[C, b, ...]` (`real_batches`).
    features: flat parameters `[P]` of the network whose features are compared.
    trained: those of a trained network.
  """

  real: Batch
  features: jax.Array
  trained: jax.Array


@validated("method")
def extractors(
  *, batch_real: Count = 256, extractor: Literal["between", "epoch", "untrained", "trained"] = "between"
) -> Feed:
  """The stream of `ncfm`: in every step some real images of each class, and a teacher at some point of its training.

  Teachers come in random order, all of them before any comes again.

  Args:
    batch_real: images per class.
    extractor: `"between"`, `u theta_0 + (1 - u) theta_E` of the teacher's first and last parameters with `u ~ U(0, 1)`,
      as in the released code of NCFM; `"epoch"`, its parameters after a random number of epochs `0..E`;
      `"untrained"` or `"trained"`, `theta_0` or `theta_E` themselves.

  Returns:
    The `Feed`: batches are a function of seed and step alone.
  """
  images = real_batches(batch_real=batch_real)

  def stream(found: Materials) -> Callable[[int], Extraction]:
    real = images.stream(found)

    def draw(step: int) -> Extraction:
      teacher = expert_order(found.seed, step, found.teachers)
      first, last = found.segment(teacher, 0, found.epochs)
      rng = np.random.default_rng((found.seed, 4, step))
      if extractor == "between":
        share = np.float32(rng.uniform())
        features = share * first + (1 - share) * last
      elif extractor == "epoch":
        features = found.segment(teacher, int(rng.integers(found.epochs + 1)), 0)[0]
      else:
        features = first if extractor == "untrained" else last
      return Extraction(real(step), features, last)

    return draw

  def example(found: Materials) -> Extraction:
    vector = jax.ShapeDtypeStruct((found.parameters,), np.float32)
    return Extraction(images.example(found), vector, vector)

  return Feed(stream, example)
