"""Optimisers and schedules by name, as published recipes state them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jdistill.base import PyTree

OPTIMIZERS = ("sgd", "adam", "adamw", "lamb")
SCHEDULES = ("constant", "cosine", "step", "linear", "poly")


def schedule(
  kind: str,
  lr: float,
  *,
  epochs: int,
  steps_per_epoch: int = 1,
  warmup_epochs: float = 0.0,
  milestones: Sequence[float] = (),
  factor: float = 0.1,
  final_lr: float = 0.0,
  power: float = 0.9,
) -> Callable[[jax.Array], jax.Array]:
  """The learning rate as a function of the step.

  Args:
    kind: `"constant"`; `"cosine"` and `"linear"` from `lr` to `final_lr`; `"poly"`,
      `lr (1 - step / steps) ^ power`; `"step"`, times `factor` at every milestone.
    lr: the rate after the warm-up.
    epochs: of the whole training.
    steps_per_epoch: how many steps an epoch has.
    warmup_epochs: the rate grows linearly from 0 over these, and the schedule takes the rest.
    milestones: for `"step"`, epochs from the start of training, above 0.
    factor, final_lr, power: see `kind`.

  Returns:
    `(step) -> scalar float32`.

  Raises:
    ValueError: an unknown kind.
  """
  warm = round(warmup_epochs * steps_per_epoch)
  rest = max(epochs * steps_per_epoch - warm, 1)
  if kind == "constant":
    main = optax.constant_schedule(lr)
  elif kind == "cosine":
    main = optax.cosine_decay_schedule(lr, rest, alpha=final_lr / lr)
  elif kind == "linear":
    main = optax.linear_schedule(lr, final_lr, rest)
  elif kind == "poly":
    main = optax.polynomial_schedule(lr, final_lr, power, rest)
  elif kind == "step":
    # `join_schedules` restarts the count after the warm-up
    main = optax.piecewise_constant_schedule(lr, {round(m * steps_per_epoch) - warm: factor for m in milestones})
  else:
    raise ValueError(f"schedule {kind!r}: unknown; choose one of {', '.join(SCHEDULES)}")
  whole = optax.join_schedules([optax.linear_schedule(0.0, lr, warm), main], [warm]) if warm else main
  return _lenient(lambda step: jnp.asarray(whole(step), jnp.float32))


def decays(params: PyTree) -> PyTree:
  """Which parameters weight decay applies to when biases and norms are spared: those with two axes or more."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
  kind: str,
  lr: Callable[[jax.Array], jax.Array] | float,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  decay_all: bool = True,
  clip: float | None = None,
  b2: float = 0.999,
) -> optax.GradientTransformation:
  """An optimiser by name.

  Args:
    kind: `"sgd"` and `"adam"`, whose decay is added to the gradient (as in PyTorch); `"adamw"` and `"lamb"`, whose
      decay is apart from it.
    lr: a number or a schedule of the step.
    momentum: of SGD (no dampening); the others' first moment decays with 0.9.
    nesterov: Nesterov's form of SGD.
    weight_decay: its coefficient.
    decay_all: false spares biases and norms (`decays`).
    clip: greatest global norm of the gradient, before anything else; `None` for none.
    b2: decay of the second moment.

  Returns:
    The optax transformation.

  Raises:
    ValueError: an unknown kind.
  """
  mask = None if decay_all else decays
  chain = [] if clip is None else [optax.clip_by_global_norm(clip)]
  if kind in ("sgd", "adam") and weight_decay:
    chain.append(optax.add_decayed_weights(weight_decay, mask))
  if kind == "sgd":
    chain.append(optax.sgd(lr, momentum=momentum or None, nesterov=nesterov))
  elif kind == "adam":
    chain.append(optax.adam(lr, b2=b2))
  elif kind == "adamw":
    chain.append(optax.adamw(lr, b2=b2, weight_decay=weight_decay, mask=mask))
  elif kind == "lamb":
    chain.append(optax.lamb(lr, b2=b2, weight_decay=weight_decay, mask=mask))
  else:
    raise ValueError(f"optimizer {kind!r}: unknown; choose one of {', '.join(OPTIMIZERS)}")
  whole = optax.chain(*chain) if len(chain) > 1 else chain[0]
  return optax.GradientTransformation(whole.init, _lenient(whole.update))


def _lenient(function: Callable) -> Callable:
  """optax adds Python numbers to step counters, which JAX's strict dtype promotion refuses."""

  def call(*args: PyTree) -> PyTree:
    with jax.numpy_dtype_promotion("standard"):
      return function(*args)

  return call
