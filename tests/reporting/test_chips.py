"""TPU slices by name, and least times from published peaks."""

import pytest

from jdistill.base import UserError
from jdistill.reporting import chips, units


@pytest.mark.parametrize(
  ("text", "name", "count"),
  [
    ("v5e:2x4", "v5e:2x4", 8),
    (" V5E:2X4 ", "v5e:2x4", 8),
    ("v5e:16x16", "v5e:16x16", 256),
    ("v6e:1x1", "v6e:1x1", 1),
    ("v3:32x32", "v3:32x32", 1024),
    ("v4:2x2x1", "v4:2x2x1", 4),
    ("v5p:8x8x12", "v5p:8x8x12", 768),
  ],
)
def test_slices_that_exist(text, name, count):
  found = chips.parse_topology(text)
  assert (found.name, found.chips) == (name, count)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("v5e", ["GENERATION:SHAPE", "v3, v4, v5e, v5p, v6e"]),
    ("", ["GENERATION:SHAPE"]),
    ("v9:2x2", ["'v9'", "v3, v4, v5e, v5p, v6e"]),
    ("v5e:", ["as nothing", "2x4"]),
    ("v5e:3x3", ["3x3", "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"]),
    ("v5e:32x32", ["32x32", "16x16"]),  # v3 comes in that size, v5e does not
    ("v5e:2x2x1", ["2x2x1"]),
    ("v5e:2xtwo", ["2xtwo"]),
    ("v5e:-2x-4", ["-2x-4"]),
    ("v5e:0x4", ["0x4"]),
    ("v5e:2x4x", ["2x4x"]),
    ("v4:2x2", ["2x2x1", "multiples of 4"]),
    ("v4:6x6x6", ["6x6x6"]),
    ("v4:32x32x32", ["4,096"]),
  ],
)
def test_slices_that_do_not_exist(text, words):
  with pytest.raises(UserError) as caught:
    chips.parse_topology(text)
  message = str(caught.value)
  assert message.startswith(f"--topology={text}: ")
  assert "\n" not in message
  for word in words:
    assert word in message


def test_figures_of_v5e_are_the_published_ones():
  chip = chips.CHIPS["v5e"]
  assert (chip.memory, chip.bandwidth, chip.flops) == (16e9, 819e9, 197e12)
  assert 2 * chip.link == 400e9  # published for both directions


def test_a_device_of_v3_is_half_a_chip():
  chip = chips.CHIPS["v3"]
  assert chip.device().memory == 16 * 2**30
  assert chip.device().flops == pytest.approx(61.5e12)
  assert chips.CHIPS["v4"].device() == chips.CHIPS["v4"]


def test_bounds_by_hand():
  device = chips.Chip("x", memory=1.0, bandwidth=100.0, flops=1000.0, link=10.0, axes=2, most=4)
  found = chips.bounds(device, flops=500.0, moved=30.0, sent=4.0)
  assert found == pytest.approx((0.5, 0.3, 0.4))
  assert found.least == pytest.approx(0.5)
  assert chips.bounds(device, 500.0, 30.0, 4.0, "highest").products == pytest.approx(3.0)
  assert chips.bounds(device, 500.0, 30.0, 4.0, "high").products == pytest.approx(1.5)
  assert chips.bounds(device, 500.0, 30.0, 4.0, "something new").products == pytest.approx(0.5)  # still a lower bound


@pytest.mark.parametrize(
  ("value", "words"),
  [(12.34e12, "12.3 TFLOP"), (697e3, "697 kFLOP"), (12, "12 FLOP"), (0, "0 FLOP"), (2e15, "2 PFLOP")],
)
def test_amounts(value, words):
  assert units.amount(value, "FLOP") == words


@pytest.mark.parametrize(
  ("value", "words"),
  [(7200, "2 h"), (90, "1.5 min"), (1, "1 s"), (0.0625, "62.5 ms"), (2.5e-5, "25 us"), (3e-9, "3 ns"), (0, "0 ns")],
)
def test_seconds(value, words):
  assert units.seconds(value) == words
