"""The page of surveys names what is there."""

import importlib
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from jdistill import catalog, selection
from jdistill.jobs.targets import Targets
from jdistill.tasks import names as task_names

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "surveys.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]


def resolve(name):
  """What a dotted name means, in modules and their members."""
  parts = name.split(".")
  for count in range(len(parts), 0, -1):
    try:
      found = importlib.import_module(".".join(parts[:count]))
    except ModuleNotFoundError:
      continue
    for part in parts[count:]:
      found = getattr(found, part)
    return found
  raise ModuleNotFoundError(name)


NAMES = sorted(set(re.findall(r"(?<![\w/.])jdistill(?:\.\w+)+(?![\w/])", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name):
  assert resolve(name) is not None


def test_names_that_are_not_there_do_not_resolve():
  with pytest.raises((AttributeError, ModuleNotFoundError)):
    resolve("jdistill.losses.dpo_loss")


def test_every_experiment_is_there():
  found = set(re.findall(r"experiments/(\w+)\.py", PAGE))
  assert len(found) >= 8
  assert not [name for name in found if not (ROOT / "experiments" / f"{name}.py").is_file()]


def test_every_key_has_its_value():
  known = {
    "method.name": set(catalog.names()),
    "data_policy.name": set(catalog.policy_names()),
    "select.name": set(selection.RULES),
    "task.name": set(task_names()),
    "targets.source": set(get_args(get_type_hints(Targets)["source"])),
  }
  found = re.findall(r"`([a-z_]+\.[a-z_]+)=(\w+)`", PAGE)
  assert len(found) > 40
  assert not [(key, value) for key, value in found if value not in known[key]]


def test_rows_are_whole_and_gaps_are_named():
  assert all(len(row) in (2, 3) and all(row[:2]) for row in ROWS), [row for row in ROWS if len(row) not in (2, 3)]
  bare = [row[0] for row in ROWS if row[0] != "technique" and "`" not in row[1] and "**gap**" not in row[1]]
  assert not bare
  for technique in ("DPO", "expansion", "Bayesian", "calibration"):
    (own,) = (row for row in ROWS if technique in row[0])
    assert "**gap**" in own[1]
