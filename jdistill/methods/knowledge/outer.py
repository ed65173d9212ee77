"""The outer update of a bilevel method: a controller learns from held-out examples through the student's next step."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Outputs, PyTree
from jdistill.bilevel import one_step_hypergradient
from jdistill.losses import masked_mean
from jdistill.methods.knowledge.recipe import Outer


def outer_gradient(
  outer: Outer,
  held_out: Batch,
  loss: Callable[[Mapping[str, PyTree]], tuple[jax.Array, PyTree]],
  params: Mapping[str, PyTree],
  stats: PyTree,
  forward: Callable[[PyTree, PyTree, jax.Array, Key, bool], Outputs],
  key: Key,
  epoch: jax.Array,
) -> tuple[dict[str, jax.Array], PyTree]:
  """The gradient of the held-out loss in the outer role's parameters, through one virtual step of all the others.

  The virtual step is plain SGD at `outer.lr`, whatever the real optimiser is.

  Args:
    outer: the role and its loss.
    held_out: examples that no student trains on.
    loss: the training loss `(parameters by role) -> (scalar, anything)` on the current batch.
    params: all roles' parameters.
    stats: the student's running statistics, used in evaluation mode.
    forward: `(params, stats, x, key, train) -> Outputs` of the student.
    key: draws the held-out batch.
    epoch: what a schedule of `outer.lr` is asked for.

  Returns:
    `({"outer/loss": held-out loss after the virtual step}, gradient)`.

  Raises:
    ValueError: there are no held-out examples.
  """
  if held_out is None or held_out.y.shape[0] == 0:
    raise ValueError(
      f"{outer.role}: no held-out examples to learn from; give StudentInput.held_out, apart from the data"
    )
  count = held_out.y.shape[0]
  rows = jax.random.permutation(key, count)[: min(outer.batch_size, count)]
  batch = jax.tree.map(lambda leaf: leaf[rows], held_out)
  theta = {name: value for name, value in params.items() if name != outer.role}

  def outer_loss(theta: Mapping[str, PyTree]) -> jax.Array:
    return masked_mean(outer.loss(forward(theta["student"], stats, batch.x, key, False), batch.y), None)

  lr = outer.lr(epoch) if callable(outer.lr) else outer.lr
  value, grads = one_step_hypergradient(
    lambda theta, omega: loss({**theta, outer.role: omega})[0],
    outer_loss,
    theta,
    params[outer.role],
    jnp.asarray(lr, jnp.float32),
  )
  return {"outer/loss": value}, grads
