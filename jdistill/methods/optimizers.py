"""Optimisers and schedules by name, as published recipes state them.

Learning rates are functions of the epoch and not of a count of steps: whatever a data policy leaves out, a schedule
ends with the training.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.base import PyTree

OPTIMIZERS = ("sgd", "adam", "adamw", "lamb")
SCHEDULES = ("constant", "cosine", "step", "linear", "poly")
Schedule = Callable[[jax.Array], jax.Array]


def schedule(
  kind: str,
  lr: float,
  *,
  epochs: float,
  warmup_epochs: float = 0.0,
  milestones: Sequence[float] = (),
  factor: float = 0.1,
  final_lr: float = 0.0,
  power: float = 0.9,
  eta: float = 1.0,
) -> Schedule:
  """The learning rate as a function of the epoch.

  Args:
    kind: `"constant"`; `"cosine"` and `"linear"` from `lr` to `final_lr`; `"poly"`,
      `lr (1 - epoch / epochs) ^ power`; `"step"`, times `factor` at every milestone.
    lr: the rate after the warm-up; a number or a scalar array.
    epochs: of the whole training.
    warmup_epochs: the rate grows linearly from 0 over these, and the schedule takes the rest.
    milestones: for `"step"`, epochs from the start of training, above 0.
    factor, final_lr, power: see `kind`.
    eta: for `"cosine"`, into how many times `epochs` the half cosine is stretched; with 2 it ends half-way between both
      rates (the smoothed schedule of RDED and CV-DD).

  Returns:
    `(epochs done, with the fraction of the running one) -> scalar float32`.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in SCHEDULES:
    raise ValueError(f"schedule {kind!r}: unknown; choose one of {', '.join(SCHEDULES)}")
  rest = max(epochs - warmup_epochs, 1e-6)

  def rate(epoch: jax.Array) -> jax.Array:
    epoch = jnp.asarray(epoch, jnp.float32)
    done = jnp.clip((epoch - warmup_epochs) / rest, 0, 1)
    full = jnp.asarray(lr, jnp.float32)
    if kind == "cosine":
      main = final_lr + (full - final_lr) * (1 + jnp.cos(jnp.pi * done / eta)) / 2
    elif kind == "linear":
      main = full + (final_lr - full) * done
    elif kind == "poly":
      main = full * (1 - done) ** power
    elif kind == "step":
      main = full * factor ** _passed(milestones, epoch).astype(jnp.float32)
    else:
      main = full
    return jnp.where(epoch < warmup_epochs, full * epoch / warmup_epochs, main) if warmup_epochs else main

  return rate


def _passed(milestones: Sequence[float], epoch: jax.Array) -> jax.Array:
  """How many milestones are reached."""
  return sum((epoch >= one).astype(jnp.int32) for one in milestones) + jnp.zeros((), jnp.int32)


def decays(params: PyTree) -> PyTree:
  """Which parameters weight decay applies to when biases and norms are spared: those with two axes or more."""
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
  kind: str,
  lr: Schedule | float,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  decay_all: bool = True,
  clip: float | None = None,
  b2: float = 0.999,
  eps_root: float = 0.0,
  restart: Sequence[float] = (),
) -> optax.GradientTransformationExtraArgs:
  """An optimiser by name, whose `update(grads, state, params, epoch=...)` is told the epoch.

  Args:
    kind: `"sgd"` and `"adam"`, whose decay is added to the gradient (as in PyTorch); `"adamw"` and `"lamb"`, whose
      decay is apart from it.
    lr: a number, or a schedule of the epoch.
    momentum: of SGD (no dampening); the others' first moment decays with 0.9.
    nesterov: Nesterov's form of SGD.
    weight_decay: its coefficient.
    decay_all: false spares biases and norms (`decays`).
    clip: greatest global norm of the gradient, before anything else; `None` for none.
    b2: decay of the second moment.
    eps_root: added below Adam's square root, whose slope is infinite at 0: for updates that are differentiated.
    restart: epochs at which the optimiser starts again from empty moments, with the first update that reaches them.

  Returns:
    The optax transformation. Its `update` needs `epoch` if `lr` is a schedule or there are restarts.

  Raises:
    ValueError: an unknown kind; in `update`, a missing epoch.
  """
  mask = None if decay_all else decays
  chain = [] if clip is None else [optax.clip_by_global_norm(clip)]
  decay = [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []
  if kind == "sgd":
    chain += decay + ([optax.trace(momentum, nesterov=nesterov)] if momentum else [])
  elif kind == "adam":
    chain += [*decay, optax.scale_by_adam(b2=b2, eps_root=eps_root)]
  elif kind == "adamw":
    chain += [optax.scale_by_adam(b2=b2, eps_root=eps_root), *decay]
  elif kind == "lamb":
    chain += [optax.scale_by_adam(b2=b2, eps=1e-6), *decay, optax.scale_by_trust_ratio()]
  else:
    raise ValueError(f"optimizer {kind!r}: unknown; choose one of {', '.join(OPTIMIZERS)}")
  return _by_epoch(optax.chain(*chain) if chain else optax.identity(), lr, tuple(restart))


class Restarted(NamedTuple):
  """The state of an optimiser that starts again at some epochs.

  Attributes:
    inner: of the optimiser; all its arrays start at zero.
    passed: how many restarts there were, int32.
  """

  inner: PyTree
  passed: jax.Array


def _by_epoch(
  direction: optax.GradientTransformation, lr: Schedule | float, restart: tuple[float, ...]
) -> optax.GradientTransformationExtraArgs:
  """Scales what `direction` gives by `-lr(epoch)`, and empties its state at the restarts."""

  def init(params: PyTree) -> PyTree:
    inner = direction.init(params)
    return Restarted(inner, jnp.zeros((), jnp.int32)) if restart else inner

  def update(grads: PyTree, state: PyTree, params: PyTree = None, *, epoch: jax.Array | None = None, **_):
    if epoch is None and (callable(lr) or restart):
      raise ValueError("epoch: missing; a schedule and a restart need update(..., epoch=epochs done)")
    rate = lr(epoch) if callable(lr) else lr
    inner = state
    if restart:
      passed = _passed(restart, jnp.asarray(epoch, jnp.float32))
      inner = jax.tree.map(lambda leaf: jnp.where(passed > state.passed, jnp.zeros_like(leaf), leaf), state.inner)
    # optax adds Python numbers to step counters, which JAX's strict dtype promotion refuses
    with jax.numpy_dtype_promotion("standard"):
      updates, inner = direction.update(grads, inner, params)
    updates = jax.tree.map(lambda leaf: -jnp.asarray(rate, leaf.dtype) * leaf, updates)
    return updates, Restarted(inner, passed) if restart else inner

  return optax.GradientTransformationExtraArgs(init, update)
