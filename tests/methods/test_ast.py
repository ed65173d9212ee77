"""AST: its outer loss and gradient in NumPy, what its segments bring, its clusters, and what it refuses."""

import functools
import importlib
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy_trajectory as reference
import pytest
from sklearn.cluster import KMeans
from trajectory_problem import KEY, STEPS, batches, build, moved, params, problem

from jdistill import bilevel, catalog, run, stages
from jdistill.base import UserError
from jdistill.methods.dataset.segments import (
  balance_factor,
  expert_order,
  perturb_conv_weights,
  segments,
  start_epoch,
)
from jdistill.selection import clusters, k_means
from jdistill.selection.clusters import kmeans, representative, squared_distances
from jdistill.stages import distill
from jdistill.synthetic import Materials, start

SCALE = 1.3


def outer_loss(images, labels, lr, start, target, between, momentum, betas):
  """The sum of matching losses on the way and at the end, of an inner loss times `SCALE`, by a Python loop."""
  indices, mask = batches(KEY)
  theta, velocity, points = start, np.zeros_like(start), []
  for rows, here in zip(indices, mask, strict=True):
    gradient = SCALE * reference.inner_gradient(theta, images[rows], np.eye(3)[labels][rows], here)
    velocity = momentum * velocity + gradient
    theta = theta - lr * velocity
    points.append(theta)
  total = ((theta - target) ** 2).sum() / ((start - target) ** 2).sum()
  every = STEPS // (len(between) + 1)
  for i, (beta, wanted) in enumerate(zip(betas, between, strict=True), 1):
    total += beta * ((points[every * i - 1] - wanted) ** 2).sum() / ((start - wanted) ** 2).sum()
  return total


def between(parts, epochs):
  rng, start = np.random.default_rng(9), parts[3]
  return start + 0.1 * rng.normal(size=(epochs - 1, start.size)).astype(start.dtype)


@pytest.mark.parametrize(
  ("epochs", "intermediate", "betas"),
  [(3, "equal", (1, 1)), (3, "adaptive", (1 / 3, 2 / 3)), (2, "adaptive", (1 / 2,)), (1, "equal", ()), (2, "none", ())],
)
def test_loss_and_gradient_equal_finite_differences(epochs, intermediate, betas, x64):
  """Four inner steps: with 3 epochs the points after steps 1 and 2 are matched, with 2 the one after step 2."""
  images, labels, lr, start, target = parts = problem(hard=True)
  points = between(parts, epochs)
  options = {"learn_labels": False, "inner_momentum": 0.9, "intermediate": intermediate}
  method, state, segment = build(parts, **options)
  brought = jnp.asarray(points) if intermediate != "none" else ()
  segment = segment._replace(between=brought, loss_scale=jnp.float32(SCALE))
  got, metrics = moved(method, state, segment)
  fixed = {"labels": labels, "start": start, "target": target, "momentum": 0.9, "betas": betas}
  fixed["between"] = points if betas else points[:0]
  value = functools.partial(outer_loss, **fixed)
  want = reference.numeric_gradients(value, {"images": images, "lr": lr})
  np.testing.assert_allclose(metrics["match/loss"], value(images=images, lr=lr), rtol=1e-6)  # the factor is float32
  for name in want:
    assert np.abs(want[name]).max() > 1e-3
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-7)


def test_all_exact_routes_give_the_same_step(x64):
  parts, found = problem(hard=True), {}
  for route in ("full", "remat", "mixed", "nested_remat"):
    unroll = functools.partial(bilevel.unroll, gradient=route)
    options = {"learn_labels": False, "inner_momentum": 0.9, "intermediate": "equal", "unroll": unroll}
    method, state, segment = build(parts, **options)
    found[route], _ = moved(method, state, segment._replace(between=jnp.asarray(between(parts, 3))))
  for route in ("remat", "mixed", "nested_remat"):
    for name, want in found["full"].items():
      np.testing.assert_allclose(found[route][name], want, rtol=1e-9, atol=1e-12)


def test_every_option_is_off_for_other_methods_and_then_changes_nothing():
  for name in ("datm", "mtt", "tesla", "ftd"):
    fields = catalog.row(name).fields()
    off = {"inner_momentum": 0.0, "intermediate": "none", "balance": False, "perturbation": 0.0}
    assert {key: fields[key].default for key in off} == off
  method, state, segment = build(problem(np.float32))
  one, _ = method.step(KEY, state, segment)
  other, _ = method.step(KEY, state, segment._replace(loss_scale=jnp.float32(1)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), params(one), params(other))


@pytest.mark.parametrize(
  ("segment", "message"), [({}, "needs segments with points in between"), ({"between": 5}, "fewer than the 5 epochs")]
)
def test_segments_that_do_not_fit_are_refused(segment, message):
  parts = problem(np.float32)
  method, state, given = build(parts, intermediate="equal")
  given = given._replace(**{name: jnp.asarray(between(parts, epochs)) for name, epochs in segment.items()})
  with pytest.raises(ValueError, match=message):
    method.step(KEY, state, given)


