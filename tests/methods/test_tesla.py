"""TESLA: its gradient against the paper's two passes in NumPy, where it is the true one, and soft teacher labels."""

import functools
import importlib

import jax
import numpy as np
import numpy_trajectory as reference
import pytest
from trajectory_problem import KEY, STEPS, batches, build, moved, params, problem, reference_gradient

from jdistill import bilevel, catalog, stages
from jdistill.base import UserError

UNROLL = functools.partial(bilevel.unroll, gradient=catalog.row("tesla").gradient)


def two_passes(parts, steps, step=1e-5):
  """Gradients by the paper's algorithm: roll out, add up all gradients, then visit every step's point once more."""
  images, labels, lr, start, target = parts
  indices, mask = batches(KEY, steps=steps)
  points, total = [start], np.zeros_like(start)
  probabilities = reference.softmax(labels)
  for rows, here in zip(indices, mask, strict=True):
    gradient = reference.inner_gradient(points[-1], images[rows], probabilities[rows], here)
    points.append(points[-1] - lr * gradient)
    total += gradient
  norm = ((start - target) ** 2).sum()
  direction = 2 * (lr * (target - start) + lr**2 * total) / norm

  def slopes(images, labels):
    """The sum over steps of `<direction, gradient of the step at its point>`, whose points do not move."""
    probabilities = reference.softmax(labels)
    return sum(
      direction @ reference.inner_gradient(point, images[rows], probabilities[rows], here)
      for point, rows, here in zip(points, indices, mask, strict=False)
    )

  wanted = reference.numeric_gradients(slopes, {"images": images, "labels": labels}, step)
  return wanted | {"lr": -2 * total @ (points[-1] - target) / norm}


@pytest.mark.parametrize("steps", [1, 3, STEPS])
def test_the_gradient_is_that_of_the_two_passes(steps, x64):
  """For any number of steps: the first holds one image, 3 are a whole round, 4 begin another."""
  parts = problem()
  got, _ = moved(*build(parts, inner_steps=steps, unroll=UNROLL))
  want = two_passes(parts, steps)
  assert got.keys() == want.keys()
  for name in want:
    assert np.abs(want[name]).max() > 1e-3
    np.testing.assert_allclose(got[name], want[name], rtol=1e-6, atol=1e-9)


def test_it_is_the_true_gradient_for_one_step_only(x64):
  images, labels, lr, start, target = parts = problem()
  values = {"images": images, "labels": labels, "lr": lr}
  for steps, same in ((1, True), (STEPS, False)):
    got, _ = moved(*build(parts, inner_steps=steps, unroll=UNROLL))
    indices, mask = batches(KEY, steps=steps)
    fixed = {"start": start, "target": target, "indices": indices, "mask": mask}
    want = reference.numeric_gradients(functools.partial(reference.outer_loss, **fixed), values)
    errors = {name: np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name]) for name in want}
    assert all(error < 1e-6 for error in errors.values()) if same else all(e > 1e-3 for e in errors.values()), errors


def test_teacher_labels_are_those_of_the_target_and_constants_of_the_gradient(x64):
  images, labels, lr, start, target = parts = problem()
  method, state, segment = build(parts, learn_labels=False, teacher_label=True)
  new, _ = method.step(KEY, state, segment)
  first, second = reference.split(target, images[0].size)
  given = np.tanh(images.reshape(len(images), -1) @ first) @ second
  assert np.abs(given - labels).max() > 0.1
  _, want = reference_gradient({"images": images, "lr": lr}, {"labels": given}, start, target, KEY)
  for name, before in {"images": images, "lr": lr}.items():
    np.testing.assert_allclose(before - params(new)[name], want[name], rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(method.result(new).labels, given, rtol=1e-12)


def test_a_rejected_step_leaves_the_labels():
  method, state, segment = build(problem(np.float32), learn_labels=False, teacher_label=True, threshold=1e-3)
  new, metrics = method.step(KEY, state, segment)
  assert metrics["match/accepted"] == 0
  jax.tree.map(np.testing.assert_array_equal, new, state)


def test_teacher_labels_need_soft_labels_that_are_not_learned():
  with pytest.raises(ValueError, match=r"teacher_label needs label logits \[m, classes\], got \(5,\)"):
    build(problem(np.float32, hard=True), learn_labels=False, teacher_label=True)
  with pytest.raises(ValueError, match="replaces the labels that learn_labels would learn"):
    build(problem(np.float32), teacher_label=True)


def config(preset="tiny", **method):
  made = importlib.import_module("experiments.tesla").get_config(preset)
  made.method.update(method)
  return made


def test_runs_take_its_route_unless_another_is_chosen():
  chosen = config()
  assert stages.resolve(chosen)["unroll"]["gradient"] == "tesla"
  chosen.unroll.gradient = "mixed"
  assert stages.resolve(chosen)["unroll"]["gradient"] == "mixed"
  other = importlib.import_module("experiments.mtt").get_config("tiny")
  assert stages.resolve(other)["unroll"]["gradient"] == "mixed"


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"labels": "hard"}, "method.teacher_label=True: gives soft labels; set method.labels='soft'"),
    ({"labels": "soft", "learn_labels": True}, "method.teacher_label=True: replaces the labels"),
  ],
)
def test_options_that_do_not_go_together(options, message):
  with pytest.raises(UserError, match=message):
    stages.resolve(config(teacher_label=True, **options))


@pytest.mark.parametrize(
  ("preset", "row"),
  [
    ("cifar10_ipc1", (50, 2, 5, 1000.0, None, 1e-7, False, "hard", "channel", 3)),
    ("cifar100_ipc50", (80, 2, 40, 1000.0, 125, 1e-5, False, "hard", "zca", 3)),
    ("imagenet64_ipc1", (10, 3, 10, 10000.0, 100, 1e-4, True, "soft", "channel", 4)),
  ],
)
def test_the_experiment_has_the_released_settings(preset, row):
  c = stages.resolve(config(preset))
  names = ("inner_steps", "expert_epochs", "max_start_epoch", "image_lr", "batch_size", "lr_lr", "teacher_label")
  found = (*(c["method"][name] for name in names), c["method"]["labels"], c["preprocessing"], c["model"]["depth"])
  assert found == row
  assert (c["steps"], c["method"]["threshold"], c["method"]["learn_labels"]) == (10000, None, False)
  assert (c["teacher_train"]["epochs"], c["teacher_train"]["rho"], c["unroll"]["gradient"]) == (50, 0.0, "tesla")
