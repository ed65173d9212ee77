"""Class activation maps against NumPy in float64, finite differences, and the identities between the kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Outputs, Variables
from jdistill.ops.cam import cam, class_maps, grad_cam, grad_cam_plus_plus, resized_maps, unit_range

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 4, 6, 2))
CLASSES = np.int32([2, 0, 1])
FEATURES, HEAD, BIAS = RNG.normal(size=(2, 5)), RNG.normal(size=(5, 3)), RNG.normal(size=3)
FLAT = RNG.normal(size=(24 * 5, 3))
PARAMS = {"features": FEATURES, "head": HEAD, "bias": BIAS}


def averaged(params, x, *, stats=None, sites=None, **_):
  """ReLU of a linear map of every pixel, their mean, and a linear head; `map` is a tap, `pooled` a site."""
  site = lambda name, a: (sites or {}).get(name, lambda a: a)(a)  # noqa: E731
  a = site("map", jax.nn.relu(x @ params["features"]))
  embedding = jnp.mean(site("pooled", a), (1, 2))
  logits = embedding @ params["head"] + params["bias"].reshape(1, -1)
  return Outputs(logits, embedding, {"row": a[:, 0], "map": a}, {}, stats)


def flattened(weights, x, *, stats=None, sites=None, **_):
  """The same map, flattened and squared before the head: no class activation maps."""
  a = (sites or {}).get("map", lambda a: a)(jax.nn.relu(x @ FEATURES.astype(x.dtype)))
  embedding = a.reshape(a.shape[0], -1)
  return Outputs(jnp.square(embedding) @ weights, embedding, {"map": a, "last": embedding}, {}, stats)


def numpy_map():
  return np.maximum(IMAGES @ FEATURES, 0)


def on_device(tree):
  return Variables(jax.tree.map(jnp.asarray, tree))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_cam_is_the_map_under_the_weights_of_its_class(x64, wrap):
  found = wrap(lambda v, x, y: cam(averaged, v, x, y))(on_device(PARAMS), jnp.asarray(IMAGES), CLASSES)
  want = np.einsum("bhwk,kb->bhw", numpy_map(), HEAD[:, CLASSES])
  np.testing.assert_allclose(found, want, rtol=1e-12)
  logits = numpy_map().mean((1, 2)) @ HEAD + BIAS
  np.testing.assert_allclose(want.mean((1, 2)) + BIAS[CLASSES], logits[np.arange(3), CLASSES], rtol=1e-12)


def test_without_classes_it_is_the_predicted_one(x64):
  predicted = (numpy_map().mean((1, 2)) @ HEAD + BIAS).argmax(1).astype(np.int32)
  for kind in (cam, grad_cam, grad_cam_plus_plus):
    given = [kind(averaged, on_device(PARAMS), jnp.asarray(IMAGES), *y) for y in ((), (predicted,))]
    np.testing.assert_array_equal(*given)


def test_grad_cam_is_what_is_positive_in_cam_after_a_global_average(x64):
  given = averaged, on_device(PARAMS), jnp.asarray(IMAGES), CLASSES
  want = np.maximum(cam(*given), 0) / 24
  np.testing.assert_allclose(grad_cam(*given), want, rtol=1e-12, atol=1e-15)
  np.testing.assert_allclose(grad_cam(*given, site="map"), want, rtol=1e-12, atol=1e-15)


def gradients_by_differences(eps=1e-6):
  """Of the logits of `CLASSES` in the map, `[3, 4, 6, 5]`."""
  score = lambda a: (np.square(a.reshape(3, -1)) @ FLAT)[np.arange(3), CLASSES]  # noqa: E731
  a, out = numpy_map(), np.zeros((3, 4, 6, 5))
  for place in np.ndindex(4, 6, 5):
    step = np.zeros((1, 4, 6, 5))
    step[0][place] = eps
    out[:, *place] = (score(a + step) - score(a - step)) / (2 * eps)
  return a, out


def test_grad_cam_against_finite_differences(x64):
  a, g = gradients_by_differences()
  want = np.maximum((g.mean((1, 2), keepdims=True) * a).sum(-1), 0)
  found = jax.jit(lambda v, x: grad_cam(flattened, v, x, CLASSES))(on_device(FLAT), jnp.asarray(IMAGES))
  np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-8)
  assert (want > 0).any() and (want == 0).any()


def test_grad_cam_plus_plus_against_its_formula_place_by_place(x64):
  a, g = gradients_by_differences()
  want = np.zeros((3, 4, 6))
  for b in range(3):
    for k in range(5):
      weight = 0.0
      for i, j in np.ndindex(4, 6):
        below = 2 * g[b, i, j, k] ** 2 + a[b, :, :, k].sum() * g[b, i, j, k] ** 3
        weight += g[b, i, j, k] ** 2 / below * max(0, g[b, i, j, k]) if abs(g[b, i, j, k]) > 1e-7 else 0.0
      want[b] += weight * a[b, :, :, k]
  want = np.maximum(want, 0)
  given = flattened, on_device(FLAT), jnp.asarray(IMAGES), CLASSES
  for found in (grad_cam_plus_plus(*given), jax.jit(lambda: grad_cam_plus_plus(*given))()):
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)


def test_the_coefficients_are_what_makes_equal_shares_of_the_score(x64):
  """Where the score is linear in one feature, `sum_k w_k sum_p A_k(p)` gives exp(z) back (eqs. 3 to 9)."""
  a, slope = np.array([[0.5, 0.0], [2.0, 0.0]]), 0.7
  y = np.exp(slope * a.sum())
  second, third = slope**2 * y, slope**3 * y  # of exp(slope sum A), at every place
  alpha = second / (2 * second + a.sum() * third)

  def linear(params, x, *, sites=None, **_):
    x = (sites or {}).get("map", lambda a: a)(x)
    return Outputs(slope * jnp.sum(x, (1, 2)), x, {"map": x})

  found = grad_cam_plus_plus(linear, Variables({}), jnp.asarray(a)[None, :, :, None])
  np.testing.assert_allclose(found[0], 4 * alpha * slope * a, rtol=1e-12)


def test_unit_range_and_resizing():
  maps = jnp.float32([[[1, 3], [2, 1]], [[-2, -2], [-2, -2]]])
  np.testing.assert_allclose(unit_range(maps), [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]])
  row = [0, 0.25, 0.75, 1]  # centres at 1/4 and 3/4 of the width, nothing beyond the outermost
  np.testing.assert_allclose(resized_maps(jnp.float32([[[0, 1], [0, 1]]]), (2, 4)), [[row, row]], atol=1e-6)
  np.testing.assert_array_equal(resized_maps(maps, (2, 2)), maps)
  for kind in ("cam", "grad_cam", "grad_cam_pp"):
    x, variables = jnp.float32(IMAGES), jax.tree.map(jnp.float32, on_device(PARAMS))
    found = np.asarray(class_maps(averaged, variables, x, CLASSES, kind=kind))
    assert found.shape == (3, 4, 6) and found.min() >= 0 and found.max() <= 1


SMALL = {
  "convnet_bn": {"width": 4, "depth": 2, "embedding": "mean"},
  "resnet8": {"width": 2},
  "wrn": {"depth": 10, "width": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_of_the_zoo(name):
  """The mean of the map and the head's bias are the logit, also where no tap is what is averaged."""
  network = models.build(name, num_classes=3, image_shape=(8, 8, 1), **SMALL[name])
  variables = network.init(jax.random.key(1))
  x = jnp.float32(RNG.normal(size=(3, 8, 8, 1)))
  found, logits = jax.jit(
    lambda v, x: (cam(network.apply, v, x, CLASSES), network.apply(v.params, x, stats=v.stats).logits)
  )(variables, x)
  bias = np.asarray(variables.params["head"]["bias"])
  np.testing.assert_allclose(found.mean((1, 2)) + bias[CLASSES], logits[np.arange(3), CLASSES], rtol=1e-4, atol=1e-5)
  assert found.shape[1] == (2 if name != "convnet_bn" else 4)