def test_the_factor_of_the_inner_loss_by_start_epoch():
  found = [balance_factor(t, 20) for t in (0, 9, 10, 11, 19)]
  logs = [math.log(n) / math.log(5) for n in (18, 9, 8, 9, 17)]
  np.testing.assert_allclose(found, [1 / logs[0], 1 / logs[1], *logs[2:]], rtol=1e-12)
  assert found[2] == pytest.approx(1.292, abs=1e-3)
  assert balance_factor(3, 7, base=2, offset=4) == pytest.approx(2.0)  # half of an odd bound is rounded down


def test_only_kernels_are_perturbed_by_a_direction_of_norm_alpha():
  shapes = ((3,), (2, 2, 1, 3), (12, 3), (1, 1, 3, 2))
  theta = np.random.default_rng(1).uniform(0.5, 2, 3 + 12 + 36 + 6).astype(np.float32)
  moved = perturb_conv_weights(np.random.default_rng(2), theta, shapes, 0.25)
  again = perturb_conv_weights(np.random.default_rng(2), theta, shapes, 0.5)
  share, double = moved / theta - 1, again / theta - 1
  for part in (slice(3, 15), slice(51, 57)):
    assert np.linalg.norm(share[part]) == pytest.approx(0.25, rel=1e-5)
    assert (share[part] > 0).any() and (share[part] < 0).any()
  np.testing.assert_allclose(double, 2 * share, atol=1e-5)
  assert not share[:3].any() and not share[15:51].any() and moved.dtype == np.float32


def test_what_its_segments_bring():
  shapes, none = ((2,), (1, 1, 2, 2)), np.zeros(0)
  trajectory = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)
  read = lambda expert, first, span: (trajectory[expert, first], trajectory[expert, first + span])  # noqa: E731
  found = Materials(none, none, 0, 5, 6, shapes, read, teachers=3)
  options = {"expert_epochs": 3, "max_start_epoch": 4}
  feed = segments(**options, intermediate="equal", balance=True, perturbation=1.0)
  stream, plain = feed.stream(found), segments(**options).stream(found)
  for step in range(6):
    one, other = stream(step), plain(step)
    expert, epoch = expert_order(5, step, 3), start_epoch(5, step, 0, 4)
    np.testing.assert_array_equal(one.between, trajectory[expert, epoch + 1 : epoch + 3])
    np.testing.assert_array_equal(one.target, other.target)
    np.testing.assert_array_equal(one.start[:2], other.start[:2])
    assert np.linalg.norm(one.start[2:] / other.start[2:] - 1) == pytest.approx(1.0, rel=1e-4)
    assert one.loss_scale == np.float32(balance_factor(epoch, 4))
    np.testing.assert_array_equal(one.start, stream(step).start)
    form = lambda segment: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), segment)  # noqa: E731
    assert form(one) == form(feed.example(found))
    assert other.between == () and other.loss_scale == ()


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_as_good_as_those_of_scikit_learn(seed):
  rng = np.random.default_rng(seed)
  points = np.concatenate([rng.normal(size=(15, 4)) + 4 * rng.normal(size=4) for _ in range(5)])
  centres = kmeans(np.random.default_rng(0), points, 5)
  want = KMeans(5, n_init=20, random_state=0).fit(points).inertia_
  assert squared_distances(points, centres).min(1).sum() == pytest.approx(want, rel=1e-6)
  np.testing.assert_array_equal(centres, kmeans(np.random.default_rng(0), points, 5))


def test_central_points_are_distinct_and_near_the_centres(monkeypatch):
  rng = np.random.default_rng(3)
  middles = 20 * rng.normal(size=(4, 3))
  points = np.concatenate([middles + 0.1 * rng.normal(size=(4, 3)) for _ in range(9)])
  picked = k_means(np.random.default_rng(0), points, 4)
  assert sorted((picked % 4).tolist()) == [0, 1, 2, 3]
  same = np.concatenate([np.zeros((5, 2)), np.ones((1, 2))])
  assert len(set(k_means(np.random.default_rng(0), same, 3).tolist())) == 3
  want = squared_distances(points, middles)
  monkeypatch.setattr(clusters, "_AT_ONCE", 30)  # a few rows at a time
  np.testing.assert_array_equal(squared_distances(points, middles), want)


def test_representative_images_are_those_in_the_middle():
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], 30)
  middles = np.array([[0, 0], [9, 0], [0, 9]])
  logits = middles[np.arange(60) % 3] + rng.normal(size=(60, 2))
  picked = representative(np.random.default_rng(1), logits, labels, 3, 2)
  assert labels[picked].tolist() == [0] * 3 + [1] * 3 and len(set(picked)) == 6
  for own in (picked[:3], picked[3:]):
    groups = [np.flatnonzero((labels == labels[own[0]]) & (np.arange(60) % 3 == kind)) for kind in range(3)]
    want = [group[np.linalg.norm(logits[group] - logits[group].mean(0), axis=1).argmin()] for group in groups]
    assert sorted(own.tolist()) == sorted(want)
  # one cluster, whose four nearest images are taken
  four = representative(np.random.default_rng(1), logits, labels, 4, 2, clusters=1)
  far = np.linalg.norm(logits[:30] - logits[:30].mean(0), axis=1)
  assert four[:4].tolist() == far.argsort()[:4].tolist()


