"""Claims of papers and what runs of this repository showed of them: the records and the page that lists them.

A claim lies with others of its kind in `docs/results/NAME.json`, one object or a list of them; the page is
`docs/results/README.md`.
"""

import collections
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from jdistill.base import UserError
from jdistill.files import read_json, write_json
from jdistill.schema import REQUIRED, Above, Range, check_known, checked, fields

SHOWN, NOT_SHOWN, CONTRADICTED = "shown", "not shown at this scale", "contradicted"

_INTRODUCTION = """\
Each row is a claim of a paper and what a run of this repository showed of it, mostly on small data and with small
networks. The effect is the difference between the two arms in brackets, in units of the metric, with the half width of
its interval. The JSON files say which interval it is, and hold arms, seeds and notes.

*Shown*: the whole interval is on the side that the paper claims. *Contradicted*: it is on the other side, which says
nothing about the paper's own scale. *Not shown at this scale*: it includes zero, or there is none. Intervals are for
single comparisons: among so many rows a few are on one side by chance.

`python -m docs.ledger write` makes this page of the JSON files; `python -m docs.ledger add` records a run.
"""


class Arm(NamedTuple):
  """What one arm of a comparison reached.

  Attributes:
    mean, std: mean and sample standard deviation over its seeds; `std` is `None` where it is not known.
    scores: the single values, in the order of the seeds, where they are known.
  """

  mean: float
  std: Annotated[float | None, Range(0)] = None
  scores: tuple = ()


class Effect(NamedTuple):
  """The difference that a claim speaks of: its arm minus its reference.

  Attributes:
    value: the estimate, in units of the metric.
    half_width: half of its interval; `None` where there is none, for instance because there was one run only.
    kind: what the interval is: `"paired difference"`, `"2 standard errors"`, `"no interval"`.
    level: coverage of the interval, where it has one.
  """

  value: float
  half_width: Annotated[float | None, Range(0)]
  kind: str
  level: Annotated[float | None, Above(0), Range(None, 1)] = None

  def __str__(self) -> str:
    if self.half_width is None:
      return f"{self.value:+.4g}, no interval"
    digits = max(len(f"{number:.4f}".rstrip("0").partition(".")[2]) for number in (self.value, self.half_width))
    return f"{self.value:+.{digits}f} ± {self.half_width:.{digits}f}"


class Claim(NamedTuple):
  """One sentence of a paper, the run that tested it, and what came out.

  Attributes:
    name: unique in the ledger.
    method: its name in the catalog, which knows the paper.
    statement: what is claimed, in one sentence.
    command: the exact command of the run.
    config_hash: the run's configuration; `None` where it was not recorded.
    data: what was learned from, with its size.
    metric: what is compared.
    direction: where the paper expects the effect: `"higher"` or `"lower"`.
    arm, reference: labels of the two sides of the effect.
    arms: by label; sides whose figures are not known are left out.
    seeds: how many repetitions the effect is a mean of.
    effect: see `Effect`.
    verdict: see `verdict_of`.
    date, commit: when and with which code, where known.
    note: what a reader must know to judge the figures.
  """

  name: str
  method: str
  statement: str
  command: str
  config_hash: str | None
  data: str
  metric: str
  direction: Literal["higher", "lower"]
  arm: str
  reference: str
  arms: Mapping[str, Arm]
  seeds: Annotated[int, Range(1)]
  effect: Effect
  verdict: Literal["shown", "not shown at this scale", "contradicted"]
  date: str | None = None
  commit: str | None = None
  note: str = ""


def verdict_of(effect: Effect, direction: str) -> str:
  """What an effect says about a claim.

  `"shown"` where the whole interval lies on the claimed side of zero, `"contradicted"` where it lies on the other one,
  else `"not shown at this scale"`; so an effect without an interval shows nothing.

  Args:
    effect: the arm minus its reference.
    direction: the claimed sign: `"higher"` or `"lower"`.
  """
  gain = effect.value if direction == "higher" else -effect.value
  if effect.half_width is None or abs(gain) <= effect.half_width:
    return NOT_SHOWN
  return SHOWN if gain > 0 else CONTRADICTED


