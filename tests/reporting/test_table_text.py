"""Tables and mean ± deviation: golden strings."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.reporting.table import format_table, mean_std


def test_table_golden():
  rows = [("distilled", 0.87, 10), ("random | real", np.float32(0.741239), None), ("two\nlines", "n/a", 1_000)]
  assert format_table(("set", "accuracy", "ipc"), rows) == (
    "| set            | accuracy |  ipc |\n"
    "| -------------- | -------: | ---: |\n"
    "| distilled      |     0.87 |   10 |\n"
    "| random \\| real |   0.7412 |      |\n"
    "| two lines      |      n/a | 1000 |"
  )


def test_alignments_and_no_rows():
  assert format_table(("a", "b", "long"), [(1, 2, 3)], "lcr") == (
    "| a   |  b  | long |\n| --- | :-: | ---: |\n| 1   |  2  |    3 |"
  )
  assert format_table(("a",), []) == "| a   |\n| --- |"


def test_table_refusals():
  with pytest.raises(UserError, match="a row has 1 cells and the table 2 columns"):
    format_table(("a", "b"), [(1,)])
  for align in ("l", "lx"):
    with pytest.raises(UserError, match=f"align='{align}'"):
      format_table(("a", "b"), [], align)


def test_mean_std():
  assert mean_std([0.858, 0.87, 0.882]) == "0.870 ± 0.012"  # the sample deviation; the population's is 0.0098
  assert mean_std(np.array([1, 2], np.float32), digits=1) == "1.5 ± 0.7"
  assert mean_std([0.5]) == "0.500"
  assert mean_std([]) == "n/a"
  assert mean_std([0.5, float("nan")]) == "nan ± nan"
