"""Figures, table, verdict and plot of compared cells against numbers worked out by hand."""

import math

import numpy as np
import pytest
from PIL import Image

from jdistill.files import read_json, write_json
from jdistill.reporting import comparison
from jdistill.reporting.comparison import bars, compare, table, verdict

# three paired seeds; differences b - a are 0.1, 0.2, 0.3: mean 0.2, deviation 0.1
CELLS = {
  "a": {"scores": {"accuracy": [0.5, 0.6, 0.4], "nll": [1.0, 2.0, 3.0]}, "seconds": 3.0},
  "b": {"scores": {"accuracy": [0.6, 0.8, 0.7], "nll": [2.0, 2.0, 2.0]}},
}
LOST = {"lost": {"failed": "lost: loss is not finite at step 3; lower train.lr"}}
# Student's 97.5% quantile with two degrees of freedom, times the standard error of those differences
HALF_WIDTH = 4.302652730 * 0.1 / math.sqrt(3)


def test_means_deviations_and_paired_differences():
  found = compare(CELLS, "accuracy", "a")
  assert list(found) == ["a", "b"]
  assert (found["a"]["mean"], found["a"]["std"]) == (pytest.approx(0.5), pytest.approx(0.1))
  assert (found["b"]["mean"], found["b"]["std"]) == (pytest.approx(0.7), pytest.approx(0.1))
  assert (found["a"]["difference"], found["a"]["half_width"]) == (0.0, 0.0)
  assert found["b"]["difference"] == pytest.approx(0.2)
  assert found["b"]["half_width"] == pytest.approx(HALF_WIDTH)
  assert found["a"]["seconds"] == 3.0
  assert "mean" not in CELLS["a"]  # what was given stays as it was


def test_pairs_count_and_not_the_spread_over_seeds():
  """Seeds that differ by much more than the arms do: unpaired, nothing could be claimed."""
  shared = np.float64([0.1, 0.5, 0.9])
  cells = {
    "a": {"scores": {"accuracy": shared}},
    "b": {"scores": {"accuracy": shared + np.float64([0.010, 0.011, 0.012])}},
  }
  found = compare(cells, "accuracy", "a")
  assert found["b"]["std"] > 0.4
  assert found["b"]["half_width"] == pytest.approx(4.302652730 * 0.001 / math.sqrt(3))
  assert verdict(found, "b", "a", "accuracy", True).startswith("b beats a: +0.0110 ± 0.0025 accuracy")


@pytest.mark.parametrize(("higher", "order"), [(None, ["a", "b"]), (True, ["b", "a"]), (False, ["a", "b"])])
def test_cells_are_sorted_best_first_and_failed_ones_come_last(higher, order):
  found = compare(LOST | CELLS, "accuracy", "a", higher=higher)
  assert list(found) == [*order, "lost"]
  assert found["lost"] == LOST["lost"]


@pytest.mark.parametrize("reference", [None, "lost", "nobody"])
def test_without_a_reference_there_are_no_differences(reference):
  found = compare(CELLS | LOST, "accuracy", reference)
  assert found["b"]["mean"] == pytest.approx(0.7)
  assert not any("difference" in cell or "half_width" in cell for cell in found.values())


def test_one_seed_has_a_difference_but_no_spread():
  cells = {"a": {"scores": {"accuracy": [0.25]}}, "b": {"scores": {"accuracy": [0.5]}}}
  found = compare(cells, "accuracy", "a")
  assert (found["b"]["mean"], found["b"]["std"], found["b"]["difference"]) == (0.5, 0.0, 0.25)
  assert math.isnan(found["b"]["half_width"])
  assert verdict(found, "b", "a", "accuracy", True) == (
    "b against a: +0.2500 accuracy: one seed only, so no spread is known"
  )


def test_cells_that_were_read_from_a_file_will_do(tmp_path):
  """JSON has no NaN: the interval of a single seed is a word there."""
  cells = {"a": {"scores": {"accuracy": [0.25]}}, "b": {"scores": {"accuracy": [0.5]}}}
  write_json(tmp_path / "summary.json", compare(cells, "accuracy", "a"))
  found = read_json(tmp_path / "summary.json")
  assert table(found, "accuracy", "a", digits=2)[1][1] == ["b", "0.50", "+0.25"]
  assert verdict(found, "b", "a", "accuracy", True).endswith("one seed only, so no spread is known")
  bars(tmp_path / "gaps.png", {"": found}, "accuracy", differences=True)


def test_arms_with_other_seeds_are_no_pairs():
  cells = {"a": {"scores": {"accuracy": [0.25, 0.5]}}, "b": {"scores": {"accuracy": [0.5]}}}
  with pytest.raises(ValueError, match="give pairs"):
    compare(cells, "accuracy", "a")


def test_the_table():
  found = compare(CELLS | LOST, "accuracy", "a")
  columns = {"seconds": {"a": "3.0", "b": ""}, "memory": {"a": "", "b": ""}}
  headers, rows = table(found, "accuracy", "a", first="set", names={"a": "plain"}, columns=columns, digits=2)
  assert headers == ["set", "accuracy", "against plain (95%)", "nll", "seconds"]  # no column without any text
  assert rows == [
    ["plain", "0.50 ± 0.10", "", "2.00 ± 1.00", "3.0"],
    ["b", "0.70 ± 0.10", "+0.20 ± 0.25", "2.00 ± 0.00", ""],
    ["lost", "failed", "", "", ""],
  ]
  headers, rows = table(compare(CELLS, "accuracy", None), "accuracy", None)
  assert headers == ["arm", "accuracy", "nll"]
  assert rows[0] == ["a", "0.5000 ± 0.1000", "2.0000 ± 1.0000"]


