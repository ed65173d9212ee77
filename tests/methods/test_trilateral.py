"""TGeo-KD's controller: what it sees, and its network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.methods.knowledge import trilateral


def test_literal_state():
  s, t, g, m = ([[0.5, 0.5]], [[0.75, 0.25]], [[1.0, 0.0]], [[0.25, 0.75]])
  arrays = [jnp.array(x) for x in (s, t, g, m)]
  edges = [0.0625, 0.0625, 0.25, 0.25, 0.0625, 0.0625, 0.0625, 0.0625, 0.5625, 0.5625]
  corners = [0.5, 0.5, 0.75, 0.25, 1, 0, 0.25, 0.75]
  np.testing.assert_allclose(trilateral.trilateral_state(*arrays), [corners + edges])
  np.testing.assert_allclose(trilateral.trilateral_state(*arrays, option="student_edges"), [edges[:6]])
  angles = [-0.125, -0.125, 0.125, 0.125]
  np.testing.assert_allclose(trilateral.trilateral_state(*arrays, option="angles+edges"), [angles + edges])
  grad = jax.grad(lambda s: trilateral.trilateral_state(s, *arrays[1:]).sum())(arrays[0])
  np.testing.assert_array_equal(grad, 0)


def test_class_mean_predictions():
  p = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
  means, counts = trilateral.class_mean_predictions(p, jnp.array([0, 0, 2]), 3)
  np.testing.assert_allclose(means, [[0.5, 0.5, 0], [1 / 3] * 3, [0, 0, 1]], rtol=1e-6)
  np.testing.assert_array_equal(counts, [2, 0, 1])


def test_ratio(x64):
  params = [(jnp.array([[1.0], [-2.0]]), jnp.array([0.5])), (jnp.array([[3.0]]), jnp.array([-1.0]))]
  alpha = trilateral.fusion_ratio(params, jnp.array([[1.0, 0.0], [0.0, 1.0]]))
  hidden = np.array([1.5, -1.5 * 0.01])
  np.testing.assert_allclose(alpha, 1 / (1 + np.exp(-(3 * hidden - 1))), rtol=1e-12)
  shapes = [kernel.shape for kernel, _ in trilateral.init_fusion_ratio(jax.random.key(0), 27)]
  assert shapes == [(27, 32), (32, 16), (16, 1)]


def test_errors():
  z, y = jnp.ones((2, 3)), jnp.array([0, 1])
  for call, match in (
    (lambda: trilateral.trilateral_state(z, z, z, z, option="all"), "option must be"),
    (lambda: trilateral.trilateral_state(z, z, z, z, option="edges+edges"), "option must be"),
    (lambda: trilateral.trilateral_state(z, z, z, z[:1]), "shapes must be equal"),
    (lambda: trilateral.class_mean_predictions(z, y, 4), "must have 4 classes"),
    (lambda: trilateral.fusion_ratio([(z, z[0])], z), "must have 2 columns"),
  ):
    with pytest.raises(ValueError, match=match):
      call()