def test_as_many_images_as_a_class_has_are_all_of_them():
  logits = np.zeros((6, 2))  # all in one place
  assert sorted(representative(np.random.default_rng(0), logits, np.array([0, 1] * 3), 3, 2)) == list(range(6))
  with pytest.raises(UserError, match="ipc=4: class 0 has only 3 images; lower ipc"):
    representative(np.random.default_rng(0), logits, np.array([0, 1] * 3), 4, 2)


def test_starts_in_the_middle_of_clusters_ask_the_first_expert():
  images, labels = np.random.default_rng(0).normal(size=(12, 1, 1, 2)).astype(np.float32), np.arange(12) % 2
  given = {"ipc": 2, "num_classes": 2, "seed": 3, "experts": 4}
  made = start(initial="representative", labels="hard").make(
    images, labels, expert_logits=lambda x, experts: np.stack([x.reshape(-1, 2) + k for k in experts]), **given
  )
  want = representative(np.random.default_rng((3, 2)), images.reshape(12, 2), labels, 2, 2)
  np.testing.assert_array_equal(made.images, images[want])
  assert made.labels.tolist() == [0, 0, 1, 1]
  with pytest.raises(UserError, match="need experts, of methods that match trajectories"):
    start(initial="representative", labels="hard").make(images, labels, expert_logits=None, **given)


def config(preset="tiny", **method):
  made = importlib.import_module("experiments.ast").get_config(preset)
  made.method.update(method)
  return made


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"inner_steps": 1}, r"method.inner_steps=1: fewer than method.expert_epochs=2"),
    ({"balance_offset": 1.0}, r"method.balance_offset=1.0: must be above 1"),
    ({"perturbation": -1.0}, r"method.perturbation=-1.0: must be at least 0"),
    ({"intermediate": "some"}, r"method.intermediate='some': unknown"),
  ],
)
def test_options_that_do_not_go_together(options, message):
  with pytest.raises(UserError, match=message):
    stages.resolve(config(**options))


@pytest.mark.parametrize(
  ("unroll", "options", "message"),
  [
    ({"gradient": "tesla"}, {}, r"unroll.gradient='tesla': is for plain SGD, and ast has an inner momentum of 0.9"),
    ({"gradient": "truncated", "window": 2}, {}, r"unroll.gradient='truncated': has no points on the way, which ast"),
    ({}, {"clusters": 3}, r"method.clusters=3: does not divide ipc=1; set a divisor, or None"),
  ],
)
def test_what_cannot_be_computed_is_refused_before_work_starts(unroll, options, message, tmp_path):
  made = config(**options)
  made.unroll.update(unroll)
  with pytest.raises(UserError, match=message):
    distill.STAGE.check(run.make_run(made, tmp_path / "work", tmp_path / "artefacts", io.StringIO()))


@pytest.mark.parametrize(
  ("preset", "row"),
  [
    ("cifar100_ipc1", (20, 3, 20, None, 1000.0, 1e-5, 3)),
    ("cifar100_ipc50", (80, 2, 40, 700, 1000.0, 1e-5, 3)),
    ("cifar10_ipc10", (30, 2, 20, None, 100.0, 1e-5, 3)),
    ("tiny_imagenet_ipc1", (10, 2, 10, None, 10000.0, 1e-4, 4)),
  ],
)
def test_the_experiment_has_the_released_settings(preset, row):
  c = stages.resolve(config(preset))
  names = ("inner_steps", "expert_epochs", "max_start_epoch", "batch_size", "image_lr", "lr_lr")
  assert (*(c["method"][name] for name in names), c["model"]["depth"]) == row
  own = {"epochs": 50, "batch_size": 256, "lr": 0.003, "momentum": 0.9, "weight_decay": 1e-3, "rho": 0.0}
  own |= {"schedule": "step", "milestones": [27], "factor": 0.6, "restart": [27]}
  assert {key: c["teacher_train"][key] for key in own} == own
  assert c["teacher_method"] == {
    "name": "smooth_ce", "ce_start": 0.5, "ce_step": 0.05, "penalty_weight": 2.0, "penalty_target": 1.0,
  }  # fmt: skip
  m = c["method"]
  assert (m["inner_momentum"], m["intermediate"], m["balance"], m["perturbation"]) == (0.9, "equal", True, 1.0)
  assert (m["initial"], m["clusters"], m["labels"], m["threshold"]) == ("representative", None, "hard", None)
  assert (c["steps"], c["eval"]["epochs"], c["eval"]["weight_decay"]) == (5000, 1000, 1e-3)
