"""The table of methods: rows, names and their near matches, options, citations and `--list`."""

import re

import pytest

from jdistill import bilevel, catalog, schema, stages, tasks
from jdistill.base import UserError


def test_rows_and_names_agree():
  every = [row.name for row in catalog.rows()]
  assert len(set(every)) == len(every) > 20
  methods, policies = catalog.names(), [row.name for row in catalog.rows() if row.policy]
  assert sorted([*methods, *policies]) == sorted(every) and "datm" in methods and "rs2" in policies
  for row in catalog.rows():
    assert catalog.row(row.name) is row and re.fullmatch(r"[a-z][a-z0-9_]*", row.name)
    assert re.fullmatch(r"[a-z]+", row.family) and callable(row.build())
  for stage, name, other in (("students", "kd", "dm"), ("distill", "dm", "kd")):
    assert name in catalog.names(stage) and not {other, "rs2"} & set(catalog.names(stage))


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.name)
def test_rows_name_stages_tasks_and_parts_that_there_are(row):
  assert set(row.stages) <= set(stages.STAGES) and [s for s in stages.STAGES if s in row.stages] == sorted(
    row.stages, key=list(stages.STAGES).index
  )
  assert row.stages[-1] == "report" and set(row.tasks) <= set(tasks.names())
  assert set(row.parts) <= {"stream", "start"} and all(callable(row.build(part)) for part in row.parts)
  assert row.gradient in bilevel.ROUTES and (row.gradient == "mixed" or row.takes("unroll"))
  assert row.keep in ("networks", "trajectory") and ("distill" in row.stages) == (set(row.parts) == {"stream", "start"})


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("datmm", r"method\.name='datmm': unknown; did you mean 'datm'"),
    ("mttt", r"method\.name='mttt': unknown; did you mean 'mtt'"),
    ("xyzzy", r"method\.name='xyzzy': unknown; choose one of .*datm.*frepo"),
    ("", r"method\.name='': unknown; choose one of"),
  ],
)
def test_unknown_names(name, message):
  with pytest.raises(UserError, match=message) as caught:
    catalog.row(name)
  assert "\n" not in str(caught.value)


def test_near_matches():
  known = ("image_lr", "label_lr", "lr_lr", "threshold")
  assert schema.near_matches("imge_lr", known).startswith("; did you mean 'image_lr'")
  assert schema.near_matches("treshold", known) == "; did you mean 'threshold'?"
  assert schema.near_matches("qqq", known) == "; choose one of image_lr, label_lr, lr_lr, threshold"
  assert schema.near_matches(17, iter(known)).startswith("; choose one of")
  assert schema.near_matches("aaa", ["aab", "aac", "aad", "aae"]).count("or") == 2  # never more than three
  many = schema.near_matches("qqq", [f"name{number:03}" for number in range(50)])
  assert many.startswith("; choose one of name000, ") and many.endswith(", name039 and 10 more")
  dotted = [f"{part}.name{number:03}" for part in "ab" for number in range(50)]
  assert schema.near_matches("qqq", ["dataset", *dotted]) == "; choose one of a.*, b.*, dataset"


@pytest.mark.parametrize("name", catalog.names())
def test_options_are_plain_values(name):
  fields = catalog.row(name).fields()
  assert fields and all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in fields)
  for key, field in fields.items():
    value = field.default
    assert value is None or isinstance(value, bool | int | float | str | tuple), key
    assert key not in ("unroll", "apply", "network", "optimizer"), key  # collaborators


def defaults(name):
  return {key: field.default for key, field in catalog.row(name).fields().items()}


def test_options_of_the_first_methods():
  datm, mtt = defaults("datm"), defaults("mtt")
  assert datm["inner_steps"] == 80 and datm["threshold"] == 1.0 and datm["learn_labels"] is True
  assert datm["image_momentum"] == 0.5 and datm["label_momentum"] == 0.9 and datm["labels"] == "soft"
  assert mtt["threshold"] is None and mtt["learn_labels"] is False and mtt["labels"] == "hard"
  assert set(datm) == set(mtt) and {"max_start_epoch", "lr_init", "augment"} <= set(datm)  # parts have theirs, too
  assert defaults("dm")["initial"] == "real" and "augment" not in defaults("sre2l")


def test_every_option_goes_to_the_builders_that_declare_it():
  row, given = catalog.row("datm"), defaults("datm")
  own, stream, start = row.options_of(given), row.options_of(given, "stream"), row.options_of(given, "start")
  assert (
    "inner_steps" in own
    and "max_start_epoch" in stream
    and start.keys() == {"initial", "clusters", "labels", "lr_init"}
  )
  assert own.keys() | stream.keys() | start.keys() | {"augment", "view"} == given.keys()


def test_data_policies_have_names_builders_and_options():
  assert set(catalog.policy_names()) >= {"shuffle", "static_subset", "rs2", "kd3", "ssld"}
  for name in catalog.policy_names():
    assert catalog.policy_fields(name) == schema.fields(catalog.policy(name))
  assert catalog.policy_fields("rs2")["fraction"].default == 0.1


def test_selectors_of_queries_have_names_builders_and_options():
  for name in catalog.selector_names():
    assert callable(catalog.selector(name)()) and catalog.selector_fields(name) == schema.fields(catalog.selector(name))
  assert catalog.selector_fields("rad")["mistakes"].default is None


def test_what_a_builder_takes():
  assert catalog.row("datm").takes("unroll") and not catalog.row("dm").takes("unroll")
  assert catalog.row("sre2l").takes("teacher_apply") and not catalog.row("kd").takes("apply")


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


@pytest.mark.parametrize("name", [row.name for row in catalog.rows()])
def test_citations_are_bibtex(name):
  row = catalog.row(name)
  kind, key, fields = parse_bibtex(catalog.citation(name))
  assert kind in ("inproceedings", "article", "misc")
  assert key.startswith(name) and key.endswith(fields["year"])
  assert re.sub(r"\\([&%#_])", r"\1", fields["title"]) == row.title
  where = {"eprint": row.arxiv, "archivePrefix": "arXiv"} if row.arxiv else {"url": row.url}
  assert {key: fields[key] for key in where} == where
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
  assert headers == ["name", "family", "paper", "address", "experiment"]
  assert [row[0] for row in rows] == [row.name for row in catalog.rows()]
  assert all(len(row) == len(headers) and all(isinstance(cell, str) and cell for cell in row) for row in rows)
  assert (
    rows[0][3] == "https://arxiv.org/abs/2310.05773"
    and "ICLR 2024" in rows[0][2]
    and rows[0][4] == "experiments/datm.py"
  )
