"""Kernel inducing points: a set on which kernel ridge regression predicts the labels of real images."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Method, Metrics, UserError
from jdistill.methods.dataset.regression import (
  CURE,
  check_learns,
  check_real,
  gradient_norms,
  learned_set,
  share_correct,
  start_of,
)
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.ops import centred_one_hot, krr_predict, krr_solve, linear_kernel, nngp_kernel, ntk_kernel, rbf_kernel
from jdistill.schema import NonNegative, Positive, Size, validated
from jdistill.synthetic import SyntheticSet

Kernel = Callable[[jax.Array, jax.Array], jax.Array]  # ([n, features], [m, features]) -> [n, m]


class KIPState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images` and, where they are learned by gradient, `labels`.
    labels: `[m, classes]` where they are fixed or solved for, else `None`.
    accuracy: of the kernel on the real images of the last step.
    lr: of the initial set; not learned.
  """

  roles: dict[str, Role]
  labels: jax.Array | None
  accuracy: jax.Array
  lr: jax.Array


def kernel_by_name(
  name: str, *, depth: int = 2, weight_var: float = 2.0, bias_var: float = 0.01, gamma: float | None = None
) -> Kernel:
  """`"ntk"` and `"nngp"` of ReLU networks, `"rbf"` or `"linear"`, as functions of two matrices of flat images.

  Args:
    name: of the kernel.
    depth, weight_var, bias_var: of `jdistill.ops.ntk_kernel` and `nngp_kernel`.
    gamma: of `jdistill.ops.rbf_kernel`.
  """
  deep = {"ntk": ntk_kernel, "nngp": nngp_kernel}
  if name in deep:
    return lambda x, z: deep[name](x, z, depth=depth, weight_var=weight_var, bias_var=bias_var)
  return linear_kernel if name == "linear" else lambda x, z: rbf_kernel(x, z, gamma=gamma)


def solved_labels(k_ts: jax.Array, k_ss: jax.Array, targets: jax.Array, ridge: float) -> jax.Array:
  """The labels of a set with which it predicts best: `argmin_y |A y - targets|^2`, `A = K_ts (K_ss + lambda I)^-1`.

  Args:
    k_ts: `[b, m]`, kernel between real images and the set.
    k_ss: `[m, m]`, of the set with itself.
    targets: `[b, classes]` labels of the real images.
    ridge: `lambda` is `ridge tr(K_ss) / m`.

  Returns:
    `[m, classes]`; of the shortest ones where there are many (pseudo-inverse).
  """
  predictor = krr_solve(k_ss, k_ts.T, ridge, rule="trace_mean").T  # K_ss is symmetric
  return jnp.linalg.lstsq(predictor, targets)[0]


