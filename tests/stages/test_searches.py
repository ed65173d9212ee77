"""Grids of numbers of a method: one program where the method allows it, and the same choices in any case."""

import copy
import io

import pytest

from experiments import kd
from jdistill import run
from jdistill.files import read_json
from jdistill.stages.knowledge import Context, teacher

pytestmark = pytest.mark.usefixtures("compiled_once")
GRIDS = {
  "kd": {"method/temperature": (1.0, 4.0), "method/kd_weight": (0.5, 2.0)},
  "sinkd": {"method/final_temperature": (1.0, 3.0)},  # which SinKD looks at in Python
  "alone": {"method/ce_weight": (0.0, 0.5)},  # 0 leaves a term out
}


def search(tmp_path, monkeypatch, *, constants=False):
  """The trials of a tiny run, what was built while a program was traced, and the arms that did not allow it."""
  config = kd.get_config("tiny")
  config.teacher.widths, config.student.widths, config.parallel.pool = (16,), (8,), 1
  with config.unlocked():
    config.arms, config.order = {"sinkd": {"method/name": "sinkd"}, "alone": {}}, ("kd", "sinkd", "alone")
    config.reference, config.tune, config.stages = None, copy.deepcopy(GRIDS), ("teacher", "tune")
  built, real = [], teacher.recipe_of
  monkeypatch.setattr(teacher, "recipe_of", lambda section: built.append(dict(section)) or real(section))
  fixed = set(GRIDS) if constants else set()
  monkeypatch.setattr(Context, "fixed", fixed)
  run.run_experiment(config, tmp_path / "work", artefacts=tmp_path / "artefacts", stream=io.StringIO())
  return read_json(tmp_path / "work" / "stages" / "tuned.json"), built, fixed


def test_searched_numbers_are_arguments_where_the_method_allows_it(tmp_path, monkeypatch):
  found, built, fixed = search(tmp_path / "a", monkeypatch)
  traced = [section for section in built if not isinstance(section.get("temperature", 1.0), float)]
  assert len(traced) == 4 and all(section["name"] == "kd" for section in traced)
  assert fixed == {"sinkd"}
  want, built, _ = search(tmp_path / "b", monkeypatch, constants=True)
  assert all(isinstance(value, float | int | str | bool | None) for section in built for value in section.values())
  for label, trials in want.items():
    assert [trial["chosen"] for trial in found[label]] == [trial["chosen"] for trial in trials]
    for one, other in zip(found[label], trials, strict=True):
      assert one["values"] == pytest.approx(other["values"], abs=0.05)  # 40 examples: one may fall otherwise
