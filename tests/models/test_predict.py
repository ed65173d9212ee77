"""Networks asked batch by batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.models import predict


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_trees_go_in_and_out_whatever_the_batch_size(batch_size):
  shapes = []

  def function(scale, x):
    shapes.append(x["a"].shape)
    return {"sum": scale * (x["a"].sum(1) + x["b"]), "b": (x["b"],)}

  x = {"a": np.arange(14, dtype=np.float32).reshape(7, 2), "b": np.arange(7, dtype=np.float32)}
  for scale in (2.0, 3.0):  # an argument: no second program
    found = predict(function, jnp.float32(scale), x, batch_size=batch_size)
    np.testing.assert_array_equal(found["sum"], scale * (x["a"].sum(1) + x["b"]))
    np.testing.assert_array_equal(found["b"][0], x["b"])
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
  assert shapes == [(min(batch_size, 7), 2)]