@validated("method")
def kip(
  initial: SyntheticSet,
  *,
  kernel: Literal["ntk", "nngp", "rbf", "linear"] = "ntk",
  depth: Size = 2,
  weight_var: Positive = 2.0,
  bias_var: NonNegative = 0.01,
  gamma: Positive | None = None,
  ridge: Positive = 1e-6,
  reduction: Literal["sum", "mean"] = "sum",
  image_lr: NonNegative = 0.04,
  label_lr: NonNegative = 0.04,
  label_solve: bool = False,
) -> Method:
  """Builds kernel inducing points (KIP).

  One step predicts the labels of some real images `x_t` from the set by kernel ridge regression and moves the set, by
  Adam, along the gradient of

      1/2 |y_t - K_ts (K_ss + ridge tr(K_ss) / m I)^-1 y_s|^2,    y_t = one_hot(class) - 1/C

  No network is trained. The kernels are those of fully connected networks and of the images' distances; the
  convolutional ones of arXiv 2107.13034 are not here.

  Args:
    initial: the starting set; integer labels become centred one-hot vectors.
    kernel: neural tangent kernel, covariance (NNGP) of infinitely wide ReLU networks, Gaussian, or linear.
    depth, weight_var, bias_var: hidden layers of these networks, variance of weights times inputs, and of biases. (The
      defaults of the variances are unverified.)
    gamma: of the Gaussian kernel, `exp(-gamma |x - z|^2)`; `None` for one over the number of pixels.
    ridge: relative to the mean of the diagonal of `K_ss`.
    reduction: the squared error is the paper's `"sum"` over real images and classes, or the `"mean"` of the released
      code. To Adam it is the same but for its epsilon.
    image_lr, label_lr: of Adam; 0 leaves images or labels as they are. (The default 0.04 is unverified.)
    label_solve: set the labels in every step to those with which the set predicts this step's real images best
      (`solved_labels`), instead of learning them. The gradient in the images is the same as through the solution.

  Returns:
    A `Method` whose stream is made of `Batch`es of real images (`jdistill.methods.dataset.batches.random_batches`) and
    whose result is a `SyntheticSet` with regression targets as labels and the initial rate. Its figure
    `kernel_accuracy` is the share of the last step's real images that the kernel classifies correctly.

  Raises:
    UserError: nothing is learned; in `init`, fewer real images in a step than the set has under `label_solve`.
    ValueError: at trace time, a stream of other images.

  References:
    Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression" (arXiv 2011.00050), alg. 1; Nguyen,
    Novak, Xiao and Lee, "Dataset Distillation with Infinitely Wide Convolutional Networks" (arXiv 2107.13034).
  """
  if not label_solve:
    check_learns("kip", image_lr=image_lr, label_lr=label_lr)
  compare = kernel_by_name(kernel, depth=depth, weight_var=weight_var, bias_var=bias_var, gamma=gamma)
  learns_labels = label_lr > 0 and not label_solve
  optimizers = {"images": make_optimizer("adam", image_lr), "labels": make_optimizer("adam", label_lr)}
  size, image_shape = initial.images.shape[0], initial.images.shape[1:]

  def init(key: Key, example: Batch) -> KIPState:
    del key
    if label_solve and example.x.shape[0] < size:
      raise UserError(
        f"method.batch_real: {example.x.shape[0]} real images in a step do not determine the labels of {size}; give "
        "more of them, or set method.label_solve=False"
      )
    learned, fixed = start_of(initial, learn_labels=learns_labels)
    accuracy, lr = jnp.zeros((), jnp.float32), jnp.array(initial.lr, copy=True)
    return KIPState(init_roles(optimizers, learned), fixed, accuracy, lr)

  def step(key: Key, state: KIPState, batch: Batch) -> tuple[KIPState, Metrics]:
    del key
    check_real("kip", batch, image_shape)
    real, fixed = batch.x.reshape(batch.x.shape[0], -1), state.labels

    def loss(learned: dict[str, jax.Array]):
      rows = learned["images"].reshape(size, -1)
      labels = learned["labels"] if learns_labels else fixed
      k_ts, k_ss = compare(real, rows), compare(rows, rows)
      targets = centred_one_hot(batch.y, labels.shape[1]).astype(rows.dtype)
      if label_solve:
        # where the labels are optimal the loss does not change with them
        labels = solved_labels(*jax.lax.stop_gradient((k_ts, k_ss)), targets, ridge)
      predictions = krr_predict(k_ts, k_ss, labels, ridge, rule="trace_mean")
      error = jnp.square(predictions - targets)
      value = 0.5 * (jnp.sum(error) if reduction == "sum" else jnp.mean(error))
      return value, (labels, share_correct(predictions, batch.y))

    learned = {name: role.params for name, role in state.roles.items()}
    (value, (labels, accuracy)), grads = jax.value_and_grad(loss, has_aux=True)(learned)
    roles = update_roles(optimizers, state.roles, grads)
    metrics = {"krr/loss": value, "krr/accuracy": accuracy}
    return KIPState(roles, None if learns_labels else labels, accuracy, state.lr), metrics | gradient_norms(grads)

  return Method(init, step, learned_set, lambda state, steps: {"kernel_accuracy": state.accuracy}, cure=CURE)
