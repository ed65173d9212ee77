"""How a recipe begins whose update is its own, and what it sees."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Metrics, Network, PyTree, UserError, Variables
from jdistill.methods.knowledge.forward import STUDENT
from jdistill.methods.knowledge.recipe import Own
from jdistill.ops.ascent import global_norm

Teachers = tuple[tuple[Network, Variables], ...]


def begin(
  own: Own, key: Key, network: Network, student: Variables, teachers: Teachers, *, begun: bool
) -> tuple[Variables, dict[str, PyTree], PyTree]:
  """The student at first, the parameters of all roles, and what is remembered.

  Args:
    own: of the recipe.
    key: of the other roles.
    network, student: the student, newly drawn or from the phase before.
    teachers: frozen networks.
    begun: whether there was a phase before, from which the student goes on whatever `own.start` says.

  Raises:
    UserError: a student that is to begin as its teacher, of another network.
  """
  if own.start == "teacher" and not begun:
    student = _as_first(student, teachers)
  if STUDENT in own.stacked and not (begun and _is_stacked(network, student)):
    student = _copies(student, own.stacked[STUDENT])
  roles = own.init(key, network, teachers)
  roles = {name: _copies(one, own.stacked[name]) if name in own.stacked else one for name, one in roles.items()}
  params = {STUDENT: student.params, **roles}
  return student, params, own.memory(params, teachers)


def check_own(own: Own | None, precision: str, *, sharp: bool) -> None:
  """Refuses what an update of its own would not look at; `None` for a recipe of terms.

  Raises:
    ValueError: another precision than float32, or sharpness-aware gradients.
  """
  if own is not None and precision != "float32":
    raise ValueError(
      f"precision={precision!r}: the method's update is its own and computes in the types of its networks; set it to "
      "'float32', and dtype of a network that has one"
    )
  if own is not None and sharp:
    raise ValueError("rho: the method's update is its own and takes no sharpness-aware gradient; set it to 0")


def _copies(tree: PyTree, count: int) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)


def _is_stacked(network: Network, student: Variables) -> bool:
  """Whether there are several students already, from the phase before."""
  one, first = jax.eval_shape(network.init, jax.random.key(0)).params, student.params
  return jax.tree.leaves(first)[0].ndim > jax.tree.leaves(one)[0].ndim


def _as_first(student: Variables, teachers: Teachers) -> Variables:
  first = Variables(*teachers[0][1])
  if jax.tree.map(jnp.shape, student) != jax.tree.map(jnp.shape, first):
    raise UserError(
      "method.student_start='teacher': the student's network is another one than the teacher's; choose 'random', or a "
      "start_method such as 'tsm'"
    )
  return first


def pairs(networks: Sequence[Network], variables: Sequence[Variables]) -> Teachers:
  """Frozen networks with their variables; none where targets are stored."""
  return tuple((one, Variables(*own)) for one, own in zip(networks, variables, strict=False))


def present(batch: Batch) -> jax.Array:
  """`[B]` bool, false for padding."""
  return jnp.ones(batch.ids.shape, bool) if batch.weight is None else batch.weight > 0


def role_metrics(grads: Mapping[str, PyTree], moves: Mapping[str, jax.Array | bool]) -> Metrics:
  """The norm of every role's gradient, `method/norm_ROLE`, and of roles with a clock whether they moved."""
  norms = {f"method/norm_{name}": global_norm(grad) for name, grad in grads.items()}
  return norms | {f"method/moves_{name}": jnp.asarray(moved, jnp.float32) for name, moved in moves.items()}
