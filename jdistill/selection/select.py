"""One way to choose a part of a data set, whatever the rule: `select(rng, "k_center", evidence, fraction=0.1)`."""

import collections
from typing import Any

import jax
import numpy as np

from jdistill import schema
from jdistill.base import UserError
from jdistill.selection.corpus import SCORERS
from jdistill.selection.evidence import Choice, Evidence, Selector, checked, part
from jdistill.selection.selectors import SELECTORS
from jdistill.selection.traces import TRACES

__all__ = [
  "RULES",
  "SCORERS",
  "SELECTORS",
  "TRACES",
  "Choice",
  "Evidence",
  "Selector",
  "budgets",
  "check",
  "needs",
  "select",
]

RULES = SELECTORS | SCORERS | TRACES  # of examples with labels, chunks of a corpus, and responses of teachers
ALL = -1  # in place of a label, where one choice is made among all examples


def select(
  rng: np.random.Generator | jax.Array | int,
  name: str,
  evidence: Evidence,
  *,
  fraction: float | None = None,
  per_class: int | None = None,
  balanced: bool = True,
  **options: Any,
) -> Choice:
  """Chooses examples by one of `SELECTORS`, chunks of a corpus by one of `SCORERS`, or responses by `TRACES`.

  Args:
    rng: decides what is drawn: a generator, a seed, or a typed key of JAX.
    name: of the selector.
    evidence: what is known about the examples; each selector has what it `needs`.
    fraction: how much is chosen of every class, in `(0, 1]`: `round(fraction * n_c)`, halves to the even number.
    per_class: in its place, how many are chosen of every class.
    balanced: every class chooses among its own examples (and validation examples), by itself. Otherwise one choice is
      made among all: `round(fraction * n)`, or `per_class` times the number of classes that `labels` has.
    **options: of the selector, the keyword-only arguments of `RULES[name].choose`.

  Returns:
    `Choice(index, weight, value, notes)`: positions among all examples, by ascending class where classes are balanced,
    in the order of their choice.

  Raises:
    UserError: an unknown selector or option, evidence that does not serve, not exactly one of `fraction` and
      `per_class`, a fraction outside `(0, 1]`, a class that would keep nothing, or one with fewer examples than asked.
  """
  if name not in RULES:
    raise UserError(f"select.name={name!r}: unknown{schema.near_matches(name, RULES)}")
  choose = RULES[name].choose
  declared = schema.fields(choose)
  schema.check_known("select", options, declared)
  options = {key: schema.checked(f"select.{key}", value, declared[key]) for key, value in options.items()}
  evidence, rng = checked(evidence, needs(name, **options), name), _generator(rng)
  counts = check(name, evidence.labels, fraction=fraction, per_class=per_class, balanced=balanced, **options)
  if not balanced:
    return choose(rng, evidence, counts[ALL], **options)
  found = []
  for label, count in counts.items():
    own, validation = np.flatnonzero(evidence.labels == label), None
    if evidence.validation is not None:
      validation = np.flatnonzero(evidence.validation.labels == label)
      if not len(validation):
        raise UserError(f"evidence.validation: no example of class {label}; give some, or balanced=False")
    chosen = choose(rng, part(evidence, own, validation), count, **options)
    found.append(chosen._replace(index=own[chosen.index]))
  notes = collections.Counter()
  for one in found:
    notes.update(one.notes)
  columns = zip(*((one.index, one.weight, one.value) for one in found), strict=True)
  return Choice(*(None if values[0] is None else np.concatenate(values) for values in columns), dict(notes))


def check(
  name: str,
  labels: np.ndarray,
  *,
  fraction: float | None = None,
  per_class: int | None = None,
  balanced: bool = True,
  **options: Any,
) -> dict[int, int]:
  """How many examples of every class a selector keeps, as far as `select` can be refused before there is evidence.

  Args:
    name: of the selector.
    labels: `[n]` integers.
    fraction, per_class, balanced, **options: as for `select`.

  Returns:
    Counts by ascending label; where classes are not balanced, one count under the label -1.

  Raises:
    UserError: see `budgets`, or what the selector itself refuses, such as more bins than a class has examples.
  """
  labels = np.asarray(labels)
  if balanced:
    counts = budgets(labels, fraction=fraction, per_class=per_class)
  else:  # all examples are one class then
    own = labels if fraction is None else np.zeros_like(labels)
    counts = {ALL: sum(budgets(own, fraction=fraction, per_class=per_class).values())}
  for label, count in counts.items():
    whose = "the data set" if label == ALL else f"class {label}"
    RULES[name].check(whose, len(labels) if label == ALL else int((labels == label).sum()), count, options)
  return counts


def needs(name: str, **options: Any) -> tuple[str, ...]:
  """The fields of `Evidence` that a selector reads beside the labels.

  Args:
    name: of the selector.
    **options: of it; with `vectors_of="features"` no logits are read.
  """
  found = RULES[name].needs
  return tuple(field for field in found if field != "logits" or options.get("vectors_of") != "features")


def budgets(labels: np.ndarray, *, fraction: float | None = None, per_class: int | None = None) -> dict[int, int]:
  """How many examples every class keeps, by ascending label.

  Args:
    labels: `[n]` integers.
    fraction: in `(0, 1]`; a class of `n_c` keeps `round(fraction * n_c)`, halves to the even number.
    per_class: in its place, the same number for all.

  Raises:
    UserError: not exactly one of both, a fraction outside `(0, 1]`, a class that would keep nothing, or one with fewer
      examples than asked.
  """
  if (fraction is None) == (per_class is None):
    raise UserError(f"select.fraction={fraction}, select.per_class={per_class}: give one of them")
  if fraction is not None and not 0 < fraction <= 1:
    raise UserError(f"select.fraction={fraction}: must be above 0 and at most 1")
  if per_class is not None and per_class < 1:
    raise UserError(f"select.per_class={per_class}: must be at least 1")
  found = {}
  for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
    count = per_class if fraction is None else round(fraction * int(size))
    if count > size:
      raise UserError(f"select.per_class={per_class}: class {label} has only {size} examples; lower per_class")
    if count == 0:
      raise UserError(
        f"select.fraction={fraction}: keeps none of the {size} examples of class {label}; raise it, or set per_class"
      )
    found[int(label)] = count
  return found


def _generator(rng: np.random.Generator | jax.Array | int) -> np.random.Generator:
  if isinstance(rng, jax.Array) and jax.dtypes.issubdtype(rng.dtype, jax.dtypes.prng_key):
    rng = np.asarray(jax.random.key_data(rng)).ravel()
  return np.random.default_rng(rng)
