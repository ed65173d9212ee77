"""The table of methods: rows, names and their near matches, options, citations and `--list`."""

import re

import pytest

from jdistill import catalog
from jdistill.base import UserError

FAMILIES = ("dataset", "knowledge", "language", "diffusion", "selection", "curriculum")


def test_rows_and_names_agree():
  assert catalog.names() == [row.name for row in catalog.rows()]
  assert len(set(catalog.names())) == len(catalog.names()) >= 2
  for name in catalog.names():
    assert catalog.row(name).name == name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert catalog.row(name).family in FAMILIES
    assert callable(catalog.row(name).build())


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("dattm", r"method\.name='dattm': unknown; did you mean 'datm'\?"),
    ("mttt", r"method\.name='mttt': unknown; did you mean 'mtt'"),
    ("xyzzy", r"method\.name='xyzzy': unknown; choose one of .*datm.*mtt"),
    ("", r"method\.name='': unknown; choose one of"),
  ],
)
def test_unknown_names(name, message):
  with pytest.raises(UserError, match=message) as caught:
    catalog.row(name)
  assert "\n" not in str(caught.value)


def test_near_matches():
  known = ("image_lr", "label_lr", "lr_lr", "threshold")
  assert catalog.near_matches("imge_lr", known).startswith("; did you mean 'image_lr'")
  assert catalog.near_matches("treshold", known) == "; did you mean 'threshold'?"
  assert catalog.near_matches("qqq", known) == "; choose one of image_lr, label_lr, lr_lr, threshold"
  assert catalog.near_matches(17, iter(known)).startswith("; choose one of")
  assert catalog.near_matches("aaa", ["aab", "aac", "aad", "aae"]).count("or") == 2  # never more than three


@pytest.mark.parametrize("name", catalog.names())
def test_options_are_plain_values(name):
  options = catalog.row(name).options()
  assert options and all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in options)
  for key, value in options.items():
    assert value is None or isinstance(value, bool | int | float | str), key
    assert key not in ("augment", "unroll", "apply", "optimizer") or isinstance(value, str), key


def test_options_of_the_first_methods():
  datm, mtt = catalog.row("datm").options(), catalog.row("mtt").options()
  assert datm["inner_steps"] == 80 and datm["threshold"] == 1.0 and datm["learn_labels"] is True
  assert datm["image_momentum"] == 0.5 and datm["label_momentum"] == 0.9 and datm["labels"] == "soft"
  assert mtt["threshold"] is None and mtt["learn_labels"] is False and mtt["labels"] == "hard"
  assert set(datm) == set(mtt)
  datm["inner_steps"] = 1  # a copy, not the table
  assert catalog.row("datm").options()["inner_steps"] == 80


def test_functions_are_no_options():
  def builder(apply, *, rate: float = 0.1, name: str = "a", on: bool = True, none=None, unroll=len, steps: int = 3):
    pass

  assert catalog.builder_options(builder) == {"rate": 0.1, "name": "a", "on": True, "none": None, "steps": 3}


def parse_bibtex(text):
  """Fields of one entry by name; refuses what BibTeX would."""
  head = re.match(r"@(\w+)\{([A-Za-z0-9_:-]+),\n", text)
  assert head, text
  assert text.endswith("\n}")
  fields = {}
  for line in text[head.end() : -2].splitlines():
    field = re.fullmatch(r"  (\w+) = \{(.*)\},", line)
    assert field, line
    assert field[2].count("{") == field[2].count("}") and not re.search(r"(?<!\\)[&%#_]", field[2]), line
    fields[field[1]] = field[2]
  return head[1], head[2], fields


@pytest.mark.parametrize("name", catalog.names())
def test_citations_are_bibtex(name):
  row = catalog.row(name)
  kind, key, fields = parse_bibtex(catalog.citation(name))
  assert kind in ("inproceedings", "article", "misc")
  assert key.startswith(name) and key.endswith(fields["year"])
  assert re.sub(r"\\([&%#_])", r"\1", fields["title"]) == row.title
  assert fields["eprint"] == row.arxiv and fields["archivePrefix"] == "arXiv"
  assert re.fullmatch(r"\d{4}", fields["year"]) and fields["year"] in row.venue
  assert fields["booktitle"] and not re.search(r"\d", fields["booktitle"])
  assert "," not in row.authors  # BibTeX wants "and" between names
  assert all(part.strip() == part and part for part in row.authors.split(" and "))


def test_citation_of_datm():
  assert catalog.citation("datm").splitlines()[0] == "@inproceedings{datm2024,"
  assert "  booktitle = {ICLR}," in catalog.citation("datm")
  with pytest.raises(UserError, match="did you mean 'datm'"):
    catalog.citation("damt")


def test_table_of_list():
  headers, rows = catalog.table()
  assert headers == ["method", "family", "paper", "arXiv", "experiment"]
  assert [row[0] for row in rows] == catalog.names()
  assert all(len(row) == len(headers) and all(isinstance(cell, str) and cell for cell in row) for row in rows)
  assert rows[0][3] == "2310.05773" and "ICLR 2024" in rows[0][2] and rows[0][4] == "experiments/datm.py"
