"""What a run hands to the builder of its method."""

import jax
import numpy as np

from jdistill import models
from jdistill.stages import build


def test_a_smooth_network_has_the_parameters_of_its_own_and_nearly_its_values():
  section = {"name": "mlp", "widths": (8,), "act": "relu"}
  smooth = build.smooth(section)
  assert smooth == section | {"act": "softplus"} and section["act"] == "relu"
  one, other = (
    models.build(num_classes=3, image_shape=(2, 2, 1), **dict(choices)) for choices in (section, smooth)
  )  # fmt: skip
  key, x = jax.random.key(0), np.random.default_rng(0).normal(size=(5, 2, 2, 1)).astype(np.float32)
  variables = one.init(key)
  jax.tree.map(np.testing.assert_array_equal, variables, other.init(key))
  difference = np.abs(one.apply(variables.params, x).logits - other.apply(variables.params, x).logits)
  assert 0 < difference.max() < 0.05  # log(2) / 60 per unit at most
  for kept in ({"name": "mlp", "act": "sigmoid"}, {"name": "resnet10"}):
    assert build.smooth(kept) == kept
