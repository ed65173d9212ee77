"""Which maps of a network a feature loss compares: taps by name, in pairs of student and teacher."""

from typing import NamedTuple

import jax

from jdistill.base import Outputs, UserError

EMBEDDING = "embedding"


class Pair(NamedTuple):
  """One place of the student and the place of the teacher it is compared with.

  Attributes:
    name: of the student's tap.
    student, teacher: the values there.
  """

  name: str
  student: jax.Array
  teacher: jax.Array


def read_tap(outputs: Outputs, name: str, who: str = "student") -> jax.Array:
  """The value at a tap, or the embedding for the name `"embedding"`.

  Args:
    outputs: of one network.
    name: `"block0"`, ..., as the network calls its taps.
    who: whose outputs these are, for the message.

  Raises:
    UserError: there is no such tap; those that there are are listed.
  """
  if name == EMBEDDING:
    return outputs.embedding
  if name not in outputs.taps:
    raise UserError(f"tap={name!r}: the {who} has no such tap{_available(outputs, who)}")
  return outputs.taps[name]


def tap_pairs(student: Outputs, teacher: Outputs, taps: str) -> tuple[Pair, ...]:
  """The pairs that a text names, in its order.

  Args:
    student, teacher: outputs of both.
    taps: `"stages"` for all taps but the first (in most networks the stem), `"all"` for all taps, each with the
      teacher's tap of the same position; or names separated by commas or blanks, each `"block1"`, or `"block1:block2"`
      where the student's `block1` goes with the teacher's `block2`.

  Raises:
    UserError: no such tap, no tap at all, or networks with different numbers of taps that are not paired by name.
  """
  if taps in ("all", "stages"):
    names = list(zip(list(student.taps), list(teacher.taps), strict=False))[1 if taps == "stages" else 0 :]
    if len(student.taps) != len(teacher.taps):
      raise UserError(
        f"taps={taps!r}: the student has {len(student.taps)} and the teacher {len(teacher.taps)}; name pairs, such as "
        f"'block1:block2'{_available(student, 'student')}{_available(teacher, 'teacher')}"
      )
  else:
    names = [(one, other or one) for one, _, other in (word.partition(":") for word in taps.replace(",", " ").split())]
  if not names:
    raise UserError(f"taps={taps!r}: names no tap{_available(student, 'student')}")
  return tuple(Pair(s, read_tap(student, s), read_tap(teacher, t, "teacher")) for s, t in names)


def _available(outputs: Outputs, who: str) -> str:
  names = ", ".join((*outputs.taps, EMBEDDING))
  hint = "" if outputs.taps else " (stored targets have no maps; targets.source='online' has them)"
  return f"; available of the {who}: {names}{hint}"
