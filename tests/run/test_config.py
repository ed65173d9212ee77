"""How a configuration is completed: what the user set, then the row of the nearest ipc, the data set's, everybody's."""

import copy
import itertools
import json

import numpy as np
import pytest

from experiments import compare_knowledge, datm, mtt, sre2l
from jdistill import catalog, cli, config, stages
from jdistill.base import UserError


def _experiment(**keys):
  """A DATM configuration of digits; `section__key=value` sets a key of a section."""
  experiment = datm.get_config("digits")
  for key, value in keys.items():
    *path, last = key.split("__")
    section = experiment
    for name in path:
      section = section[name]
    section[last] = value
  return experiment


def _table(tables, **keys):
  experiment = _experiment(**keys)
  experiment.auto = {"*": {"*": datm.tables()["*"]["*"] | {"method/inner_steps": 40}}} | tables
  return experiment


def test_what_the_user_sets_beats_every_table():
  table = stages.resolve(_experiment())
  assert (table["method"]["image_lr"], table["steps"], table["teacher_train"]["lr"]) == (5.0, 600, 0.05)
  own = stages.resolve(_experiment(method__image_lr=7.0, steps=3, teacher_train__lr=0.2))
  assert (own["method"]["image_lr"], own["steps"], own["teacher_train"]["lr"]) == (7.0, 3, 0.2)
  assert own["method"]["label_lr"] == table["method"]["label_lr"] == 2.0


def test_a_falsy_value_is_a_value():
  resolved = stages.resolve(_experiment(method__lr_lr=0.0, method__learn_labels=False, teacher_train__momentum=0.0))
  assert resolved["method"]["lr_lr"] == 0.0
  assert resolved["method"]["learn_labels"] is False


def test_the_more_specific_table_wins():
  tables = {
    "digits": {"*": {"method/inner_steps": 2, "method/image_lr": 20.0}, "1": {"method/inner_steps": 3}},
    "cifar10": {"1": {"method/inner_steps": 4}},
  }
  resolved = stages.resolve(_table(tables))
  assert (resolved["method"]["inner_steps"], resolved["method"]["image_lr"]) == (3, 20.0)
  assert stages.resolve(_table(tables, dataset="cifar10"))["method"]["inner_steps"] == 4
  assert stages.resolve(_table(tables, dataset="mnist"))["method"]["inner_steps"] == 40


@pytest.mark.parametrize(
  ("ipc", "row"), [(1, 2), (2, 2), (4, 2), (9, 2), (10, 10), (49, 10), (50, 50), (51, 50), (900, 50)]
)
def test_the_row_is_that_of_the_largest_listed_ipc_below(ipc, row):
  tables = {"digits": {"*": {}} | {str(n): {"method/inner_steps": n} for n in (10, 50, 2)}}
  assert stages.resolve(_table(tables, ipc=ipc))["method"]["inner_steps"] == row


def test_digits_match_later_epochs_for_more_images():
  ranges = {}
  for ipc in (1, 9, 10, 100):
    method = stages.resolve(_experiment(ipc=ipc))["method"]
    ranges[ipc] = (method["min_start_epoch"], method["max_start_epoch"])
  assert ranges == {1: (0, 3), 9: (0, 3), 10: (5, 15), 100: (5, 15)}


def test_a_file_named_with_a_preset_takes_the_preset_s_settings():
  """Tiny-ImageNet is not in TFDS: its folder is given, and its published settings still hold."""
  experiment = datm.get_config("tiny_imagenet_ipc1")
  named = stages.resolve(experiment)
  experiment.dataset = "/somewhere/tiny-imagenet-200"
  given = stages.resolve(experiment)
  assert config.difference(named, given) == ["dataset='tiny_imagenet' (there) != '/somewhere/tiny-imagenet-200' (now)"]
  assert (given["method"]["image_lr"], given["model"]["depth"]) == (10000.0, 4)
  experiment.ipc = 50
  assert stages.resolve(experiment)["method"]["inner_steps"] == 20  # still the row of the ipc


def test_an_unlisted_set_without_a_preset_is_calibrated():
  resolved = stages.resolve(_experiment(dataset="svhn_cropped", ipc=10))
  assert resolved["calibration"]["enabled"] and resolved["stages"][0] == "calibrate"
  assert "calibrate" not in stages.resolve(_experiment())["stages"]


def test_options_of_another_network_are_left_out_and_its_own_filled_in():
  model = stages.resolve(_experiment(model__name="mlp"))["model"]
  assert model == {"name": "mlp", "widths": [128, 128], "act": "relu", "init": "torch"}
  model = stages.resolve(_experiment(model__name="resnet10"))["model"]
  assert model["norm"] == "instance"
  assert "depth" not in model


