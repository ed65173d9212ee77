"""Options as their signatures declare them: types, ranges, choices, what may be absent, and what is refused."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import pytest

from jdistill import schema
from jdistill.base import UserError
from jdistill.schema import REQUIRED, Above, Choice, Field, Range, Traced


def builder(
  apply,
  *,
  steps: Annotated[int, Range(1, 9)] = 3,
  rate: Annotated[float, Above(0), Traced] = 0.5,
  labels: Literal["soft", "hard"] = "soft",
  optimizer: Annotated[str, Choice(("sgd", "adam"))] = "sgd",
  window: Annotated[int, Range(1)] | None = None,
  milestones: tuple[float, ...] = (),
  flag: bool = False,
  name: str,
  unroll: object = None,
):
  """A builder as methods have them."""


class Section(NamedTuple):
  epochs: Annotated[int, Range(1)]
  clip: float | None = None


def test_fields_are_what_the_signature_says():
  assert schema.fields(builder) == {
    "steps": Field(int, 3, low=1, high=9),
    "rate": Field(float, 0.5, above=0, traced=True),
    "labels": Field(str, "soft", choices=("soft", "hard")),
    "optimizer": Field(str, "sgd", choices=("sgd", "adam")),
    "window": Field(int, None, low=1, optional=True),
    "milestones": Field(tuple, (), item=Field(float)),
    "flag": Field(bool, False),
    "name": Field(str, REQUIRED),
  }
  assert schema.fields(Section) == {"epochs": Field(int, REQUIRED, low=1), "clip": Field(float, None, optional=True)}


@pytest.mark.parametrize(
  "key, value, kept",
  [("steps", 9, 9), ("rate", 1, 1.0), ("window", None, None), ("milestones", "1,2", [1.0, 2.0]), ("flag", True, True)],
)
def test_values_come_back_in_their_type(key, value, kept):
  found = schema.checked(f"method.{key}", value, schema.fields(builder)[key])
  assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
  "key, value, complaint",
  [
    ("steps", 0, "method.steps=0: must be at least 1"),
    ("steps", 10, "method.steps=10: must be at most 9"),
    ("steps", True, "method.steps=True: must be of type int"),
    ("steps", 2.0, "method.steps=2.0: must be of type int"),
    ("rate", 0, "method.rate=0.0: must be above 0"),
    ("labels", "sof", "method.labels='sof': unknown; did you mean 'soft'?"),
    ("optimizer", "lion", "method.optimizer='lion': unknown; choose one of adam, sgd"),
    ("flag", None, "method.flag: not set"),
  ],
)
def test_what_does_not_fit_is_refused_by_name(key, value, complaint):
  with pytest.raises(UserError) as caught:
    schema.checked(f"method.{key}", value, schema.fields(builder)[key])
  assert str(caught.value).startswith(complaint)


def test_unknown_keys_get_their_near_matches():
  with pytest.raises(UserError, match=r"method\.step=3: unknown key; did you mean 'steps'\?"):
    schema.check_known("method", {"step": 3}, schema.fields(builder))


def test_a_validated_builder_refuses_what_its_signature_does():
  @schema.validated("method")
  def build(apply, *, steps: schema.Count = 3, rate: schema.Share = 0.5, labels: Literal["soft", "hard"] = "soft"):
    return apply, steps, rate, labels

  assert build(len, rate=1) == (len, 3, 1.0, "soft") and isinstance(build(len, rate=1)[2], float)
  assert list(schema.fields(build)) == ["steps", "rate", "labels"]
  traced = np.float32(7)
  assert build(len, rate=traced)[2] is traced  # no look at arrays
  for options, message in (
    ({"steps": 0}, "method.steps=0: must be at least 1"),
    ({"rate": 1.5}, "method.rate=1.5: must be at most 1"),
    ({"labels": "sof"}, "method.labels='sof': unknown; did you mean 'soft'"),
  ):
    with pytest.raises(UserError, match=message):
      build(len, **options)
