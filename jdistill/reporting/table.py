"""Numbers as text: tables that are readable plain and as Markdown, and mean ± deviation."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jdistill.base import UserError


def cell(value: Any) -> str:
  """Says one value: floats with four significant digits, `None` as nothing, all else as `str` on one line."""
  if value is None:
    return ""
  if isinstance(value, float | np.floating):
    return f"{value:.4g}"
  return " ".join(str(value).split())


def literal(value: Any) -> str:
  """Says one value in Markdown so that it shows as it is: no tags, links or code, whatever a name contains."""
  return re.sub(r"([\\`]|<(?=[a-zA-Z/!?]))", r"\\\1", cell(value)).replace("](", "]\\(")


def format_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], align: str | None = None) -> str:
  """Lays out a Markdown table whose columns also line up as plain text.

  Args:
    headers: the column titles.
    rows: one value per column each, turned into text by `cell`.
    align: one letter per column, `l`, `r` or `c`; the first column left and the others right when `None`.

  Returns:
    Lines without a final newline.

  Raises:
    UserError: a row or `align` has another number of columns than `headers`.
  """
  align = "l" + "r" * (len(headers) - 1) if align is None else align
  if len(align) != len(headers) or set(align) - set("lrc"):
    raise UserError(f"align={align!r}: give one of 'l', 'r', 'c' for each of the {len(headers)} columns")
  lines = [[cell(value).replace("|", "\\|") for value in row] for row in (headers, *rows)]
  for line in lines:
    if len(line) != len(headers):
      raise UserError(f"a row has {len(line)} cells and the table {len(headers)} columns: {line}")
  widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
  place = {"l": str.ljust, "r": str.rjust, "c": str.center}
  rule = {"l": lambda n: "-" * n, "r": lambda n: "-" * (n - 1) + ":", "c": lambda n: ":" + "-" * (n - 2) + ":"}
  text = [" | ".join(place[a](s, n) for a, s, n in zip(align, line, widths, strict=True)) for line in lines]
  text.insert(1, " | ".join(rule[a](n) for a, n in zip(align, widths, strict=True)))
  return "\n".join(f"| {line} |" for line in text)


def mean_std(values: Iterable[float], digits: int = 3) -> str:
  """Says `mean ± sample standard deviation` (divided by n - 1), as in `"0.870 ± 0.012"`.

  Args:
    values: one number per repetition. A single one is printed alone, none as `"n/a"`; NaN is not hidden.
    digits: after the decimal point.
  """
  numbers = np.asarray([float(value) for value in values], np.float64)
  if numbers.size == 0:
    return "n/a"
  if numbers.size == 1:
    return f"{numbers[0]:.{digits}f}"
  return f"{numbers.mean():.{digits}f} ± {numbers.std(ddof=1):.{digits}f}"