@pytest.mark.parametrize("name", ["resnet18_bn", "mobilenetv2"])
def test_other_networks_with_a_global_average_have_maps(name):
  network = models.build(name, num_classes=3, image_shape=(32, 32, 3))
  variables = jax.eval_shape(network.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  assert jax.eval_shape(lambda v, x: cam(network.apply, v, x), variables, x).ndim == 3


def test_mistakes():
  given = jax.tree.map(jnp.float32, on_device(PARAMS)), jnp.float32(IMAGES)
  for name in ("convnet", "mlp"):
    network = models.build(name, num_classes=3, image_shape=(4, 6, 2))
    with pytest.raises(ValueError, match=r"cam: .* global average before a linear head.*Grad-CAM"):
      class_maps(network.apply, network.init(jax.random.key(0)), given[1])
  network = models.build("mlp", num_classes=3, image_shape=(4, 6, 2))
  with pytest.raises(ValueError, match="grad_cam: site=None is no map with places; this network has none"):
    grad_cam(network.apply, network.init(jax.random.key(0)), given[1])
  with pytest.raises(ValueError, match="grad_cam_plus_plus: site='row' is no map with places; this network has map"):
    grad_cam_plus_plus(averaged, *given, site="row")
  for classes, match in (([0, 1], r"integers of shape \(3,\)"), ([0, 1, 3], r"in \[0, 3\), got \[3\]")):
    with pytest.raises(ValueError, match=match):
      cam(averaged, *given, np.int32(classes))
  for options in ({"kind": "saliency"}, {"kind": "cam", "site": "map"}):
    with pytest.raises(ValueError, match="give one of cam, grad_cam, grad_cam_pp"):
      class_maps(averaged, *given, **options)
