"""FTD: trajectories of GSAM and the average of the images, against the paper's recursions in NumPy."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import numpy_trajectory as reference
import pytest
from trajectory_problem import KEY, apply, build, params, problem, reference_gradient

from jdistill import catalog, stages
from jdistill.base import Batch, Network, Variables
from jdistill.data import policies
from jdistill.methods.knowledge import StudentInput, logits, student_method
from jdistill.methods.knowledge.student import Sharpness
from jdistill.methods.optimizers import make_optimizer

FEATURES, LR = 9, 0.1


def flat_step(theta, x, probabilities, rho, alpha):
  """One step of adaptive GSAM: the perturbed gradient without a part of what is orthogonal to it in the plain one."""
  every = np.ones(len(x), bool)
  plain = reference.inner_gradient(theta, x, probabilities, every)
  perturbed = theta + rho / (np.linalg.norm(np.abs(theta) * plain) + 1e-12) * theta**2 * plain
  sharp = reference.inner_gradient(perturbed, x, probabilities, every)
  unit = sharp / (np.linalg.norm(sharp) + 1e-12)
  cosine = plain @ sharp / (np.linalg.norm(plain) * np.linalg.norm(sharp) + 1e-12)
  orthogonal = plain - cosine * np.linalg.norm(plain) * unit
  return theta - LR * (sharp - alpha * orthogonal)


def test_an_expert_of_gsam_equals_numpy(x64):
  """Six steps of a teacher as the stage `teachers` trains it, on the data in the order of its policy."""
  rng = np.random.default_rng(3)
  x, y = rng.normal(size=(6, 3, 3, 1)), np.arange(6) % 3
  theta = rng.normal(size=FEATURES * 3 + 9)
  network = Network(lambda key: Variables(jnp.asarray(theta)), apply)
  method = student_method(
    network, logits.ce(), optimizer=make_optimizer("sgd", LR, momentum=0.0), sharpness=Sharpness(0.3, 0.3, True)
  )
  policy = policies.shuffle(6, 3)
  block, _ = policy.next(KEY, policy.init(KEY), jnp.int32(0), None)
  step, state, want = jax.jit(method.step), None, theta
  for number in range(6):
    rows = np.asarray(block.index[number % 2])
    batch = Batch(jnp.asarray(x[rows]), jnp.asarray(y[rows], jnp.int32), jnp.asarray(rows, jnp.int32))
    given = StudentInput(batch, jnp.int32(number), jnp.float32(0))
    state = method.init(KEY, given) if state is None else state
    state, _ = step(KEY, state, given)
    want = flat_step(want, x[rows], np.eye(3)[y[rows]], 0.3, 0.3)
  # students are trained in float32
  np.testing.assert_allclose(state.roles["student"].params, want, rtol=1e-5, atol=1e-6)
  plain = theta.copy()
  for number in range(6):
    rows = np.asarray(block.index[number % 2])
    plain -= LR * reference.inner_gradient(plain, x[rows], np.eye(3)[y[rows]], np.ones(3, bool))
  assert np.abs(plain - want).max() > 1e-3  # so that a perturbation that is left out would be seen


def test_the_result_is_the_average_of_images_that_move_by_the_plain_gradient(x64):
  images, labels, _, start, target = parts = problem(hard=True)
  method, state, segment = build(parts, learn_labels=False, ema_decay=0.75)
  step = jax.jit(method.step)
  want, average = images.copy(), images.copy()
  for number in range(3):
    key = jax.random.fold_in(KEY, number)
    before = params(state)
    state, _ = step(key, state, segment)
    _, grads = reference_gradient({"images": want}, {"labels": labels, "lr": before["lr"]}, start, target, key)
    want = want - grads["images"]
    average = 0.75 * average + 0.25 * want
  np.testing.assert_allclose(params(state)["images"], want, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(method.result(state).images, average, rtol=1e-6, atol=1e-8)
  assert np.abs(average - want).max() > 1e-2


@pytest.mark.parametrize(
  ("preset", "row"),
  [
    ("cifar10_ipc1", (50, 2, 2, 100.0, None, 1e-7, 0.01, 0.9999, 0.3)),
    ("cifar10_ipc10", (30, 2, 20, 100.0, None, 1e-5, 0.001, 0.9995, 0.3)),
    ("cifar10_ipc50", (30, 2, 40, 1000.0, None, 1e-5, 0.01, 0.999, 1.0)),
    ("cifar100_ipc50", (80, 2, 40, 1000.0, 1000, 1e-5, 0.01, 0.999, 0.3)),
    ("tiny_imagenet_ipc10", (20, 2, 40, 10000.0, 500, 1e-4, 0.01, 0.999, 0.3)),
  ],
)
def test_the_experiment_has_the_published_settings(preset, row):
  c = stages.resolve(importlib.import_module("experiments.ftd").get_config(preset))
  names = ("inner_steps", "expert_epochs", "max_start_epoch", "image_lr", "batch_size", "lr_lr", "lr_init", "ema_decay")
  assert (*(c["method"][name] for name in names), c["teacher_train"]["alpha"]) == row
  assert (c["steps"], c["teacher_train"]["epochs"], c["teacher_train"]["rho"]) == (5000, 50, 0.01)
  assert (c["teacher_train"]["adaptive"], c["teacher_method"]["name"], c["preprocessing"]) == (True, "ce", "zca")


def test_its_row_is_mtt_with_an_average():
  ftd, mtt = (catalog.row(name).fields() for name in ("ftd", "mtt"))
  assert {name for name in ftd if ftd[name].default != mtt[name].default} == {"ema_decay"}
