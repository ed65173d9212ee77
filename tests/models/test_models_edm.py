"""EDM's networks: forward passes against NumPy by the names of released files, published sizes, and refused files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_edm as reference
import pytest

from jdistill import models, pretrained
from jdistill.base import UserError
from jdistill.diffusion import Noisy
from jdistill.files import write_npz, write_safetensors

SIDE, CLASSES = 8, 3
SIZES = {"width": 8, "multiples": (1, 2), "depth": 1, "features": 8, "attention_sides": (4,)}
OPTIONS = {"adm": SIZES | {"head_width": 4}, "ddpmpp": SIZES}
T = (0.003, 0.7, 60.0)
every = pytest.mark.parametrize("name", sorted(OPTIONS))


@functools.cache
def network(name, **options):
  return models.build(name, num_classes=CLASSES, image_shape=(SIDE, SIDE, 2), **(OPTIONS[name] | options))


@functools.cache
def arrays(name):
  shapes = reference.shapes(
    name, side=SIDE, channels=2, classes=CLASSES, width=8, multiples=(1, 2), depth=1, sides=(4,), features=8
  )
  return {f"model.{key}": array for key, array in reference.drawn(shapes).items()}


@functools.cache
def variables(name):
  return models.from_torch(network(name), arrays(name))


def noisy():
  x = jax.random.normal(jax.random.key(0), (3, SIDE, SIDE, 2)) * (0.5 + jnp.array(T)[:, None, None, None])
  return Noisy(x, jnp.array(T), jnp.array([0, 2, CLASSES]))


@functools.cache
def wanted(name):
  """`D` and the map at the end of the encoder, `[3, side, side, channels]` in float64."""
  own = {key.removeprefix("model."): np.float64(array) for key, array in arrays(name).items()}
  sizes = {"width": 8, "levels": 2, "depth": 1} | ({"head_width": 4} if name == "adm" else {})
  found, x = [], noisy()
  for row, sigma, cond in zip(np.float64(x.x), np.float64(x.t), np.asarray(x.cond), strict=True):
    label = int(cond) if cond < CLASSES else None
    found.append(reference.preconditioned(getattr(reference, name), row.transpose(2, 0, 1), sigma, label, own, **sizes))
  return [np.stack(part).transpose(0, 2, 3, 1) for part in zip(*found, strict=True)]


@functools.cache
def program(name):
  return jax.jit(network(name).apply)


@every
def test_denoisers_are_those_of_the_equations(name):
  """Also without a condition, which is the last row."""
  x, (want, lowest) = noisy(), wanted(name)
  out = program(name)(variables(name).params, x)
  assert np.abs(want - x.x * 0.25 / (0.25 + x.t**2)[:, None, None, None]).max() > 0.1  # `F` counts
  np.testing.assert_allclose(out.logits, want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.taps["bottleneck"], lowest, rtol=1e-4, atol=2e-5)
  np.testing.assert_allclose(out.embedding, lowest.mean((1, 2)), rtol=1e-4, atol=2e-5)


def test_the_same_eagerly_and_with_recomputed_blocks():
  small, x = {"multiples": (1,), "attention_sides": ()}, noisy()
  plain, again = (network("adm", **small, remat=remat) for remat in (False, True))
  leaves, tree = jax.tree.flatten(plain.init(jax.random.key(0)).params)
  params = tree.unflatten([leaf + 0.1 + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape) for leaf in leaves])

  def loss(one, params):
    out = one.apply(params, x).logits
    return jnp.sum(out**2), out

  (_, out), gradient = jax.jit(jax.value_and_grad(functools.partial(loss, plain), has_aux=True))(params)
  (_, other), other_gradient = jax.jit(jax.value_and_grad(functools.partial(loss, again), has_aux=True))(params)
  np.testing.assert_allclose(other, out, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(plain.apply(params, x).logits, out, rtol=1e-5, atol=1e-5)
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
  assert all(jnp.any(leaf) for leaf in jax.tree.leaves(gradient))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient, other_gradient)


def test_rows_that_are_not_finite_stay_alone():
  x, want = noisy(), wanted("adm")[0]
  out = program("adm")(variables("adm").params, x._replace(x=x.x.at[1].set(jnp.nan))).logits
  assert np.isnan(out[1]).all()
  np.testing.assert_allclose(out[::2], want[::2], rtol=1e-4, atol=1e-5)


def test_computing_in_bfloat16_leaves_parameters_and_what_is_seen_in_float32():
  one, params, x, (want, lowest) = network("adm", dtype="bfloat16"), variables("adm").params, noisy(), wanted("adm")
  assert {leaf.dtype for leaf in jax.tree.leaves(one.init(jax.random.key(0)).params)} == {jnp.dtype("float32")}

  def loss(params):
    out = one.apply(params, x)
    return jnp.mean(out.logits**2), out

  (_, out), gradient = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params)
  assert {leaf.dtype for leaf in jax.tree.leaves((out, gradient))} == {jnp.dtype("float32")}
  out = jax.jit(one.apply)(params, x)
  for found, other in ((out.logits, want), (out.taps["bottleneck"], lowest)):
    error = np.abs(np.float64(found) - other).max() / np.abs(other).max()
    assert 1e-5 < error < 0.05  # far above float32's, which is beside it above


@pytest.mark.parametrize(
  ("name", "conditions", "side", "options", "count"),
  [  # 295.9, 55.7 and 61.8 million
    ("adm", 1000, 64, {}, 295_899_267),
    ("ddpmpp", 1, 32, {}, 55_732_739),
    ("ddpmpp", 1, 64, {"multiples": (1, 2, 2, 2)}, 61_804_419),
  ],
)
def test_published_sizes(name, conditions, side, options, count):
  """With the arrays that files have, down to their shapes."""
  one = models.build(name, num_classes=conditions, image_shape=(side, side, 3), **options)
  found = models.options(name) | options
  shapes = jax.eval_shape(one.init, jax.random.key(0)).params
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
  files = reference.shapes(
    name,
    side=side,
    channels=3,
    classes=conditions if conditions > 1 else 0,
    sides=found["attention_sides"],
    **{key: found[key] for key in ("width", "multiples", "depth", "features")},
  )
  sizes = [np.prod(shape) for key, shape in files.items() if not key.endswith("filter")]
  assert sum(sizes) == count and len(sizes) == len(jax.tree.leaves(shapes))


@every
def test_files_with_and_without_scalings_and_both_endings(name, tmp_path):
  inner = {key.removeprefix("model."): array for key, array in arrays(name).items()}
  augmented = arrays(name) | {"model.map_augment.weight": np.ones((8, 9), np.float32)}
  write_npz(tmp_path / "inner.npz", inner)
  write_safetensors(tmp_path / "whole.safetensors", augmented)
  for file in ("inner.npz", "whole.safetensors"):
    found = models.from_torch(network(name), pretrained.read_weights(tmp_path / file))
    jax.tree.map(np.testing.assert_array_equal, found.params, variables(name).params)


def test_nothing_in_a_file_is_unpickled(tmp_path):
  np.savez(tmp_path / "objects.npz", **{"model.map_layer0.weight": np.array([{"a": 1}], object)})
  (tmp_path / "network.pkl").write_bytes(b"")
  for file, message in (("objects.npz", "is damaged"), ("network.pkl", r"its ending '.pkl' is unknown; give one of ")):
    with pytest.raises(UserError, match=message):
      pretrained.read_weights(tmp_path / file)


def test_files_that_do_not_fit():
  own = arrays("adm")
  lacks = {key: array for key, array in own.items() if "enc.4x4_down" not in key}
  sharp = {key: np.full((1, 1, 4, 4), 1 / 16, "f4") if key.endswith("filter") else array for key, array in own.items()}
  turned = own | {"model.map_label.weight": own["model.map_label.weight"].T}
  for changed, message in (
    (lacks, r"in the names of EDM: 10 missing: model.enc.4x4_down.affine.bias, .* and 5 more"),
    (own | {"model.dec.8x8_block2.norm0.bias": np.ones(8, "f4")}, "1 left over: model.dec.8x8_block2.norm0.bias"),
    (turned, r"1 of another shape: model.map_label.weight \(3, 8\), not \(8, 3\)"),
    (sharp, "4 of another network: model.enc.4x4_down.conv0.resample_filter, .*; give its own weights"),
    (own | {"model.map_layer0.bias": np.full(8, np.nan, "f4")}, "map_layer0.bias .* no finite numbers"),
    (arrays("ddpmpp"), r"10 missing: .*; 9 left over: model.map_label.bias, .*; 20 of another shape: "),
  ):
    with pytest.raises(UserError, match=message) as caught:
      models.from_torch(network("adm"), changed, source="file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("shape", "options", "message"),
  [
    ((8, 6, 1), {}, "image_shape: 8x6 is not square"),
    ((6, 6, 1), {"multiples": (1, 1, 1)}, "multiples: 3 levels halve sides 2 times, and 4 does not divide 6x6"),
    ((8, 8, 1), {"attention_sides": (16, 4)}, r"attention_sides: no map has a side of 16; choose of 8, 4, or \(\)"),
    ((8, 8, 1), {"width": 6}, "width: 6 is no multiple of 4"),
    ((8, 8, 1), {"width": 132}, "width: maps of 132 channels have no 32 groups"),
    ((8, 8, 1), {"head_width": 3}, "head_width: 3 does not divide 16 channels"),
  ],
)
def test_sizes_that_do_not_fit(shape, options, message):
  with pytest.raises(UserError, match=message):
    models.describe(models.build("adm", num_classes=2, image_shape=shape, **(OPTIONS["adm"] | options)), shape)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"multiples": ()}, r"multiples: \(\) is not a tuple of sizes"),
    ({"attention_sides": 16}, "attention_sides: 16 is not a tuple of sizes"),
    ({"attention_sides": (0,)}, "attention_sides: 0 is not a whole number"),
    ({"remat": "yes"}, "remat: 'yes' is unknown; choose one of False, True"),
    ({"dtype": "float16"}, "dtype: 'float16' is unknown; choose one of params, bfloat16"),
  ],
)
def test_options_of_another_kind(options, message):
  with pytest.raises(UserError, match=message):
    models.build("adm", num_classes=2, image_shape=(8, 8, 1), **options)


def test_a_condition_is_a_row_of_unit_scale_at_first():
  kernel = network("adm").init(jax.random.key(0)).params["condition_rows"]["kernel"]
  assert kernel.shape == (CLASSES, 8) and 0.7 < np.abs(kernel).max() <= 1
