"""How often samplers ask their networks, counted in the traced program."""

import types

import jax
import numpy as np
import pytest

from jdistill import catalog, models
from jdistill.diffusion import Draws
from jdistill.jobs import sampling
from jdistill.methods.knowledge.student import Trained

COUNT = 6


@pytest.mark.parametrize(
  ("name", "options", "evaluations"),
  [
    ("edm", {"sample_steps": 4, "solver": "heun"}, 7),  # the last step has no second look
    ("edm", {"sample_steps": 4, "solver": "ddim"}, 4),
    ("dmd2", {}, 1),
    ("consistency", {"sample_steps": 2}, 2),
    ("kd", {}, None),
  ],
)
def test_a_samplers_evaluations_are_those_of_its_steps(name, options, evaluations):
  prediction = "consistency" if name == "consistency" else "edm"
  network = models.build(
    "denoising_mlp", num_classes=1, image_shape=(1, 1, 2), prediction=prediction, widths=(8,), features=8
  )
  own = jax.tree.map(lambda leaf: leaf[None], network.init(jax.random.key(0)))
  recipe = catalog.row(name).build()(**catalog.row(name).values, **options)
  job = types.SimpleNamespace(network=network, recipe=recipe, constants=())
  draws = Draws(
    np.random.default_rng(0).normal(size=(COUNT, 1, 1, 2)).astype(np.float32),
    np.zeros(COUNT, np.int32),
    np.arange(COUNT),
  )
  found = sampling.costs(job, Trained({"student": own}), draws)
  if evaluations is None:
    assert found == {}
  else:
    assert found["evaluations"] == evaluations and found["sample_seconds"] > 0
