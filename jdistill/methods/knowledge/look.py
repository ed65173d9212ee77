"""What a data policy may look at: student and teacher in evaluation mode, a few hundred examples at a time."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Batch, Look, Network, PyTree, Variables
from jdistill.methods.knowledge.forward import STUDENT, deployed, make_forward
from jdistill.methods.knowledge.recipe import Recipe
from jdistill.methods.knowledge.student import StudentState, Targets

_LOOK = 256  # examples that a network looks at together


def look(
  network: Network,
  recipe: Recipe,
  targets: Targets | None = None,
  *,
  precision: str = "float32",
  rebuild: Callable[[Mapping[str, jax.Array]], Recipe] | None = None,
) -> Callable[..., Look]:
  """Builds what makes a `Look` of a student's state.

  Args:
    network, recipe, targets, precision, rebuild: as for `student_method`.

  Returns:
    `(state, data, members, arrays=(), constants=(), options={}, held_out=None) -> Look`, pure and to be called inside
    a program. `data` are all examples, `members` `[n]` int32 positions in them of those that the student may use
    (`None` for all), `arrays` are `TargetSource.arrays`. Positions that a `Look` is asked for count among the members.
  """
  forward = make_forward(network, precision)

  def make(
    state: StudentState,
    data: Batch,
    members: jax.Array | None,
    arrays: PyTree = (),
    constants: PyTree = (),
    options: Mapping[str, jax.Array] = {},
    held_out: Batch | None = None,
  ) -> Look:
    current = recipe if rebuild is None else rebuild(options)
    names = (STUDENT, *current.keeps)
    variables = {name: Variables(state.roles[name].params, state.stats[name]) for name in names}
    predict = deployed(forward, current, variables, constants)

    def on(data: Batch, members: jax.Array | None) -> Look:
      def examples(positions: jax.Array) -> Batch:
        rows = positions if members is None else members[positions]
        return jax.tree.map(lambda leaf: leaf[rows], data)

      def one(position: jax.Array) -> Batch:
        return examples(position[None])

      def taught(batch: Batch) -> jax.Array:
        if targets is None:
          raise ValueError("this data policy asks a teacher, and the method has none; use one that has, such as 'fkl'")
        return targets(arrays, jax.random.key(0), batch, None, jnp.zeros((), jnp.int32))[0].logits

      def student_logits(positions: jax.Array) -> jax.Array:
        return lax.map(lambda p: predict(one(p).x)[0], positions, batch_size=_LOOK)

      def teacher_logits(positions: jax.Array) -> jax.Array:
        return lax.map(lambda p: taught(one(p))[0], positions, batch_size=_LOOK)

      size = len(data.ids) if members is None else len(members)
      return Look(examples, student_logits, teacher_logits, constants, state.memory, size=size)

    others = None if held_out is None else on(held_out, None)
    return on(data, members)._replace(held_out=others)

  return make
