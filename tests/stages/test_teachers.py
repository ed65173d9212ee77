"""Teachers of a run: made once, named with their figures, taken from another run, and refused where they do not fit."""

import io
import re
import shutil

import numpy as np
import pytest
from knowledge_runs import ARMS, experiment

from jdistill import run
from jdistill.base import UserError
from jdistill.files import read_record, sha256_file, write_record
from jdistill.jobs import networks

pytestmark = pytest.mark.usefixtures("compiled_once")
ONE = {"ce": ARMS["ce"]}


def test_teachers_are_named_with_figures_and_hash_and_made_once(done):
  teachers = {one["name"]: one for one in done.summary["teachers"]}
  assert set(teachers) == {"teacher", "teacher of others", "teacher wide"}
  assert len({one["hash"] for one in teachers.values()}) == 3
  assert len(list((done.artefacts / "teachers").iterdir())) == 3
  for name, one in teachers.items():
    assert one["scores"][0]["accuracy"] > 0.5
    assert re.search(rf"^{name}: mlp, accuracy 0\.\d+.*; hash {one['hash']}$", done.said, re.MULTILINE)
  assert done.said.index("teacher: mlp") < done.said.index("students: kd")


def test_arms_share_teachers_and_the_arm_that_wants_most_decides_how_many(tmp_path):
  arms = {"ce": ARMS["ce"], "two": {"teachers/count": 2}, "other": {"teacher/widths": (4,)}}
  one = run.make_run(experiment(arms, tune={}), tmp_path / "work", stream=io.StringIO())
  assert [(found.name, found.count) for found in networks.specs(one)] == [("teacher", 2), ("teacher of other", 1)]
  assert not networks.has_teacher(one.config["arms"]["ce"])
  paths = {networks.directory(one, found) for found in networks.specs(one)}
  assert len(paths) == 2 and all(path.parent == one.artefacts / "teachers" for path in paths)


CHANGES = [
  ({"seed": 1}, True),
  ({"validation_size": 30}, True),
  ({"seeds": 3, "log_every": 5}, False),
]


@pytest.mark.parametrize(("change", "differs"), CHANGES)
def test_what_determines_a_teacher_names_it(change, differs, tmp_path):
  def place(config):
    one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
    return networks.directory(one, networks.specs(one)[0])

  assert (place(experiment(ONE, tune={})) != place(experiment(ONE, tune={}, **change))) == differs


def test_sections_of_the_teacher_and_no_others_name_it(tmp_path):
  def place(dotted=None, value=None):
    config = experiment(ONE, tune={})
    if dotted is not None:
      section, key = dotted.split(".")
      config[section][key] = value
    one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
    return networks.directory(one, networks.specs(one)[0])

  own = place()
  for dotted, value in (("teacher.widths", (9,)), ("teacher_train.lr", 0.3), ("teacher_method.label_smoothing", 0.2)):
    assert place(dotted, value) != own, dotted
  assert place("teacher_data_policy.name", "rs2") != own
  for dotted, value in (("student.widths", (9,)), ("train.lr", 0.3), ("method.temperature", 9.0)):
    assert place(dotted, value) == own, dotted


# -- teachers of another run ------------------------------------------------------------------------------------------


def stored(path, **changes):
  config = experiment(ONE, tune={}, **changes)
  config.teachers.stored = str(path)
  return config


def test_a_teacher_of_another_run_teaches_as_it_did_there(done, tmp_path):
  config = stored(done.teacher())
  config.teacher.widths = (99,)  # what the section says does not matter then
  said = io.StringIO()
  summary = run.run_experiment(config, tmp_path / "work", stream=said)
  (mine,), theirs = summary["teachers"], next(t for t in done.summary["teachers"] if t["name"] == "teacher")
  assert (mine["hash"], mine["scores"]) == (theirs["hash"], theirs["scores"])
  assert summary["arms"]["kd"]["scores"] == done.summary["arms"]["kd"]["scores"]
  assert not (tmp_path / "artefacts" / "teachers").exists() and "step" not in said.getvalue().partition("students")[0]