def test_the_result_is_plain_complete_and_stable():
  experiment = _experiment()
  before = copy.deepcopy(experiment.to_dict())
  resolved = stages.resolve(experiment)
  assert experiment.to_dict() == before  # a configuration can be resolved twice
  assert stages.resolve(experiment.to_dict()) == resolved  # a plain mapping will do
  assert json.loads(json.dumps(resolved)) == resolved  # as `config.json` gives it back
  assert "auto" not in resolved
  open_keys = {key for key, value in _flat(resolved).items() if value is None}
  assert open_keys <= {
    "data_dir",
    "train_size",
    "test_size",
    "time_limit",
    "method.batch_size",
    "method.clusters",
    "method.current_start_epoch",
    "method.ema_decay",
    "unroll.window",
    "unroll.chunk_size",
    "memory_limit",
    "task.student_size",
    "task.teacher_size",
    "eval.crop_scale",
    "teachers.stored",
    "teachers.weights",
    "teachers.worst_perplexity",
    "teacher_train.clip",
    "teacher_train.ema_decay",
    "parallel.data",
    "parallel.pool",
    "warm_up.classes_at_once",
    "warm_up.clusters",
  }


def _flat(mapping, prefix=""):
  out = {}
  for key, value in mapping.items():
    out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return out


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda c: c.pop("method"), "method: missing"),
    (lambda c: c.update(teacher_train=3), "teacher_train=3: must be a section"),
    (lambda c: c.update(experts={"count": 3}), "experts={'count': 3}: unknown key"),
    (lambda c: c.update(dataset=""), "dataset=''"),
    (lambda c: c.update(ipc=True), "ipc=True: must be of type int"),
    (lambda c: c.update(ipc="3"), "ipc='3': must be of type int"),
    (lambda c: c.update(extra=1), "extra=1: unknown key"),
    (lambda c: c["eval"].update(loss="mae"), "eval.loss='mae'"),
    (lambda c: c["eval"].update(sede=1), "eval.sede=1: unknown key; did you mean 'seeds'"),
    (lambda c: c["auto"].clear(), "there is no default for this data set; give --config."),
    (lambda c: c["teacher_train"].update(lr=float("nan")), "teacher_train.lr=nan"),
    (lambda c: c.update(checkpoint_seconds=np.zeros(3)), "checkpoint_seconds"),
    (lambda c: c.update(name=object()), "cannot be stored as JSON"),
    (lambda c: c["eval"].update(sets=("random_hard",)), "must contain 'distilled'"),
  ],
)
def test_a_mapping_that_is_no_configuration_is_refused_in_one_line(change, words):
  raw = _experiment().to_dict()
  change(raw)
  with pytest.raises(UserError) as caught:
    stages.resolve(raw)
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)


def test_stored_labels_have_no_place_for_another_loss():
  raw = sre2l.get_config("tiny").to_dict()
  raw["eval"]["loss"] = "mse"
  with pytest.raises(UserError, match=r"^eval\.loss='mse': sets with stored labels .*; set it to 'ce'$"):
    stages.resolve(raw)


def test_the_hash_is_that_of_the_values_alone():
  resolved = stages.resolve(_experiment())
  backwards = dict(reversed(resolved.items())) | {"method": dict(reversed(resolved["method"].items()))}
  assert config.config_hash(backwards) == config.config_hash(resolved)
  assert config.config_hash(stages.resolve(_experiment(method__image_lr=5.0))) == config.config_hash(resolved)
  assert config.config_hash(stages.resolve(_experiment(method__image_lr=5.5))) != config.config_hash(resolved)
  assert len(config.config_hash(resolved)) == 16


def test_an_int_is_welcome_for_a_float():
  raw = _experiment().to_dict()
  raw["method"]["image_lr"] = 5
  value = stages.resolve(raw)["method"]["image_lr"]
  assert (value, type(value)) == (5.0, float)


def test_the_difference_names_dotted_keys_and_both_values():
  there, now = {"ipc": 1, "a": {"b": 2, "c": 3}, "old": 0}, {"ipc": 1, "a": {"b": 4, "c": 3}, "new": "x"}
  assert config.difference(there, now) == [
    "a.b=2 (there) != 4 (now)",
    "new=None (there) != 'x' (now)",
    "old=0 (there) != None (now)",
  ]
  assert config.difference(now, now) == []


def test_flat_keys_are_those_that_can_be_set():
  keys = config.flat_keys(_experiment())
  assert {"ipc", "method.image_lr", "model.widths", "eval.models", "data_dir"} <= set(keys)
  assert not [key for key in keys if key.startswith("auto")]


def test_flat_keys_pass_over_what_is_not_set():
  """Groups of a sweep set plain `None`s, to which ml_collections gives no reference."""
  keys = config.flat_keys(compare_knowledge.get_config("digits"))
  assert "task.student_size" in keys and any(key.startswith("sweep.groups.full labels") for key in keys)


