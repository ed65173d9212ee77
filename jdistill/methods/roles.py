"""Named roles: parts of a state that learn with optimisers of their own, each on its own clock."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.base import PyTree


class Role(NamedTuple):
  """One thing that learns: its parameters and its optimiser's state."""

  params: PyTree
  opt_state: PyTree


def side_by_side(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """An optimiser of parameters with a leading axis, each of which it treats as if it were alone."""
  one = optax.with_extra_args_support(optimizer)

  def update(grads: PyTree, state: PyTree, params: PyTree | None = None, **given) -> tuple[PyTree, PyTree]:
    return jax.vmap(lambda *own: one.update(*own, **given))(grads, state, params)

  return optax.GradientTransformationExtraArgs(jax.vmap(one.init), update)


def trainable_mask(params: PyTree, predicate: Callable[[tuple[str, ...]], bool]) -> PyTree:
  """Which leaves of a tree of parameters train, by their names.

  Args:
    params: a tree of parameters.
    predicate: `(names on the way to a leaf) -> bool`.

  Returns:
    The tree with booleans in the place of its leaves.

  Raises:
    ValueError: none of them does; with the names of what there is.
  """
  name = lambda entry: str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))  # noqa: E731
  mask = jax.tree_util.tree_map_with_path(lambda path, leaf: bool(predicate(tuple(map(name, path)))), params)
  if not any(jax.tree.leaves(mask)):
    first = dict.fromkeys(name(path[0]) for path, _ in jax.tree.leaves_with_path(params) if path)
    raise ValueError(f"trainable_mask: selects no parameters; there are {', '.join(first) or 'none'}")
  return mask


def only_where(
  optimizer: optax.GradientTransformation, mask: Callable[[PyTree], PyTree]
) -> optax.GradientTransformationExtraArgs:
  """An optimiser of a part of the parameters; what else there is stays as it is, also under weight decay.

  Norms that are clipped are those of this part, and the state has nothing of the rest.

  Args:
    optimizer: of the part.
    mask: `(parameters) -> booleans`, such as `trainable_mask`.
  """

  def labels(params: PyTree) -> PyTree:
    return jax.tree.map(lambda moves: "moves" if moves else "stays", mask(params))

  return optax.with_extra_args_support(
    optax.multi_transform({"moves": optimizer, "stays": optax.set_to_zero()}, labels)
  )


def init_roles(optimizers: Mapping[str, optax.GradientTransformation], params: Mapping[str, PyTree]) -> dict[str, Role]:
  """Starts every role of `params` with the optimiser of the same name."""
  return {name: Role(value, optimizers[name].init(value)) for name, value in params.items()}


def update_roles(
  optimizers: Mapping[str, optax.GradientTransformation],
  roles: Mapping[str, Role],
  grads: Mapping[str, PyTree],
  update: jax.Array | Mapping[str, jax.Array] = True,
  *,
  epoch: jax.Array | None = None,
  scale: jax.Array | None = None,
) -> dict[str, Role]:
  """One optimiser step for the roles in `grads`; the others stay as they are.

  Args:
    optimizers: by role name.
    roles: the current roles.
    grads: gradients of the roles that may move.
    update: scalar boolean, or one per role: where false, parameters *and* optimiser state stay untouched (a skipped
      step leaves momentum as it was).
    epoch: epochs done, with the fraction of the running one, for optimisers whose rate follows it; others ignore it.
    scale: a factor of all updates, and so of all learning rates; `None` for 1.

  Returns:
    All roles, same tree as `roles`.
  """
  new = dict(roles)
  for name, grad in grads.items():
    role = roles[name]
    updates, opt_state = optax.with_extra_args_support(optimizers[name]).update(
      grad, role.opt_state, role.params, epoch=epoch
    )
    if scale is not None:
      updates = jax.tree.map(lambda leaf: jnp.asarray(scale, leaf.dtype) * leaf, updates)
    moved = Role(optax.apply_updates(role.params, updates), opt_state)
    allowed = jnp.asarray(update[name] if isinstance(update, Mapping) else update)
    new[name] = jax.tree.map(lambda a, b, ok=allowed: jnp.where(ok, a, b), moved, role)
  return new
