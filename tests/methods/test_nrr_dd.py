"""NRR-DD against NumPy in float64: masks, masked updates of Adam, the mass of windows, and the crops it starts from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient

from jdistill.base import Outputs, UserError, Variables
from jdistill.methods.dataset.nrr_dd import REFINED, non_critical_mask, nrr_dd
from jdistill.methods.dataset.sre2l import sre2l
from jdistill.ops.cam import class_maps
from jdistill.synthetic import SyntheticSet
from jdistill.synthetic.critical import critical_start, window_mass

KEY = jax.random.key(3)
RNG = np.random.default_rng(1)
SHAPE, CLASSES = (3, 4, 2), 3
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), 2)
IMAGES = RNG.normal(size=(6, *SHAPE))
RANGE = (np.float64([-1.6, -1.4]), np.float64([1.5, 1.7]))
PARAMS = {"features": RNG.normal(size=(2, 4)), "head": RNG.normal(size=(4, CLASSES))}
MOMENTS = {"norm": {"mean": RNG.normal(size=2), "var": RNG.uniform(0.5, 2, 2)}}
PLAIN = {"jitter": 0, "iterations": 4, "image_lr": 0.2, "block_size": 3, "r_bn": 0.3}


def apply(params, x, *, train=False, stats=None, sites=None, **_):
  """`tanh` of a linear map of every pixel, averaged before a linear head; the statistics are those of pixels."""
  assert not train
  a = (sites or {}).get("pooled", lambda a: a)(jnp.tanh(x @ params["features"]))
  embedding = jnp.mean(a, (1, 2))
  moments = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
  return Outputs(embedding @ params["head"], embedding, {}, {"norm": moments}, stats)


def teacher(dtype=np.float32):
  return jax.tree.map(lambda a: jnp.asarray(a.astype(dtype)), Variables(PARAMS, MOMENTS))


def build(dtype=np.float32, *, make=nrr_dd, images=IMAGES, network=apply, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.1, dtype))
  return make(network, initial, tuple(bound.astype(dtype) for bound in RANGE), **(PLAIN | options))


def run(method, steps, dtype=np.float32):
  state, step = method.init(KEY, teacher(dtype)), jax.jit(method.step)
  seen = []
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(KEY, number), state, teacher(dtype))
    seen.append(metrics)
  return np.asarray(method.result(state).images), seen


def maps(x, y):
  """Class activation maps between 0 and 1, which are as large as the images here."""
  found = np.einsum("bhwk,kb->bhw", np.tanh(x @ PARAMS["features"]), PARAMS["head"][:, y])
  low, high = found.min((1, 2), keepdims=True), found.max((1, 2), keepdims=True)
  return (found - low) / (high - low)


def loss(x, y, r_bn=0.3):
  logits = np.tanh(x @ PARAMS["features"]).mean((1, 2)) @ PARAMS["head"]
  own = np.logaddexp.reduce(logits, 1) - logits[np.arange(len(y)), y]
  gaps = x.mean((0, 1, 2)) - MOMENTS["norm"]["mean"], x.var((0, 1, 2)) - MOMENTS["norm"]["var"]
  return own.mean() + r_bn * 10 * sum(np.linalg.norm(gap) for gap in gaps)


def masks(x, y, refined, cutoff):
  given = {"non_critical": maps(x, y), "critical": 1 - maps(x, y)}.get(refined)
  return np.full((*x.shape[:3], 1), refined == "all") if given is None else np.maximum(0, cutoff - given)[..., None]


def by_hand(refined="non_critical", cutoff=0.5, refresh_every=0, clip=True, iterations=4):
  """Adam on every block, whose updates are multiplied by masks."""
  want, seen = IMAGES.copy(), []
  for rows in ([0, 2, 4], [1, 3, 5]):
    m, v, y = np.zeros((3, *SHAPE)), np.zeros((3, *SHAPE)), LABELS[rows]
    for i in range(iterations):
      if i == 0 or (refresh_every and i % refresh_every == 0):
        mask = masks(want[rows], y, refined, cutoff)
      seen.append((loss(want[rows], y), mask.mean()))
      grad = numeric_gradient(functools.partial(loss, y=y), want[rows])
      m, v = 0.5 * m + 0.5 * grad, 0.9 * v + 0.1 * grad**2
      rate = 0.2 * 0.5 * (1 + np.cos(np.pi * i / iterations))
      moved = want[rows] - rate * mask * (m / (1 - 0.5 ** (i + 1))) / (np.sqrt(v / (1 - 0.9 ** (i + 1))) + 1e-8)
      want[rows] = np.clip(moved, *RANGE) if clip else moved
  return want, seen


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"refined": "critical", "cutoff": 0.9},
    {"refined": "all", "clip_pixels": False},
    {"refresh_every": 2, "cutoff": 0.7},
  ],
  ids=str,
)
def test_updates_are_those_of_adam_times_the_mask(x64, options):
  given = {"clip" if key == "clip_pixels" else key: value for key, value in options.items()}
  want, seen = by_hand(**given)
  found, metrics = run(build(np.float64, **options), 8, np.float64)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
  shown = [(float(one["recover/loss"]), float(one["refine/mask"])) for one in metrics]
  np.testing.assert_allclose(shown, seen, rtol=1e-5)
  assert np.abs(want).max() < 10


def test_a_mask_that_is_computed_anew_is_another_one(x64):
  once, anew = by_hand(cutoff=0.7)[0], by_hand(cutoff=0.7, refresh_every=2)[0]
  assert np.abs(once - anew).max() > 1e-3


def test_critical_pixels_stay_to_the_bit():
  images = np.clip(IMAGES, *RANGE).astype(np.float32)
  found, _ = run(build(images=images), 8)
  given = jnp.asarray(images), jnp.asarray(LABELS)
  critical = np.asarray(class_maps(apply, teacher(), *given)) >= 0.5
  assert critical.any((1, 2)).all() and (~critical).any((1, 2)).all()
  np.testing.assert_array_equal(found[critical], images[critical])
  assert (found[~critical] != images[~critical]).any(-1).mean() > 0.9


def test_where_all_moves_it_is_sre2l_and_nothing_is_nothing():
  options = {"jitter": 1, "crop_scale": 0.5, "flip_images": True}
  np.testing.assert_array_equal(run(build(refined="all", **options), 8)[0], run(build(make=sre2l, **options), 8)[0])
  images = np.clip(IMAGES, *RANGE).astype(np.float32)
  still, metrics = run(build(images=images, refined="nothing"), 8)
  np.testing.assert_array_equal(still, images)
  assert metrics[0]["refine/mask"] == 0 and set(REFINED) == {"non_critical", "critical", "all", "nothing"}


def test_masks():
  given = jnp.float32([[[0, 0.2], [0.5, 1]]])
  np.testing.assert_allclose(non_critical_mask(given, cutoff=0.5)[..., 0], [[[0.5, 0.3], [0, 0]]], rtol=1e-6)
  np.testing.assert_allclose(non_critical_mask(given, cutoff=2.0)[..., 0], [[[2, 1.8], [1.5, 1]]], rtol=1e-6)
  assert not jax.grad(lambda maps: jnp.sum(non_critical_mask(maps, cutoff=0.5)))(given).any()
  for cutoff in (0.0, -1.0):
    with pytest.raises(ValueError, match="non_critical_mask: cutoff must be > 0"):
      non_critical_mask(given, cutoff=cutoff)
  with pytest.raises(ValueError, match="must have 3 axes"):
    non_critical_mask(given[0], cutoff=0.5)


def test_mass_of_windows():
  given = RNG.uniform(size=(3, 4, 6))
  given[2] = 0
  places = np.array([[(0, 0, 4, 6), (1, 2, 2, 3)], [(3, 5, 1, 1), (0, 1, 3, 2)], [(0, 0, 2, 2), (1, 1, 1, 1)]])
  boxes = np.float32(places / np.array([4, 6, 4, 6]))
  for mass in ("share", "mean"):
    want = np.zeros((3, 2))
    for n, m in np.ndindex(3, 2):
      top, left, height, width = places[n, m]
      part = given[n, top : top + height, left : left + width]
      want[n, m] = part.mean() if mass == "mean" else part.sum() / (given[n].sum() or 1)
    np.testing.assert_allclose(window_mass(given, boxes, mass=mass), want, rtol=1e-9, atol=1e-12)


REAL, OWN = RNG.normal(size=(24, 4, 4, 2)).astype(np.float32), (np.arange(24) % CLASSES).astype(np.int32)


def logits(x):
  return np.asarray(apply(teacher().params, jnp.asarray(x)).logits)[None]


def asked(x, y, kind):
  return np.asarray(class_maps(apply, teacher(), jnp.asarray(x), jnp.asarray(y), kind=kind))


def made(**options):
  given = {"teacher_logits": logits, "class_maps": asked, "expert_logits": None, "experts": 0}
  return critical_start(**({"mipc": 8} | options)).make(REAL, OWN, ipc=2, num_classes=CLASSES, seed=0, **given)


def test_with_whole_images_for_crops_it_takes_those_that_the_teacher_is_least_sure_of():
  found = made(patch_scale=1.0, num_crop=2)
  for c in range(CLASSES):
    members = np.flatnonzero(c == OWN)
    order = members[np.argsort(np.float64(logits(REAL[members])[0, :, c] - _total(REAL[members])))]
    np.testing.assert_allclose(found.images[2 * c : 2 * c + 2], REAL[order[:2][::-1]], atol=1e-6)
  np.testing.assert_array_equal(found.labels, LABELS)


def _total(x):
  return np.logaddexp.reduce(logits(x)[0], 1)


def test_candidates_are_the_crops_with_most_of_the_map():
  """A teacher that is equally sure of everything, and crops that tell by their pixels where they were cut."""
  seen = []

  def sure_of_nothing(x):
    seen.append(np.asarray(x))
    return np.zeros((1, len(x), CLASSES), np.float32)

  given = {"teacher_logits": sure_of_nothing, "expert_logits": None, "experts": 0}
  one_place = np.zeros((8, 4, 4), np.float32)
  one_place[:, 0, 0] = 1
  images = np.zeros_like(REAL)
  images[:, 0, 0] = 1
  options = {"mipc": 8, "num_crop": 30, "patch_scale": 0.2}
  for count in (1, 3):
    begin = len(seen)
    critical_start(top_crops=count, **options).make(
      images, OWN, ipc=2, num_classes=CLASSES, seed=0, class_maps=lambda x, y, kind: one_place, **given
    )
    crops = np.concatenate(seen[begin:])
    assert len(crops) == CLASSES * 8 * count and (crops.max((1, 2, 3)) > 0).all()


def test_mistakes():
  def without(params, x, *, sites=None, **own):
    if "pooled" in (sites or {}):
      raise UserError("sites: pooled not in this network; available are embedding")
    return apply(params, x, **own)

  with pytest.raises(ValueError, match=r"teacher_apply: class activation maps need a global average.*'grad_cam'"):
    build(network=without).init(KEY, teacher())
  build(network=without, refined="all").init(KEY, teacher())
  bare = lambda params, x, **own: apply(params, x, **own)._replace(norm_inputs={})  # noqa: E731
  with pytest.raises(ValueError, match="teacher_apply: the teacher has no batch norm"):
    build(network=bare).init(KEY, teacher())
  with pytest.raises(UserError, match=r"method\.cutoff=0.0: must be"):
    build(cutoff=0.0)
  soft = SyntheticSet(jnp.zeros((3, *SHAPE)), jnp.eye(3), jnp.float32(0.1))
  with pytest.raises(ValueError, match="soft labels"):
    nrr_dd(apply, soft, RANGE)
  with pytest.raises(UserError, match=r"method.top_crops=3: .* method.num_crop=2"):
    critical_start(top_crops=3, num_crop=2)
  with pytest.raises(UserError, match=r"method\.initial='critical': needs a teacher for class maps"):
    critical_start(mipc=8).make(REAL, OWN, ipc=1, num_classes=CLASSES, seed=0, teacher_logits=logits)
