"""Checks before a language model teaches another: what would make every later number wrong costs a minute here.

Each check raises a `UserError` of one line, or gives the numbers that it found.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Outputs, PyTree, UserError
from jdistill.language.tokenizers import Tokenizer
from jdistill.models.weights import some_names

_WAY_OUT = (
  "losses on logits need one vocabulary: train the student on the teacher's tokeniser, or on texts that the teacher "
  "writes, tokenised anew"
)
Forward = Callable[[PyTree, jax.Array], Outputs]  # of tokens [B, T]


class Preflight(NamedTuple):
  """What the checks found, for a report.

  Attributes:
    tokens: of the probe.
    vocabulary: ids of the tokeniser.
    teacher_padding, student_padding: rows of the models beyond these; their targets should be left out of a softmax.
    perplexity: of the teacher on the probe.
    difference: the greatest between the logits of two forward passes.
    dtype: of the teacher's parameters.
  """

  tokens: int
  vocabulary: int
  teacher_padding: int
  student_padding: int
  perplexity: float
  difference: float
  dtype: str


def preflight(
  teacher: Forward,
  teacher_params: PyTree,
  teacher_tokenizer: Tokenizer,
  student_tokenizer: Tokenizer,
  *,
  teacher_rows: int,
  student_rows: int,
  probe: str,
  context: int,
  worst_perplexity: float | None = None,
) -> Preflight:
  """All checks of a teacher, the cheap ones first.

  Args:
    teacher: its forward pass.
    teacher_params: its parameters.
    teacher_tokenizer, student_tokenizer: of both models.
    teacher_rows, student_rows: sizes of their softmaxes.
    probe: a text such as the student will see.
    context: how many tokens of the probe are looked at, at most.
    worst_perplexity: what the teacher's must be below; `None` for a tenth of the vocabulary.

  Returns:
    `Preflight`.

  Raises:
    UserError: the first check that fails.
  """
  check_same_tokenizer(teacher_tokenizer, student_tokenizer, probe)
  size = teacher_tokenizer.size
  padding = [check_rows(name, rows, size) for name, rows in (("teacher", teacher_rows), ("student", student_rows))]
  if teacher_rows != student_rows:
    raise UserError(
      f"vocabulary: the teacher has {teacher_rows} rows and the student {student_rows}; give the student as many, or "
      f"cut the teacher's logits to the {size} of the tokeniser"
    )
  tokens = teacher_tokenizer.encode(probe)[:context]
  if len(tokens) < 2:
    raise UserError(f"probe: has {len(tokens)} tokens, and at least 2 are needed; give a longer text")
  logits, difference = check_agreement(teacher, teacher_params, tokens)
  found = perplexity(logits, tokens)
  check_perplexity(found, worst_perplexity or size / 10)
  dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(teacher_params)})
  return Preflight(len(tokens), size, *padding, found, difference, ", ".join(dtypes))


def check_same_tokenizer(teacher: Tokenizer, student: Tokenizer, probe: str) -> None:
  """Whether two tokenisers give the same ids: their sizes, special tokens, chat templates, and the ids of a text.

  Raises:
    UserError: they differ, with what differs and the way out.
  """
  if teacher.size != student.size:
    raise UserError(f"tokenizer: {teacher.size} tokens of the teacher, {student.size} of the student: {_WAY_OUT}")
  special = [name for name in {**teacher.special, **student.special} if not _same(teacher, student, name)]
  if special:
    raise UserError(f"tokenizer: special tokens {some_names(special)} are not the same in both: {_WAY_OUT}")
  for role in ("bos", "eos", "pad"):
    ids = getattr(teacher, role), getattr(student, role)
    if ids[0] != ids[1]:
      raise UserError(f"tokenizer: {role} is {ids[0]} for the teacher and {ids[1]} for the student: give both the same")
  own, other = teacher.encode(probe), student.encode(probe)
  if not np.array_equal(own, other):
    same = min(len(own), len(other))
    first = int(np.argmax(np.append(own[:same] != other[:same], True)))
    raise UserError(f"tokenizer: the probe has other ids from token {first} on: {_WAY_OUT}")
  if teacher.chat_template != student.chat_template:
    raise UserError("tokenizer: the chat templates of teacher and student differ: take the teacher's for both")


def _same(teacher: Tokenizer, student: Tokenizer, name: str) -> bool:
  return teacher.special.get(name) == student.special.get(name)


def check_rows(name: str, rows: int, size: int) -> int:
  """How many rows a model has beyond the ids of its tokeniser.

  Raises:
    UserError: it has fewer.
  """
  if rows < size:
    raise UserError(f"vocabulary: the {name} has {rows} rows for {size} tokens; take the tokeniser that belongs to it")
  return rows - size


def check_agreement(forward: Forward, params: PyTree, tokens: np.ndarray) -> tuple[jax.Array, float]:
  """Logits `[T, V]` of a text, and the greatest difference from those of a second pass.

  Args:
    forward: the model.
    params: its parameters.
    tokens: `[T]` ids.

  Raises:
    UserError: they are not finite, or two passes over the same tokens differ, as with dropout.
  """
  run = jax.jit(lambda params, x: forward(params, x).logits)
  x = jnp.asarray(tokens)[None]
  first, second = run(params, x)[0], run(params, x)[0]
  if not bool(jnp.isfinite(first).all()):
    raise UserError("teacher: its logits on the probe are not finite; load it in float32, or another checkpoint")
  difference = float(jnp.abs(first - second).max())
  if difference > 0:
    raise UserError(f"teacher: two passes over the same tokens differ by {difference:.2g}; switch its dropout off")
  return first, difference


def perplexity(logits: jax.Array, tokens: np.ndarray) -> float:
  """`exp` of the mean of `-log softmax(logits[t])[tokens[t + 1]]`.

  Args:
    logits: `[T, V]`.
    tokens: `[T]` ids.
  """
  chosen = jnp.take_along_axis(logits[:-1].astype(jnp.float32), jnp.asarray(tokens)[1:, None], axis=-1)[:, 0]
  return float(jnp.exp(jnp.mean(jax.nn.logsumexp(logits[:-1].astype(jnp.float32), axis=-1) - chosen)))


def check_perplexity(found: float, worst: float) -> None:
  """Whether a teacher knows the text at all.

  Raises:
    UserError: its perplexity is `worst` or more, or not finite.
  """
  if not found < worst:
    raise UserError(
      f"teacher: its perplexity on the probe is {found:.4g}, not below {worst:.4g}: it does not know such text; "
      "check its tokeniser and weights, give text of its language, or allow more (teachers.worst_perplexity in a run)"
    )


def rows_of(found: Preflight) -> Mapping[str, str]:
  """The lines of a report."""
  return {
    "tokens of the probe": f"{found.tokens:,}",
    "vocabulary": f"{found.vocabulary:,}",
    "padded rows": f"teacher {found.teacher_padding:,}, student {found.student_padding:,}",
    "teacher's perplexity": f"{found.perplexity:.2f}",
    "difference of two passes": f"{found.difference:.1g}",
    "precision of the teacher": found.dtype,
  }
