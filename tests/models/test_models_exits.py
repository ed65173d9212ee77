"""Exits against NumPy in float64, the choice of the exit by the tap, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import erf, softmax

from jdistill.base import Outputs, UserError
from jdistill.models.connectors.exits import ConvExit, DenseExit, TokenExit, stage_exit, stage_tap, token_grid
from jdistill.models.layers import Recorder

RNG = np.random.default_rng(2)


def outputs(*taps, classes=3):
  values = {f"block{i}": jnp.float32(tap) for i, tap in enumerate(taps)}
  batch = taps[0].shape[0]
  return Outputs(jnp.zeros((batch, classes)), jnp.zeros((batch, 5)), values)


def drawn(part, student, teachers=()):
  """Parameters in which nothing is zero or one, as float64 too."""
  variables = part.init(jax.random.key(1), student, teachers)
  params = jax.tree.map(lambda leaf: jnp.float32(RNG.normal(size=leaf.shape) / 2 + 0.1), variables.params)
  return variables._replace(params=params), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def run(part, variables, student, teachers=()):
  value, stats = part.apply(variables, student, teachers, train=True, key=jax.random.key(0))
  return np.asarray(value), stats


def affine(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def layer_norm(x, layer):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x):
  return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def transformer_block(x, p, prefix, heads):
  d = x.shape[-1]
  q, k, v = np.split(affine(layer_norm(x, p[f"{prefix}norm0"]), p[f"{prefix}qkv"]), 3, axis=-1)
  mixed = np.zeros_like(x)
  for h in range(heads):
    part = slice(h * d // heads, (h + 1) * d // heads)
    scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(d // heads)
    mixed[..., part] = softmax(scores, axis=-1) @ v[..., part]
  x = x + affine(mixed, p[f"{prefix}out"])
  hidden = gelu(affine(layer_norm(x, p[f"{prefix}norm1"]), p[f"{prefix}dense0"]))
  return x + affine(hidden, p[f"{prefix}dense1"])


def test_a_token_exit_merges_squares_and_reads_the_class_token():
  """5 tokens of 3 channels: a class token and a grid of 2x2, which is merged to one token of width 4."""
  tap = RNG.normal(size=(2, 5, 3))
  student = outputs(tap)
  part = stage_exit("block0", width=4, heads=2, grid=1)
  variables, p = drawn(part, student)
  assert set(p) == {"merge0", "merge0_norm", "class_map", "head"} | {
    f"block0_{layer}" for layer in ("norm0", "norm1", "qkv", "out", "dense0", "dense1")
  }
  merged = gelu(affine(layer_norm(tap[:, 1:].reshape(2, 1, 12), p["merge0_norm"]), p["merge0"]))
  x = np.concatenate([affine(tap[:, :1], p["class_map"]), merged], axis=1)
  want = affine(transformer_block(x, p, "block0_", 2)[:, 0], p["head"])
  np.testing.assert_allclose(run(part, variables, student)[0], want, rtol=2e-4, atol=2e-4)


def test_merging_takes_neighbouring_squares():
  tap = np.arange(16.0).reshape(1, 16, 1) * np.ones((1, 1, 4))
  student = outputs(tap)
  part = stage_exit("block0", heads=2, grid=2)
  variables, p = drawn(part, student)
  squares = np.array([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
  merged = np.repeat(squares, 4, axis=1)[None].astype(float)
  x = gelu(affine(layer_norm(merged, p["merge0_norm"]), p["merge0"]))
  want = affine(transformer_block(x, p, "block0_", 2).mean(1), p["head"])
  np.testing.assert_allclose(run(part, variables, student)[0], want, rtol=2e-4, atol=2e-4)


def test_a_convolutional_exit_halves_the_map_once_per_stage_behind_it():
  tap = RNG.normal(size=(3, 4, 4, 2))
  student = outputs(tap, RNG.normal(size=(3, 2, 2, 5)))
  part = stage_exit("block0")
  variables, p = drawn(part, student)

  def depthwise(x, kernel, stride):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = [
      [correlate(image[..., c], kernel[:, :, 0, c], mode="valid") for c in range(x.shape[-1])] for image in padded
    ]
    return np.moveaxis(np.array(maps), 1, -1)[:, ::stride, ::stride]

  x = tap
  for half, stride in ((0, 2), (1, 1)):
    prefix = f"block0_{half}_"
    x = depthwise(x, p[f"{prefix}depthwise"]["kernel"], stride) @ p[f"{prefix}pointwise"]["kernel"][0, 0]
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = np.maximum(x * p[f"{prefix}norm"]["scale"] + p[f"{prefix}norm"]["bias"], 0)
  assert x.shape == (3, 2, 2, 5)  # as wide as the last tap
  value, stats = run(part, variables, student)
  np.testing.assert_allclose(value, affine(x.mean((1, 2)), p["head"]), rtol=2e-4, atol=2e-4)
  assert set(stats) == {"block0_0_norm", "block0_1_norm"}


def test_the_last_stage_has_one_convolution_as_wide_as_the_wider_network():
  tap = RNG.normal(size=(2, 3, 3, 2))
  student, teacher = outputs(tap), outputs(RNG.normal(size=(2, 9, 7)))
  part = stage_exit("block0")
  variables, p = drawn(part, student, (teacher,))
  assert p["conv"]["kernel"].shape == (1, 1, 2, 7)
  want = affine((tap @ p["conv"]["kernel"][0, 0] + p["conv"]["bias"]).mean((1, 2)), p["head"])
  np.testing.assert_allclose(run(part, variables, student, (teacher,))[0], want, rtol=1e-4, atol=1e-4)


def test_vectors_get_a_dense_exit():
  tap = RNG.normal(size=(4, 6))
  student = outputs(tap)
  part = stage_exit("block0")
  variables, p = drawn(part, student)
  want = affine(np.maximum(affine(tap, p["dense"]), 0), p["head"])
  np.testing.assert_allclose(run(part, variables, student)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("taps", "stage", "index", "blocks"),
  [(4, "1", 0, 3), (4, "4", 3, 0), (8, "1", 1, 3), (8, "3", 5, 1), (5, "1", 1, 3), (5, "4", 4, 0), (6, "block0", 0, 3)],
)
def test_stages_are_quarters_of_the_network_or_names(taps, stage, index, blocks):
  student = outputs(*(np.full((1, 2), float(i)) for i in range(taps)))
  tap, behind = stage_tap(student, stage)
  assert (float(tap[0, 0]), behind) == (index, blocks)


@pytest.mark.parametrize(("tokens", "grid"), [(1, (1, 0)), (2, (1, 1)), (49, (7, 0)), (50, (7, 1)), (64, (8, 0))])
def test_token_counts_tell_the_grid(tokens, grid):
  assert token_grid(tokens) == grid


@pytest.mark.parametrize(
  ("taps", "stage", "options", "complaint"),
  [
    ([(2, 7, 4)], "block0", {}, "7 tokens are no square grid"),
    ([(2, 9, 4)], "block0", {"grid": 2}, "a grid of 3x3 tokens cannot be merged"),
    ([(2, 9, 6)], "block0", {}, "4 heads do not divide tokens of length 6"),
    ([(2, 4)], "block7", {}, "no such tap; available of the student: block0"),
    ([(2, 4)] * 3, "1", {}, "the student has 3 taps, fewer than 4 stages; name them: block0,block1,block2"),
    ([(2, 4)] * 4, "5", {}, "5 is not a quarter"),
  ],
)
def test_what_exits_refuse(taps, stage, options, complaint):
  student = outputs(*(np.zeros(shape) for shape in taps))
  with pytest.raises(UserError, match=complaint):
    stage_exit(stage, **options).init(jax.random.key(0), student, ())


@pytest.mark.parametrize(
  ("module", "shape", "complaint"),
  [
    (ConvExit(3, 1, 4), (2, 16, 4), "a convolutional exit reads maps"),
    (TokenExit(3, 1, 4), (2, 4, 4, 4), "a token exit reads tokens"),
    (DenseExit(3, 4), (2, 16, 4), "a dense exit reads vectors"),
  ],
)
def test_an_exit_does_not_read_another_kind_of_tap(module, shape, complaint):
  with pytest.raises(UserError, match=complaint):
    module.init(jax.random.key(0), jnp.zeros(shape), train=False, record=Recorder())
