"""What is known about examples when some of them are chosen, and what a choice is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError


class Evidence(NamedTuple):
  """What is known about `n` examples. Everything beside the labels is optional; each selector says what it needs.

  Attributes:
    labels: `[n]` integer labels, at least 0.
    features: `[n, ...]`, flattened: what enters the last layer of a network, or any other points. With logits
      `[runs, n, C]` it may be `[runs, n, d]`.
    logits: `[n, C]`, or `[runs, n, C]` of several networks.
    history: `[checks, n]` bool, whether an example was classified correctly each time that it was looked at.
    validation: the evidence about other examples, for `glister`.
    teacher_losses, reference_losses: `[2, n]`: the summed nats of each example under a language model, and its tokens
      that count.
    origins: `[2, n]` integers, of responses of teachers: which question each answers, and which teacher wrote it.
    responses: `[T, n]` integer ids of their tokens, -1 where there is none.
    own_scores: `[1, n]`, the score of the teacher itself that wrote each.
    smoke: `[runs, n]`, the score of students that learned a few responses of that teacher.
    passes: `[G, n]` in [0, 1], whether roll-outs of a student answer its question.
  """

  labels: np.ndarray
  features: np.ndarray | None = None
  logits: np.ndarray | None = None
  history: np.ndarray | None = None
  validation: "Evidence | None" = None
  teacher_losses: np.ndarray | None = None
  reference_losses: np.ndarray | None = None
  origins: np.ndarray | None = None
  responses: np.ndarray | None = None
  own_scores: np.ndarray | None = None
  smoke: np.ndarray | None = None
  passes: np.ndarray | None = None


class Choice(NamedTuple):
  """Some of `n` examples.

  Attributes:
    index: `[k]` positions, none twice, class by class where classes are balanced, and in the order of their choice.
    weight: `[k]` float32, how much each counts in training, or `None` where all count the same.
    value: `[k]`, by what each was chosen (its score, its marginal gain), or `None`.
    notes: what a user should know of the choice, as numbers by what they count (`"vectors of length 0"`); those of all
      classes are added up.
  """

  index: np.ndarray
  weight: np.ndarray | None = None
  value: np.ndarray | None = None
  notes: Mapping[str, int] = {}


class Selector(NamedTuple):
  """A rule of selection.

  Attributes:
    choose: `(rng, evidence, count, *, options) -> Choice` of `count` examples among those of `evidence`, as `checked`
      returns it; they are one class where classes are balanced. Its keyword-only arguments are its options
      (`jdistill.schema.fields`).
    needs: the fields of `Evidence` that it reads beside the labels.
    rule: what it keeps, for tables.
    cost: of a choice of `k` among `n`, for tables.
    check: `(whose, size, count, options) -> None` raises a `UserError` where `count` of `size` examples cannot be
      chosen with these options; asked before there is any evidence. `whose` they are is for messages: `"class 3"`.
  """

  choose: Callable[..., Choice]
  needs: tuple[str, ...] = ()
  rule: str = ""
  cost: str = ""
  check: Callable[[str, int, int, Mapping[str, Any]], None] = lambda whose, size, count, options: None


def checked(evidence: Evidence, needs: tuple[str, ...], name: str, where: str = "evidence") -> Evidence:
  """What a selector reads, as arrays of one form, once it is known to serve.

  Args:
    evidence: arrays of any kind.
    needs: the fields that are read beside the labels.
    name: of the selector, for messages.
    where: in front of a field, in messages.

  Returns:
    Evidence with features `[1 or runs, n, d]`, logits `[runs, n, C]` and history `[checks, n]`, as far as needed.

  Raises:
    UserError: labels that are no integers from 0, a field that is needed and missing, another number of examples, or
      numbers that are not finite.
  """
  labels = np.asarray(evidence.labels)
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
    raise UserError(f"{where}.labels: {labels.dtype} of shape {labels.shape}; give one integer from 0 per example")
  found, size = {"labels": labels}, len(labels)
  for field in needs:
    value = getattr(evidence, field)
    if value is None:
      raise UserError(f"{where}.{field}: missing, and the selector {name} needs it; give {field}")
    if field == "validation":
      own = tuple(need for need in needs if need != "validation")
      found[field] = checked(value, own, name, f"{where}.validation")
      continue
    value, runs = np.asarray(value), np.shape(evidence.logits)[:-1]
    if field == "features" and not (value.ndim == 3 and value.shape[:2] == runs):
      value = value.reshape(1, len(value), -1) if value.ndim > 1 and len(value) else value
    if field == "logits" and value.ndim == 2:
      value = value[None]
    if value.ndim != _AXES.get(field, 2) or value.shape[1] != size:
      raise UserError(
        f"{where}.{field}: shape {np.shape(getattr(evidence, field))} for {size} examples; {_FORMS[field]}"
      )
    if field == "logits" and labels.max(initial=0) >= value.shape[2]:
      raise UserError(f"{where}.labels: {labels.max()}, but logits have {value.shape[2]} classes; give logits of all")
    _check_finite(f"{where}.{field}", value)
    found[field] = value
  return Evidence(**found)


_AXES = {"features": 3, "logits": 3}  # others have 2
_FORMS = {
  "features": "give [n, ...]",
  "logits": "give [n, C] or [runs, n, C]",
  "history": "give [checks, n]",
  "teacher_losses": "give [2, n]",
  "reference_losses": "give [2, n]",
  "origins": "give [2, n]",
  "responses": "give [T, n]",
  "own_scores": "give [1, n]",
  "smoke": "give [runs, n]",
  "passes": "give [G, n]",
}


def _check_finite(key: str, value: np.ndarray) -> None:
  """Refuses NaN and infinities; one sum sees them all."""
  if value.dtype.kind == "f" and not np.isfinite(np.sum(value, dtype=np.float64)):
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
      raise UserError(f"{key}: {value[tuple(bad[0])]} for example {bad[0][1]}; mend what computes it, or leave it out")


def part(evidence: Evidence, own: np.ndarray, validation: np.ndarray | None = None) -> Evidence:
  """The `checked` evidence about some of the examples.

  Args:
    evidence: about all.
    own: their positions.
    validation: positions of the validation examples that go with them; `None` for all of these.
  """
  fields = {name: value for name, value in evidence._asdict().items() if name not in _WHOLE}
  found = {name: None if value is None else value[:, own] for name, value in fields.items()}
  others = evidence.validation
  if others is not None and validation is not None:
    others = part(others, validation)
  return Evidence(evidence.labels[own], validation=others, **found)


_WHOLE = ("labels", "validation")  # these have no axis in front of the examples