@pytest.mark.parametrize("name", catalog.names())
def test_the_template_of_a_method_shows_all_that_it_may_set(name):
  row, found = catalog.row(name), stages.template(name)
  keys = config.flat_keys(found)
  assert {f"method.{key}" for key in row.fields()} <= set(keys)
  for part in config.declared(row, {stage: value.fields for stage, value in stages.STAGES.items()}):
    assert set(part.keys) <= set(found) and set(part.sections) | set(part.free) <= set(found)
  if "model" in found:  # options of every network, for the command line may name another one
    assert {"model.widths", "model.patch", "model.depth"} <= set(keys)
  for section in [key for key in found if key.endswith("data_policy")]:
    assert {f"{section}.drop_last", f"{section}.fraction", f"{section}.replacement"} <= set(keys)
  assert (found.method.name, found.stages) == (name, row.stages)
  values = _flat(found.to_dict())
  assert all(value is None for key, value in values.items() if not key.endswith(".name") and key != "stages")


def test_a_data_policy_is_no_method():
  raw = _experiment().to_dict()
  raw["method"] = {"name": "rs2"}
  with pytest.raises(UserError, match=r"method\.name='rs2': is a data policy; set data_policy\.name='rs2'"):
    stages.resolve(raw)


def test_what_is_open_has_its_declared_default():
  raw = _experiment().to_dict()
  for key in ("ipc", "dataset", "log_every"):
    del raw[key]
  resolved = stages.resolve(raw)
  assert (resolved["ipc"], resolved["dataset"], resolved["log_every"]) == (1, "digits", 10)
  assert resolved["method"]["image_lr"] == 5.0  # of the tables of that set


def test_teachers_have_the_network_of_the_set_unless_told_otherwise():
  resolved = stages.resolve(_experiment(model__width=7))
  assert resolved["teacher"] == resolved["model"] and resolved["teacher"]["width"] == 7
  own = stages.resolve(_experiment(model__width=7, teacher__name="mlp"))
  assert own["teacher"] == {"name": "mlp", "widths": [128, 128], "act": "relu", "init": "torch"}
  assert own["model"]["width"] == 7


def test_a_policy_of_another_name_has_its_own_options():
  resolved = stages.resolve(_experiment(teacher_data_policy__name="rs2"))
  assert resolved["teacher_data_policy"] == {"name": "rs2", "fraction": 0.1, "replacement": False}
  assert stages.resolve(_experiment())["teacher_data_policy"] == {"name": "shuffle", "drop_last": False}


def test_mtt_learns_no_labels_and_accepts_every_step():
  method = stages.resolve(mtt.get_config())["method"]
  assert (method["learn_labels"], method["labels"], method["threshold"], method["initial"]) == (
    False,
    "hard",
    None,
    "real",
  )


@pytest.mark.parametrize(
  ("key", "value", "words"),
  [
    ("auto", 3, "auto=3: must be a mapping of data sets"),
    ("auto", {"digits": [1]}, "auto.digits=[1]: must be a mapping of images per class"),
    ("auto", {"digits": {"one": {}}}, "auto.digits.one: must be a number of images per class, or '*'"),
    ("auto", {"digits": {"1": 5}}, "auto.digits.1=5: must be a mapping of paths"),
    ("published", [1], "published=[1]: must be a section"),
    ("stages", (), "stages=(): nothing to do"),
    ("stages", {"a": 1}, "stages={'a': 1}: must be a list"),
    ("ipc", [1], "ipc=[1]: must be of type int"),
    ("ipc", 10**400, "ipc=1000"),
    ("ipc", 10**6000, "ipc='inf': must be of type int"),
    ("checkpoint_seconds", 10**400, "checkpoint_seconds=1000"),
    ("checkpoint_seconds", float("nan"), "checkpoint_seconds=nan: must be a finite number"),
    ("dataset", "a\nb", "dataset='a\\nb': must be the name"),
    ("name", "../../x", "name='../../x': becomes a part of file names"),
    ("name", "a/b", "name='a/b': becomes"),
    ("name", "a\nb", "name='a\\nb': becomes"),
    ("name", "..", "name='..': becomes"),
    ("name", "", "name='': becomes"),
    ("eval", [1], "eval=[1]: must be a section"),
    ("method", None, "method: missing"),
  ],
  ids=itertools.count(),
)
def test_a_value_of_another_form_is_one_short_line(key, value, words):
  raw = datm.get_config("tiny").to_dict() | {key: value}
  with pytest.raises(UserError) as caught:
    stages.resolve(raw)
  assert str(caught.value).startswith(words) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_another_name_drops_the_options_of_the_former_one():
  """`widths` is what the experiment's MLP has; nobody sets it for the ConvNet."""
  argv = ["run", "--config=experiments/pld.py:tiny", "--config.student.name=convnet", "--config.student.depth=1"]
  found = stages.resolve(cli.parse(argv)["config"].value)["student"]
  assert (found["name"], found["depth"]) == ("convnet", 1) and "widths" not in found
