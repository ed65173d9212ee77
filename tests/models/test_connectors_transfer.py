"""The transfer block: its layers, which map it reads, and that it works without a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Outputs
from jdistill.models.connectors import feature_transfer, last_map

RNG = np.random.default_rng(5)


def outputs(channels, size=3, batch=4):
  taps = {"block0": jnp.zeros((batch, 9, 9, 2)), "block2": jnp.float32(RNG.normal(size=(batch, size, size, channels)))}
  return Outputs(jnp.zeros((batch, 3)), jnp.zeros((batch, channels)), taps)


def test_the_last_map_is_found_by_number():
  maps = {f"block{n}": jnp.zeros((1, n + 1, 1, 1)) for n in (10, 2, 9, 0)}
  vectors = {"block11": jnp.zeros((1, 5))}
  found = last_map(Outputs(jnp.zeros((1, 2)), jnp.zeros((1, 2)), vectors | maps))
  assert found.shape == (1, 11, 1, 1)
  with pytest.raises(ValueError, match="student: shows no feature map"):
    last_map(Outputs(jnp.zeros((1, 2)), jnp.zeros((1, 2)), vectors), "student")


@pytest.mark.parametrize(("factor", "inner"), [(2, 3), (4, 1), (99, 1)])
def test_layers_have_the_bottlenecks_widths(factor, inner):
  student, teacher = outputs(5), outputs(6, size=2)
  made = jax.eval_shape(feature_transfer(factor=factor).init, jax.random.key(0), student, (teacher,))
  kernels = {name: leaf["kernel"].shape for name, leaf in made.params.items() if "conv" in name}
  assert kernels == {"conv0": (1, 1, 5, inner), "conv1": (3, 3, inner, inner), "conv2": (1, 1, inner, 6)}
  assert set(made.stats) == {"norm0", "norm1", "norm2"}


def test_it_trains_with_a_part_of_the_rows_and_is_deployed_without_a_teacher():
  student, teacher = outputs(5), outputs(6, size=2)
  half = feature_transfer(rows=lambda x: x[:2])
  variables = half.init(jax.random.key(0), student, (teacher,))
  value, stats = half.apply(variables, student, (teacher,), train=True, key=jax.random.key(1))
  assert value.shape == (2, 3, 3, 6) and float(value.min()) >= 0.0
  np.testing.assert_allclose(
    stats["norm0"]["mean"],
    0.1 * (student.taps["block2"][:2] @ variables.params["conv0"]["kernel"][0, 0]).mean((0, 1, 2)),
    rtol=1e-5,
    atol=1e-6,
  )
  whole = feature_transfer()
  alone, same = whole.apply(variables, student, (), train=False, key=jax.random.key(1))
  assert alone.shape == (4, 3, 3, 6)
  jax.tree.map(np.testing.assert_array_equal, same, variables.stats)