def read_claims(directory: str | os.PathLike) -> dict[str, list[Claim]]:
  """All claims of a directory by the stem of their file, files in alphabetic order.

  Raises:
    UserError: naming file and key: a missing or unknown key, a value of the wrong type, an effect that is not finite,
      a verdict that does not follow from the effect, a name that occurs twice.
  """
  ledger: dict[str, list[Claim]] = {}
  seen: dict[str, str] = {}
  for path in sorted(Path(directory).glob("*.json")):
    content = read_json(path)
    ledger[path.stem] = [_claim(path.name, entry) for entry in (content if isinstance(content, list) else [content])]
    for claim in ledger[path.stem]:
      if claim.name in seen:
        raise UserError(f"{path.name}: name={claim.name!r}: is taken in {seen[claim.name]}; choose another one")
      seen[claim.name] = path.name
  return ledger


def write_claims(path: str | os.PathLike, claims: Iterable[Claim]) -> None:
  """Writes one file of the ledger; keys that only hold their default are left out."""

  def compact(record: NamedTuple) -> dict[str, Any]:
    defaults = record._field_defaults
    return {k: v for k, v in record._asdict().items() if k not in defaults or v != defaults[k]}

  write_json(
    path,
    [
      compact(c) | {"arms": {label: compact(arm) for label, arm in c.arms.items()}, "effect": compact(c.effect)}
      for c in claims
    ],
  )


def page(ledger: Mapping[str, list[Claim]], papers: Mapping[str, str], pages: Iterable[str]) -> str:
  """The text of the page that lists all claims, ordered by method.

  Args:
    ledger: see `read_claims`.
    papers: the paper's address by method.
    pages: names of the files that have a page of their own, without suffix.
  """
  claims = [(claim, file) for file, found in ledger.items() for claim in found]
  counts = collections.Counter(claim.verdict for claim, _ in claims)
  pages = set(pages)
  lines = [
    "# Ledger of claims",
    "",
    ", ".join(f"{verdict} {counts[verdict]}" for verdict in (SHOWN, NOT_SHOWN, CONTRADICTED)) + ".",
    "",
    _INTRODUCTION,
    "| method | claim | effect (arms) | metric | verdict | command | more |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for claim, file in sorted(claims, key=lambda pair: (pair[0].method, pair[1])):
    more = f"[page]({file}.md), [figures]({file}.json)" if file in pages else f"[figures]({file}.json)"
    cells = (
      f"[{claim.method}]({papers[claim.method]})",
      claim.statement,
      f"{claim.effect} ({claim.arm} - {claim.reference})",
      claim.metric,
      f"**{claim.verdict}**" if claim.verdict == SHOWN else claim.verdict,
      f"`{claim.command}`",
      more,
    )
    lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
  return "\n".join(lines) + "\n"


def _claim(file: str, entry: Any) -> Claim:
  values = _values(file, "", Claim, entry)
  if not isinstance(values["arms"], dict):
    raise UserError(f"{file}: arms={values['arms']!r}: give the figures by label")
  arms = {label: Arm(**_values(file, f"arms.{label}.", Arm, arm)) for label, arm in values["arms"].items()}
  effect = Effect(**_values(file, "effect.", Effect, values["effect"]))
  claim = Claim(**values | {"arms": arms, "effect": effect})
  if claim.verdict != (computed := verdict_of(effect, claim.direction)):
    raise UserError(f"{file}: verdict={claim.verdict!r} of {claim.name}: its effect says {computed!r}; write that")
  return claim


def _values(file: str, prefix: str, kind: type, entry: Any) -> dict[str, Any]:
  """The fields of a record as they stand in a file, checked against the annotations of its type."""
  if not isinstance(entry, dict):
    raise UserError(
      f"{file}: {prefix.rstrip('.') or 'claim'}={entry!r}: must be an object with the keys of a {kind.__name__}"
    )
  check_known(f"{file}: {prefix}".rstrip("."), entry, kind._fields)
  plain = fields(kind)
  values = {}
  for name in kind._fields:
    default = kind._field_defaults.get(name, REQUIRED)
    value = entry.get(name, default)
    field = plain.get(name)
    if value is REQUIRED or (value is None and field is not None and not field.optional):
      raise UserError(f"{file}: {prefix}{name}: is missing; give it a value")
    if field is not None:
      value = checked(f"{file}: {prefix}{name}", value, field)
    values[name] = tuple(value) if isinstance(value, list) else value
  return values
