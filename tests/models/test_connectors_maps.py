"""Connectors between maps: the regressor of hints and knowledge review's fusion, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Outputs, UserError, Variables
from jdistill.models.connectors import hint_regressor, read_tap, review_fusion, review_levels, tap_pairs
from jdistill.models.connectors.maps import resize_nearest

RNG = np.random.default_rng(0)


def outputs(shapes, width, prefix="block", n=3):
  taps = {f"{prefix}{i}": jnp.float32(RNG.normal(size=(n, *shape))) for i, shape in enumerate(shapes)}
  return Outputs(jnp.zeros((n, 2)), jnp.float32(RNG.normal(size=(n, width))), taps)


def drawn(part, student, teacher, key=1):
  """Random variables of a connector, scales and running moments included, and its value in evaluation mode."""
  variables = part.init(jax.random.key(key), student, (teacher,))
  spread = lambda a: jnp.float32(np.abs(RNG.normal(size=a.shape)) + 0.2)  # noqa: E731
  params = {
    layer: {name: spread(leaf) if "scale" in leaves else leaf for name, leaf in leaves.items()}
    for layer, leaves in variables.params.items()
  }
  variables = Variables(params, jax.tree.map(spread, variables.stats))
  value, stats = part.apply(variables, student, (teacher,), train=False, key=jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, stats, variables.stats)
  return jax.tree.map(np.float64, variables), value


def convolved(x, kernel, stride=1, padding=0):
  """`[n,h,w,i]` with `[a,b,i,o]`, place by place."""
  x = np.pad(np.float64(x), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  a, b = kernel.shape[:2]
  rows, columns = (x.shape[1] - a) // stride + 1, (x.shape[2] - b) // stride + 1
  out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      patch = x[:, i * stride : i * stride + a, j * stride : j * stride + b]
      out[:, i, j] = np.einsum("nabi,abio->no", patch, kernel)
  return out


def normed(x, params, stats):
  return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


@pytest.mark.parametrize(
  ("student", "teacher", "kernel"),
  [
    ((4, 4, 2), (2, 2, 3), (3, 3, 2, 3)),  # halves
    ((2, 2, 2), (4, 4, 3), (4, 4, 2, 3)),  # doubles
    ((4, 4, 2), (4, 4, 3), (1, 1, 2, 3)),
    ((5, 5, 2), (3, 3, 3), (3, 3, 2, 3)),
  ],
)
def test_the_regressor_brings_a_map_to_the_teachers_shape(student, teacher, kernel):
  s, t = outputs([student], 2), outputs([teacher], 4)
  variables, value = drawn(hint_regressor("block0", clips=False), s, t)
  k, x = variables.params["regressor"]["kernel"], np.float64(s.taps["block0"])
  assert k.shape == kernel and value.shape == t.taps["block0"].shape
  if kernel[0] == 4:  # each place of the small map adds its multiple of the kernel, which reaches one place too far
    want = np.zeros((3, 6, 6, 3))
    for i in range(2):
      for j in range(2):
        want[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("ni,abio->nabo", x[:, i, j], k[::-1, ::-1])
    want = want[:, 1:-1, 1:-1]
  else:
    want = convolved(x, k, *((2, 1) if student[0] == 2 * teacher[0] else (1, 0)))
  want = normed(want, variables.params["norm"], variables.stats["norm"])
  np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)
  _, clipped = drawn(hint_regressor("block0"), s, t)
  assert (np.asarray(clipped) >= 0).all() and (np.asarray(clipped) == 0).any()


def test_the_regressor_takes_vectors_and_tokens():
  for student, teacher in (((5,), (3,)), ((4, 5), (4, 3))):
    s, t = outputs([student], 2), outputs([teacher], 2)
    variables, value = drawn(hint_regressor("block0", clips=False), s, t)
    layer = variables.params["regressor"]
    want = np.float64(s.taps["block0"]) @ layer["kernel"] + layer["bias"]
    want = normed(want, variables.params["norm"], variables.stats["norm"])
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("student", "teacher", "message"),
  [
    ((3, 3, 2), (5, 5, 2), "sizes that no regressor joins"),
    ((4, 2, 2), (3, 2, 2), "sizes that no regressor joins"),
    ((4, 4, 2), (8,), "are a map and a vector"),
    ((5, 2), (4, 2), "differ in the number of tokens"),
  ],
)
def test_the_regressor_refuses_shapes_that_do_not_go_together(student, teacher, message):
  s, t = outputs([student], 2), outputs([teacher], 2)
  with pytest.raises(UserError, match=message):
    hint_regressor("block0").init(jax.random.key(0), s, (t,))


def test_taps_that_do_not_exist_are_answered_with_those_that_do():
  s, t = outputs([(2,), (3,)], 2), outputs([(2,), (3,), (4,)], 2, prefix="stage")
  assert read_tap(s, "embedding") is s.embedding
  listed = r"tap='block7': the student has no such tap; available of the student: block0, block1, embedding$"
  with pytest.raises(UserError, match=listed):
    hint_regressor("block7:stage0").init(jax.random.key(0), s, (t,))
  with pytest.raises(UserError, match="the teacher has no such tap; available of the teacher: stage0, stage1, stage2"):
    hint_regressor("block0").init(jax.random.key(0), s, (t,))
  with pytest.raises(UserError, match=r"the student has 2 and the teacher 3; name pairs.*block0.*stage2"):
    tap_pairs(s, t, "stages")
  with pytest.raises(UserError, match="names no tap"):
    tap_pairs(s, s, " , ")
  with pytest.raises(UserError, match="stored targets have no maps"):
    read_tap(s._replace(taps={}), "block0", "teacher")


def test_taps_are_paired_by_position_or_by_name():
  s, t = outputs([(2,), (3,)], 2), outputs([(2,), (3,)], 2, prefix="stage")
  names = lambda pairs: [(pair.name, pair.teacher.shape[1]) for pair in pairs]  # noqa: E731
  assert names(tap_pairs(s, t, "all")) == [("block0", 2), ("block1", 3)]
  assert names(tap_pairs(s, t, "stages")) == [("block1", 3)]
  assert names(tap_pairs(s, t, "block1:stage0, block0:stage1")) == [("block1", 2), ("block0", 3)]


def test_nearest_resizing_repeats_and_skips():
  x = jnp.arange(6.0).reshape(1, 2, 3, 1)
  np.testing.assert_array_equal(resize_nearest(x, (4, 3))[0, :, :, 0], np.repeat([[0, 1, 2], [3, 4, 5]], 2, 0))
  np.testing.assert_array_equal(resize_nearest(x, (1, 4))[0, 0, :, 0], [0, 0, 1, 2])
  np.testing.assert_array_equal(resize_nearest(x, (2, 2))[0, 1, :, 0], [3, 4])


def test_the_fusion_goes_from_deep_to_shallow():
  s, t = outputs([(4, 4, 2), (2, 2, 3)], 3), outputs([(4, 4, 4), (4, 4, 5)], 6)
  variables, value = drawn(review_fusion("all", middle=7), s, t)
  params, stats = variables

  def block(x, name, padding=0):
    return normed(convolved(x, params[name]["kernel"], 1, padding), params[f"{name}_norm"], stats[f"{name}_norm"])

  enlarge = lambda x, times: np.repeat(np.repeat(x, times, 1), times, 2)  # noqa: E731

  def fused(x, deeper, number):
    layer = params[f"attention{number}"]
    shares = 1 / (1 + np.exp(-(np.concatenate([x, deeper], -1) @ layer["kernel"][0, 0] + layer["bias"])))
    return x * shares[..., :1] + deeper * shares[..., 1:]

  deep = block(np.float64(s.embedding).reshape(3, 1, 1, 3), "reduce2")
  assert deep.shape[-1] == 3  # the embedding's width, as it is below 7
  middle = enlarge(fused(block(s.taps["block1"], "reduce1"), enlarge(deep, 2), 1), 2)  # in the teacher's size
  shallow = fused(block(s.taps["block0"], "reduce0"), middle, 0)
  want = [block(x, f"predict{i}", 1) for i, x in enumerate((shallow, middle, deep))]
  targets = review_levels(s, t, "all")[1]
  assert [x.shape for x in value] == [x.shape for x in targets] == [(3, 4, 4, 4), (3, 4, 4, 5), (3, 1, 1, 6)]
  for found, expected in zip(value, want, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_fusion_refuses_tokens():
  s = outputs([(4, 2)], 2)
  with pytest.raises(UserError, match="knowledge review needs maps or vectors"):
    review_fusion("all").init(jax.random.key(0), s, (s,))


def test_training_moves_the_running_moments():
  s, t = outputs([(4, 4, 2)], 2), outputs([(4, 4, 3)], 2)
  for part in (hint_regressor("block0"), review_fusion("all")):
    variables = part.init(jax.random.key(0), s, (t,))
    _, stats = part.apply(variables, s, (t,), train=True, key=jax.random.key(0))
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (stats, variables.stats)), strict=True))
