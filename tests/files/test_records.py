"""Records: what was written comes back, and every change of it is found."""

import json
import re

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.files import Damaged, read_record, write_record

RECORD = {"scores": {"accuracy": [0.5, 0.25]}, "lr": np.float32(0.1), "gap": float("nan"), "none": None, "at": (1, 2)}


def test_a_record_comes_back(tmp_path):
  write_record(tmp_path / "a.json", RECORD)
  found = read_record(tmp_path / "a.json")
  assert found == {**RECORD, "lr": float(np.float32(0.1)), "gap": "nan", "at": [1, 2]}
  write_record(tmp_path / "b.json", found)
  assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_every_changed_digit_and_letter_is_found(tmp_path):
  path = tmp_path / "a.json"
  write_record(path, RECORD)
  text = path.read_text()
  for match in re.finditer(r"[0-9a-z]", text):
    path.write_text(text[: match.start()] + ("1" if match[0] != "1" else "2") + text[match.end() :])
    with pytest.raises(Damaged, match=r"a\.json is damaged"):
      read_record(path)


@pytest.mark.parametrize("content", ["[]", "7", "null", '"text"', "{}", '{"sha256": 5}', "{", "", "\xff"])
def test_another_form_is_found(tmp_path, content):
  path = tmp_path / "a.json"
  path.write_bytes(content.encode("latin-1"))
  with pytest.raises(Damaged) as caught:
    read_record(path)
  assert caught.value.path == path and isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_a_missing_record_is_told(tmp_path):
  with pytest.raises(Damaged, match=r"a\.json is missing$"):
    read_record(tmp_path / "a.json")


def test_spaces_and_the_order_of_keys_do_not_matter(tmp_path):
  path = tmp_path / "a.json"
  write_record(path, {"b": 1, "a": 2})
  path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
  assert read_record(path) == {"a": 2, "b": 1}
