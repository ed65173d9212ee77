"""Sections of a configuration about teachers and how they train, for runs, arms and committees alike."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from jdistill import schema
from jdistill.base import UserError
from jdistill.config import Plain, sections
from jdistill.config.arms import SELECTED
from jdistill.config.common import TRAIN
from jdistill.schema import Count, Positive, Range


class Which(NamedTuple):
  """Which teachers there are."""

  count: Annotated[int, Range(1, 1000)] = 1
  also: tuple[str, ...] = ()
  stored: str | None = None
  weights: str | None = None
  tune: bool = True
  weak: tuple[Count, ...] = ()
  worst_perplexity: Positive | None = None


TEACHERS = {
  "teacher": sections.network("model"),
  "teacher_method": sections.method({"name": "ce"}, "students"),
  "teacher_train": TRAIN,
  "teacher_data_policy": sections.data_policy(),
  "teachers": Plain(schema.fields(Which)),
}


def check_train(dotted: str, section: Mapping[str, Any]) -> None:
  """Refuses a schedule whose values contradict each other."""
  if section["schedule"] == "step" and not section["milestones"]:
    raise UserError(f"{dotted}.milestones=(): schedule 'step' needs the epochs at which the rate drops")
  if section["warmup_epochs"] >= section["epochs"]:
    raise UserError(f"{dotted}.warmup_epochs={section['warmup_epochs']}: must be below epochs={section['epochs']}")


def check_policy(prefix: str, section: Mapping[str, Any]) -> None:
  """Refuses the data policy of what was selected for students."""
  if section["name"] == SELECTED:
    raise UserError(
      f"{prefix}teacher_data_policy.name={SELECTED!r}: what is selected are examples of students; use 'shuffle', or "
      "'static_subset' for teachers of a part"
    )