def refused(config, tmp_path):
  """The line of a run that must not begin."""
  with pytest.raises(UserError) as error:
    run.run_experiment(config, tmp_path / "work", stream=io.StringIO())
  assert not (tmp_path / "work").exists() and "\n" not in str(error.value)
  return str(error.value)


def changed(teacher, path, change):
  """A copy of a teacher with other arrays, whose checksums are right."""
  shutil.copytree(teacher, path)
  with np.load(path / "variables.npz") as found:
    arrays = {name: change(value) for name, value in found.items()}
  np.savez(path / "variables.npz", **arrays)
  record = read_record(path / "teacher.json")
  record["files"]["variables.npz"] = sha256_file(path / "variables.npz")
  write_record(path / "teacher.json", record)
  return path


def test_a_stored_teacher_with_its_classes_in_another_order_is_refused(done, tmp_path):
  path = changed(done.teacher(), tmp_path / "permuted", lambda a: np.roll(a, 1, axis=-1) if a.shape[-1] == 10 else a)
  line = refused(stored(path), tmp_path)
  assert line.startswith("teacher: its classes are in another order (accuracy 0.") and "1->0" in line


def test_a_stored_teacher_that_is_not_finite_is_refused(done, tmp_path):
  path = changed(
    done.teacher(), tmp_path / "nan", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a)
  )
  line = refused(stored(path), tmp_path)
  assert line == f"{path / 'variables.npz'}: holds numbers that are not finite; give another teacher"


def test_a_stored_teacher_of_other_classes_or_pixels_is_refused(done, tmp_path):
  rng = np.random.default_rng(0)
  for shape, classes in (((8, 8, 1), 3), ((6, 6, 1), 10)):
    arrays = {}
    for part, count in (("train", 200), ("test", 100)):
      arrays[f"{part}_images"] = rng.random((count, *shape), np.float32)
      arrays[f"{part}_labels"] = np.arange(count) % classes
    np.savez(tmp_path / "set.npz", **arrays)
    line = refused(stored(done.teacher(), dataset=str(tmp_path / "set.npz")), tmp_path)
    assert f"does not fit model mlp with {classes} classes on inputs {shape}; give a teacher of this data" in line


@pytest.mark.parametrize(
  ("name", "content"),
  [("variables.npz", b"PK no archive"), ("teacher.json", b"[]"), ("teacher.json", b'{"scores": 1}')],
)
def test_a_damaged_stored_teacher_is_refused(done, tmp_path, name, content):
  path = tmp_path / "damaged"
  shutil.copytree(done.teacher(), path)
  (path / name).write_bytes(content)
  line = refused(stored(path), tmp_path)
  assert line == (
    f"teachers.stored={str(path)!r}: {path / name} is damaged or was edited (its checksum differs); put the file back "
    "as it was, or give another teacher"
  )


def test_a_directory_without_a_teacher_is_refused(tmp_path):
  line = refused(stored(tmp_path), tmp_path)
  assert line == f"teachers.stored={str(tmp_path)!r}: no teacher there; give a directory of artefacts/teachers"


# -- teachers that cannot teach ---------------------------------------------------------------------------------------


def test_a_run_without_the_stage_tells_where_its_teacher_must_come_from(tmp_path):
  config = experiment(ONE, tune={}, stages=("students", "report"))
  with pytest.raises(UserError, match=r"no teacher there; add 'teachers' to config\.stages, or give the --artefacts"):
    run.run_experiment(config, tmp_path / "work", stream=io.StringIO())


def test_a_teacher_at_chance_is_refused_before_any_student(tmp_path):
  config = experiment(ONE, tune={})
  config.teacher_train.lr, config.teacher_train.epochs = 1e-9, 1
  config.teacher.init = "torch"
  said = io.StringIO()
  with pytest.raises(UserError, match=r"^teacher: accuracy 0\.\d+ is not above chance for 10 classes; train it longer"):
    run.run_experiment(config, tmp_path / "work", stream=said)
  assert "students" not in said.getvalue()


def test_a_teacher_that_would_need_a_teacher_is_refused(tmp_path):
  config = experiment(ONE, tune={})
  config.teacher_method.name = "kd"
  line = refused(config, tmp_path)
  assert line == "teacher: teacher_method.name='kd': learns from a teacher itself; choose 'ce'"
