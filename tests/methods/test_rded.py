"""RDED against NumPy: the scores of crops, which are kept, the tiles of an image, and the shuffled strips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment
from jdistill.base import Outputs, UserError, Variables
from jdistill.methods.dataset.rded import candidate_stream, rded
from jdistill.synthetic import Materials, SyntheticSet
from jdistill.synthetic.patches import pad_tiles, patch_crop, patch_start, score_crops, select_tiles, tile_grid

RNG = np.random.default_rng(0)
SIDES, CLASSES, MIPC = (4, 4), 2, 6
X = RNG.normal(size=(20, *SIDES, 1)).astype(np.float32)
Y = (np.arange(20) % CLASSES).astype(np.int32)
WEIGHTS = Variables(jnp.float32(RNG.normal(size=(16, CLASSES))))


def apply(params, x, *, train=False, stats=None, **_):
  assert not train
  return Outputs(x.reshape(x.shape[0], -1) @ params, x.reshape(x.shape[0], -1), {}, {}, stats)


def scores_of(x, y):
  """Cross entropies of the linear teacher."""
  logits = np.float64(x).reshape(len(x), -1) @ np.float64(WEIGHTS.params)
  return np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]


def built(ipc=2, **options):
  labels = np.repeat(np.arange(CLASSES, dtype=np.int32), ipc)
  initial = SyntheticSet(np.zeros((len(labels), *SIDES, 1), np.float32), labels, np.float32(0.1))
  options = {"mipc": MIPC, "num_crop": 3, "factor": 1} | options
  feed = candidate_stream(**{name: options[name] for name in ("mipc", "num_crop", "factor")})
  return rded(apply, initial, **options), feed.stream(Materials(X, Y, CLASSES, 0, teacher=WEIGHTS))


def test_scores_are_cross_entropies_of_padded_crops():
  crops = RNG.normal(size=(3, 2, 2, 2, 1)).astype(np.float32)
  y = np.int32([0, 1, 1])
  padded = np.zeros((3, 2, *SIDES, 1), np.float32)
  padded[:, :, 1:3, 1:3] = crops
  np.testing.assert_array_equal(pad_tiles(crops.reshape(6, 2, 2, 1), SIDES), padded.reshape(6, *SIDES, 1))
  want = scores_of(padded.reshape(6, *SIDES, 1), np.repeat(y, 2)).reshape(3, 2)
  np.testing.assert_allclose(score_crops(apply, WEIGHTS, jnp.asarray(crops), y, SIDES), want, rtol=1e-4, atol=1e-5)


def test_which_tiles():
  scores = jnp.float32([3, 1, 2, 5, 4])
  for difficulty, want in (("easy", [1, 2]), ("medium", [2, 0]), ("hard", [4, 3])):
    np.testing.assert_array_equal(select_tiles(scores, 2, difficulty), want)
  for count, difficulty in ((6, "easy"), (0, "easy"), (1, "odd")):
    with pytest.raises(ValueError, match="select_tiles"):
      select_tiles(scores, count, difficulty)


def test_tiles_of_an_image():
  tiles = np.arange(8, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, 1), np.float32)
  np.testing.assert_array_equal(tile_grid(tiles, 2)[..., 0], [[[0, 2], [4, 6]], [[1, 3], [5, 7]]])
  np.testing.assert_array_equal(tile_grid(X, 1), X)
  whole = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
  parts = np.concatenate([whole[:, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2)])
  np.testing.assert_array_equal(tile_grid(parts, 2), whole)


@pytest.mark.parametrize("factor", [1, 2])
def test_the_surest_crop_of_every_image_and_the_surest_images(factor):
  ipc = 1 if factor == 2 else 2
  method, stream = built(ipc, factor=factor)
  assert method.steps == CLASSES * 3
  crop = patch_crop(SIDES, factor, 0.08)
  state, step, want = method.init(jax.random.key(0), stream(0)), jax.jit(method.step), []
  best = None
  for number in range(method.steps):
    key, (_, real) = jax.random.key(number), stream(number)
    crops = np.asarray(crop.apply(crop.sample(key, real.x.shape), jnp.asarray(real.x)))
    scores = scores_of(pad_tiles(jnp.asarray(crops), SIDES), real.y)
    if number % 3 == 0:
      best = (scores, crops)
    better = scores < best[0]
    best = np.where(better, scores, best[0]), np.where(better[:, None, None, None], crops, best[1])
    state, metrics = step(key, state, stream(number))
    rows = np.argsort(best[0])[: ipc * factor**2]
    np.testing.assert_allclose(metrics["rded/cross_entropy"], best[0][rows].mean(), rtol=1e-4, atol=1e-6)
    if number % 3 == 2:
      want.append(tile_grid(best[1][rows], factor))
      assert (real.y == number // 3).all() and len(set(real.ids.tolist())) == MIPC
  result = method.result(state)
  np.testing.assert_allclose(result.images, np.concatenate(want), rtol=1e-5, atol=1e-6)
  later, _ = step(jax.random.key(9), state, stream(method.steps))
  np.testing.assert_array_equal(method.result(later).images, result.images)


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_a_set_that_starts_from_patches(difficulty):
  """With whole images for crops it is a choice among images."""
  own = patch_start(mipc=10, num_crop=2, patch_scale=1.0, difficulty=difficulty)
  asked = lambda x: np.asarray(apply(WEIGHTS.params, jnp.asarray(x)).logits)[None]  # noqa: E731
  found = own.make(X, Y, ipc=2, num_classes=CLASSES, seed=0, teacher_logits=asked, expert_logits=None, experts=0)
  begin = 0 if difficulty == "easy" else 4
  for c in range(CLASSES):
    members = np.flatnonzero(c == Y)
    order = members[np.argsort(scores_of(X[members], Y[members]))][begin : begin + 2]
    np.testing.assert_allclose(found.images[2 * c : 2 * c + 2], X[order], atol=1e-6)
  np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
  with pytest.raises(UserError, match=r"method.mipc=11: class 0 has only 10 images"):
    patch_start(mipc=11).candidates(Y, 1, CLASSES)
  patch_start(mipc=11, initial="noise").candidates(Y, 1, CLASSES)


def test_shuffled_strips():
  x = jnp.asarray(np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6, 1))
  shuffle = augment.shuffle_strips(2)
  record = shuffle.sample(jax.random.key(0), x.shape)
  swapped = augment.StripRecord(jnp.int32([[1, 0], [0, 1]]), jnp.int32([[0, 1], [1, 0]]))
  want = np.stack([np.roll(x[0], 3, axis=1), np.roll(x[1], 2, axis=0)])
  np.testing.assert_array_equal(jax.jit(shuffle.apply)(swapped, x), want)
  assert jax.tree.map(jnp.shape, record) == augment.StripRecord((2, 2), (2, 2))
  plain = augment.shuffle_strips(1)
  np.testing.assert_array_equal(plain.apply(plain.sample(jax.random.key(0), x.shape), x), x)
  seen = {tuple(np.asarray(shuffle.sample(jax.random.key(n), x.shape).rows).ravel()) for n in range(20)}
  assert len(seen) == 4
  with pytest.raises(UserError, match="factor: 4 does not divide images of 4 x 6"):
    augment.shuffle_strips(4).sample(jax.random.key(0), x.shape)
  with pytest.raises(UserError, match="factor: 0"):
    augment.shuffle_strips(0)


def test_mistakes():
  with pytest.raises(UserError, match=r"method.mipc=6: ipc=7 images of 1 tiles need 7 candidates"):
    built(7)
  with pytest.raises(UserError, match=r"method.factor=3: images of 4 x 4 pixels"):
    built(factor=3)
  with pytest.raises(UserError, match=r"method.mipc=11: class 0 has only 10 images"):
    candidate_stream(mipc=11).example(Materials(X, Y, CLASSES, 0, teacher=WEIGHTS))
  soft = SyntheticSet(X[:2], np.eye(2, dtype=np.float32), np.float32(0.1))
  with pytest.raises(ValueError, match="soft labels"):
    rded(apply, soft)