def test_a_table_of_failures_alone_and_of_a_failed_reference():
  assert table(LOST, "accuracy", None) == (["arm", "accuracy"], [["lost", "failed"]])
  headers, rows = table(compare(CELLS | LOST, "accuracy", "lost"), "accuracy", "lost")
  assert headers[2] == "against lost (95%)"
  assert [row[2] for row in rows] == ["", "", ""]


def test_one_seed_in_the_table():
  one = {"a": {"scores": {"accuracy": [0.25]}}, "b": {"scores": {"accuracy": [0.5]}}}
  _, rows = table(compare(one, "accuracy", "a"), "accuracy", "a", digits=3)
  assert rows == [["a", "0.250", ""], ["b", "0.500", "+0.250"]]


@pytest.mark.parametrize(
  ("difference", "higher", "words"),
  [
    (0.3, True, "b beats a: +0.3000 ± 0.2000 nll (95% interval of paired differences)"),
    (-0.3, True, "b is worse than a: -0.3000 ± 0.2000 nll"),
    (-0.3, False, "b beats a: -0.3000 ± 0.2000 nll"),
    (0.3, False, "b is worse than a: +0.3000 ± 0.2000 nll"),
    (0.1, True, "no difference between b and a can be claimed: +0.1000 ± 0.2000 nll"),
    (-0.2, False, "no difference between b and a can be claimed"),  # an interval that ends at zero
  ],
)
def test_the_verdict_is_about_the_interval_and_the_direction(difference, higher, words):
  cells = {"a": {"difference": 0.0, "half_width": 0.0}, "b": {"difference": difference, "half_width": 0.2}}
  assert verdict(cells, "b", "a", "nll", higher).startswith(words)


def test_the_verdict_where_there_is_nothing_to_compare():
  found = compare(CELLS | LOST, "accuracy", "a")
  assert verdict(found, "a", "a", "accuracy", True) == "a is the reference"
  assert "b has no control beside it" in verdict(found, "b", None, "accuracy", True)
  assert "no control" in verdict(found, "b", "nobody", "accuracy", True)
  message = LOST["lost"]["failed"]
  assert verdict(found, "lost", "a", "accuracy", True, {"lost": "the set"}) == f"the set failed: {message}"
  assert verdict(found, "b", "lost", "accuracy", True) == f"lost failed: {message}"


@pytest.fixture
def drawn(monkeypatch):
  """What the plot was asked to draw."""
  calls = []
  original = comparison.grouped_bars

  def draw(*args, **keys):
    calls.append((args, keys))
    original(*args, **keys)

  monkeypatch.setattr(comparison, "grouped_bars", draw)
  return calls


def test_bars_of_one_group_are_means_with_deviations(tmp_path, drawn):
  path = tmp_path / "curves" / "arms.png"
  bars(path, {"": compare(CELLS | LOST, "accuracy", "a")}, "accuracy")
  with Image.open(path) as image:
    assert image.size[0] > 100
  ((_, names, series, metric), keys), *_ = drawn
  assert (names, metric) == (["a", "b"], "accuracy")  # the failed one has no bar
  means, errors = series["accuracy"]
  assert means == pytest.approx([0.5, 0.7]) and errors == pytest.approx([0.1, 0.1])
  low, high = keys["ylim"]
  assert 0 <= low < 0.4 and high > 0.8  # whiskers are inside


def test_bars_of_groups_leave_a_gap_where_a_label_is_missing(tmp_path, drawn):
  other = {"b": CELLS["b"]}
  groups = {"IPC 1": compare(CELLS, "accuracy", None), "IPC 10": compare(other, "accuracy", None)}
  bars(tmp_path / "sets.png", groups, "accuracy")
  ((_, names, series, _), _), *_ = drawn
  assert names == ["IPC 1", "IPC 10"] and list(series) == ["a", "b"]
  assert series["a"][0][0] == pytest.approx(0.5) and math.isnan(series["a"][0][1])
  assert series["b"][0] == pytest.approx([0.7, 0.7])


def test_bars_of_differences_leave_the_reference_out(tmp_path, drawn):
  bars(tmp_path / "gaps.png", {"": compare(CELLS | LOST, "accuracy", "a")}, "accuracy", differences=True)
  ((_, names, series, _), keys), *_ = drawn
  assert names == ["b"]
  assert (series["accuracy"][0], series["accuracy"][1]) == (pytest.approx([0.2]), pytest.approx([HALF_WIDTH]))
  assert keys["ylim"][0] < 0.2 - HALF_WIDTH < 0 < 0.2 + HALF_WIDTH < keys["ylim"][1]


@pytest.mark.parametrize("differences", [False, True])
def test_bars_of_failures_and_of_one_seed_are_drawn(tmp_path, differences):
  bars(tmp_path / "none.png", {"": LOST}, "accuracy", differences=differences)
  one = {"a": {"scores": {"accuracy": [0.25]}}, "b": {"scores": {"accuracy": [0.5]}}}
  bars(tmp_path / "one.png", {"": compare(one, "accuracy", "a")}, "accuracy", differences=differences)
  assert (tmp_path / "none.png").exists() and (tmp_path / "one.png").exists()
