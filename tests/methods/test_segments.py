"""The difficulty schedule: literal tables, refusals, and draws that depend on the step alone."""

import jax
import numpy as np
import pytest

from jdistill.base import Segment, UserError
from jdistill.methods.dataset.segments import expert_order, segment_bounds, segments, start_epoch
from jdistill.synthetic import Materials
from jdistill.teachers import ExpertBuffer


@pytest.mark.parametrize(
  ("step", "bounds", "want"),
  [
    # CIFAR-10, 10 images per class: 10 -> 20 in 1000 steps, rising at every hundredth, fractions cut off
    (0, (0, 10, 20, 1000), (0, 10)),
    (99, (0, 10, 20, 1000), (0, 10)),
    (100, (0, 10, 20, 1000), (0, 11)),
    (250, (0, 10, 20, 1000), (0, 12)),
    (999, (0, 10, 20, 1000), (0, 19)),
    (1000, (0, 10, 20, 1000), (0, 20)),
    (9999, (0, 10, 20, 1000), (0, 20)),
    # 20 -> 40 in 2000 and 30 -> 50 in 2000
    (150, (0, 20, 40, 2000), (0, 21)),
    (1999, (0, 30, 50, 2000), (0, 49)),
    # a fixed range, whatever the step
    (0, (40, None, 60, 1), (40, 60)),
    (5000, (40, None, 60, 1), (40, 60)),
    # nothing to rise
    (500, (2, 7, 7, 1000), (2, 7)),
  ],
)
def test_bounds(step, bounds, want):
  names = ("min_start_epoch", "current_start_epoch", "max_start_epoch", "schedule_steps")
  assert segment_bounds(step, **dict(zip(names, bounds, strict=True))) == want


GOOD = {
  "min_start_epoch": 0,
  "current_start_epoch": 10,
  "max_start_epoch": 20,
  "schedule_steps": 1000,
  "expert_epochs": 2,
}


def test_the_last_possible_schedule_is_allowed():
  segments(**GOOD).check({}, {"epochs": 21})  # the last start is 19, and 19 + 2 = 21 is the last snapshot
  segments(**(GOOD | {"current_start_epoch": None, "min_start_epoch": 19})).check({}, {"epochs": 21})
  segments(**(GOOD | {"current_start_epoch": 20})).check({}, {"epochs": 21})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"epochs": 20}, r"method\.max_start_epoch=20: .* teachers' 20 epochs; lower it to at most 19 or raise"),
    ({"expert_epochs": 0}, r"method\.expert_epochs=0: must be at least 1"),
    ({"min_start_epoch": -1}, r"method\.min_start_epoch=-1: must be at least 0"),
    ({"min_start_epoch": 10}, r"method\.min_start_epoch=10: must be below method\.current_start_epoch=10"),
    (
      {"min_start_epoch": 20, "current_start_epoch": None},
      r"method\.min_start_epoch=20: must be below method\.max_start_epoch=20",
    ),
    ({"current_start_epoch": 21}, r"method\.current_start_epoch=21: must not exceed method\.max_start_epoch=20"),
    ({"schedule_steps": 0}, r"method\.schedule_steps=0: must be at least 1"),
  ],
)
def test_impossible_schedules(change, message):
  with pytest.raises(UserError, match=message) as caught:
    segments(**{key: value for key, value in (GOOD | change).items() if key != "epochs"}).check(
      {}, {"epochs": change.get("epochs", 21)}
    )
  assert "\n" not in str(caught.value)


def test_every_round_uses_every_expert_once():
  rounds = np.array([expert_order(3, step, 5) for step in range(60)]).reshape(12, 5)
  assert (np.sort(rounds, axis=1) == np.arange(5)).all()
  assert len({tuple(row) for row in rounds}) > 6
  assert [expert_order(4, step, 5) for step in range(60)] != rounds.ravel().tolist()
  assert {expert_order(0, step, 1) for step in range(4)} == {0}


def test_start_epochs_cover_the_half_open_range_evenly():
  drawn = np.array([start_epoch(0, step, 2, 7) for step in range(3000)])
  counts = np.bincount(drawn, minlength=8)
  assert counts[:2].sum() == 0 and counts[7:].sum() == 0
  assert np.abs(counts[2:7] - 600).max() < 110  # five standard deviations of a binomial count
  assert {start_epoch(0, step, 4, 5) for step in range(5)} == {4}
  assert drawn.tolist()[:50] != [start_epoch(1, step, 2, 7) for step in range(50)]


def test_draws_are_functions_of_the_step():
  forward = [(expert_order(7, s, 4), start_epoch(7, s, 0, 100)) for s in range(30)]
  backward = [(expert_order(7, s, 4), start_epoch(7, s, 0, 100)) for s in reversed(range(30))]
  assert forward == backward[::-1]
  assert all(isinstance(value, int) for pair in forward for value in pair)


def form(segment):
  """What a compiled step sees of a segment: its tree, shapes and types."""
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), segment)


def test_a_plan_streams_the_segments_of_its_steps(tmp_path):
  buffer = ExpertBuffer(tmp_path, {}, epochs=4, size=1)
  for expert in range(3):
    buffer.add(expert, np.float32(10 * expert + np.arange(5))[:, None], {})
  rising = {"min_start_epoch": 0, "current_start_epoch": 1, "max_start_epoch": 3, "schedule_steps": 10}
  plan = segments(expert_epochs=2, **rising)
  none = np.zeros(0)
  found = Materials(none, none, 0, 7, parameters=1, segment=buffer.segment, teachers=3)
  stream = plan.stream(found)
  for step in (0, 5, 9, 30):
    lower, upper = segment_bounds(step, **rising)
    first = 10 * expert_order(7, step, 3) + start_epoch(7, step, lower, upper)
    one = stream(step)
    assert isinstance(one, Segment) and (one.start.item(), one.target.item()) == (first, first + 2)
    assert form(plan.example(found._replace(segment=None))) == form(one)
