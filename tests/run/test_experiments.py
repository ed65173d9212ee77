"""Every experiment: its presets resolve, official values are the published ones, its tiny variant runs to the end."""

import importlib
import math
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import jdistill
from jdistill import catalog, config, run, schema, stages
from jdistill.stages import sweep

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CARD = REPOSITORY.parent / "shared" / "methods" / "dataset_distillation_matching.md"
CIFAR10 = REPOSITORY.parent / "shared" / "data" / "tfds"
NAMES = sorted(
  path.stem for path in (REPOSITORY / "experiments").glob("*.py") if not path.stem.startswith(("__", "common"))
)
STAGES = {name: stage.fields for name, stage in stages.STAGES.items()}
DSA = "color_crop_cutout_flip_scale_rotate"

# inner steps, expert epochs, image lr, batch, min, current, max start epoch, schedule, lr of lr, label lr, threshold
DATM = {
  "cifar10_ipc1": (80, 2, 100.0, 10, 0, None, 4, None, 1e-7, 5.0, 1.1, "correct"),
  "cifar10_ipc50": (80, 2, 1000.0, 500, 0, 20, 40, 2000, 1e-5, 2.0, 1.0, "correct"),
  "cifar10_ipc1000": (100, 2, 50.0, 1000, 40, None, 60, None, 1e-5, 10.0, 1.0, "correct"),
  "cifar100_ipc50": (80, 2, 1000.0, 1000, 20, None, 70, None, 1e-5, 10.0, 1.0, "real"),
  "tiny_imagenet_ipc1": (40, 2, 10000.0, 1000, 0, 15, 20, 2000, 1e-4, 10.0, 1.0, "correct"),
}
# inner steps, expert epochs, max start epoch, image lr, batch, lr of lr, initial lr
MTT = {
  "cifar10_ipc1": (50, 2, 2, 100.0, None, 1e-7, 0.01),
  "cifar10_ipc10": (30, 2, 20, 100.0, None, 1e-5, 0.001),
  "cifar10_ipc50": (30, 2, 40, 1000.0, None, 1e-5, 0.01),
  "cifar100_ipc1": (40, 3, 20, 1000.0, None, 1e-5, 0.01),
  "cifar100_ipc50": (80, 2, 40, 1000.0, 1000, 1e-5, 0.01),
  "tiny_imagenet_ipc10": (20, 2, 40, 10000.0, 500, 1e-4, 0.01),
}


def _module(name):
  return importlib.import_module(f"experiments.{name}")


def _presets():
  return [(name, preset) for name in NAMES for preset in _module(name).presets()]


def _datm_row(method):
  schedule = None if method["current_start_epoch"] is None else method["schedule_steps"]
  names = ("inner_steps", "expert_epochs", "image_lr", "batch_size", "min_start_epoch", "current_start_epoch")
  rest = ("lr_lr", "label_lr", "threshold", "initial")
  return (*(method[name] for name in names), method["max_start_epoch"], schedule, *(method[name] for name in rest))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_says_how_to_run_it_and_defaults_to_its_first_preset(name):
  module = _module(name)
  assert f"--config=experiments/{name}.py" in module.__doc__
  assert re.search(r"arXiv \d{4}\.\d{4,5}|https://", module.__doc__)
  assert module.get_config().to_dict() == module.get_config(module.presets()[0]).to_dict()
  assert "tiny" in module.presets()
  with pytest.raises(ValueError, match=r"unknown preset 'nope'; choose one of .*tiny"):
    module.get_config("nope")


@pytest.mark.parametrize(("name", "preset"), _presets())
def test_every_preset_resolves(name, preset):
  experiment = _module(name).get_config(preset)
  grid = [cell.config for cell in sweep.cells(experiment)] if experiment.get("sweep") else [experiment]
  bases = experiment.get("sweep", {}).get("bases", {}).values()  # experiments of other names
  for one in grid:
    resolved = stages.resolve(one)
    assert resolved["name"] in ([base.name for base in bases] or [name])
    assert resolved["method"]["name"] in catalog.names()
    if "_ipc" in preset:
      assert preset == f"{resolved['dataset']}_ipc{resolved['ipc']}"


def _shown(section, config):
  """What an experiment must show of a section, `Named` or `Plain`, so that the command line can set it."""
  return {"name": schema.Field(str)} | section.shown(config.name) if hasattr(section, "shown") else section.fields


@pytest.mark.parametrize(("name", "preset"), _presets())
def test_the_command_line_reaches_every_option_of_every_section(name, preset):
  experiment = _module(name).get_config(preset)
  declared = config.declared(catalog.row(experiment.method.name), STAGES)
  for part in declared:
    for key, field in part.keys.items():
      assert issubclass(experiment.get_type(key), field.kind), key
    for title, section in part.sections.items():
      for key, field in _shown(section, experiment[title]).items():
        found = experiment[title].get_type(key)  # of the right type, so that an override is parsed
        assert issubclass(found, (field.kind, list) if field.kind is tuple else field.kind), (title, key, found)


def test_every_method_and_policy_of_the_catalog_has_its_experiment():
  for row in catalog.rows():
    path = REPOSITORY / row.config
    assert path.is_file()
    experiment = _module(path.stem).get_config()
    assert (experiment.data_policy if row.policy else experiment.method).name == (row.policy_name or row.name)


@pytest.mark.parametrize("preset", DATM)
def test_datm_uses_the_published_settings(preset):
  resolved = stages.resolve(_module("datm").get_config(preset))
  assert _datm_row(resolved["method"]) == DATM[preset]


def test_datm_uses_every_row_of_the_table_of_official_settings():
  if not CARD.exists():
    pytest.skip("the table of official settings is not beside the repository")
  found = {}
  for line in CARD.read_text().splitlines():
    if match := re.match(r"\| (C10|C100|Tiny) IPC(\d+) \| ([^-].*) \|$", line):
      cells = [cell.strip(" *") for cell in match[3].split("|")]
      if len(cells) != 11 or not cells[0].isdigit():
        continue
      current, _, upper = cells[5].replace("fixed ", "None→").partition("→")
      row = (*(int(c) for c in cells[:2]), float(cells[2]), *(int(c) for c in cells[3:5]))
      row += (None if current == "None" else int(current), int(upper), None if cells[6] == "-" else int(cells[6]))
      row += (*(float(c) for c in cells[7:10]), cells[10])
      dataset = {"C10": "cifar10", "C100": "cifar100", "Tiny": "tiny_imagenet"}[match[1]]
      found[f"{dataset}_ipc{match[2]}"] = row
  assert len(found) == 12
  assert found.keys() == {name for name in _module("datm").presets() if "_ipc" in name}
  for preset, row in found.items():
    assert _datm_row(stages.resolve(_module("datm").get_config(preset))["method"]) == row, preset


@pytest.mark.parametrize("preset", ["cifar10_ipc10", "cifar100_ipc1", "tiny_imagenet_ipc50"])
def test_datm_shares_teachers_networks_and_protocol(preset):
  c = stages.resolve(_module("datm").get_config(preset))
  assert (c["preprocessing"], c["steps"], c["train_size"]) == ("zca", 10000, None)
  depth = 4 if preset.startswith("tiny_imagenet") else 3
  assert {key: c["model"][key] for key in ("name", "width", "depth", "norm", "act", "pooling", "init")} == {
    "name": "convnet",
    "width": 128,
    "depth": depth,
    "norm": "instance",
    "act": "relu",
    "pooling": "avg",
    "init": "torch",
  }
  assert (c["teachers"]["count"], c["teacher"], c["teacher_method"]["name"]) == (100, c["model"], "ce")
  assert c["teacher_data_policy"] == {"name": "shuffle", "drop_last": False}
  plain = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "clip": None}
  plain |= {"schedule": "constant", "warmup_epochs": 0.0, "ema_decay": None, "precision": "float32"}
  own = {"epochs": 100, "batch_size": 256, "rho": 0.01, "alpha": 0.3, "adaptive": True, "augment": DSA}
  assert {key: c["teacher_train"][key] for key in plain | own} == plain | own
  e, m = c["eval"], c["method"]
  assert (e["seeds"], e["epochs"], e["batch_size"], e["momentum"], e["weight_decay"]) == (5, 1000, 128, 0.9, 5e-4)
  assert (e["augment"], m["augment"]) == (DSA, DSA)
  assert (m["image_momentum"], m["label_momentum"], m["lr_momentum"], m["lr_init"]) == (0.5, 0.9, 0.5, 0.01)
  assert (m["learn_labels"], m["labels"], m["ema_decay"]) == (True, "soft", None)


@pytest.mark.parametrize("preset", MTT)
def test_mtt_uses_the_published_settings(preset):
  c = stages.resolve(_module("mtt").get_config(preset))
  m = c["method"]
  names = ("inner_steps", "expert_epochs", "max_start_epoch", "image_lr", "batch_size", "lr_lr", "lr_init")
  assert tuple(m[name] for name in names) == MTT[preset]
  assert (m["min_start_epoch"], m["current_start_epoch"]) == (0, None)
  assert (m["threshold"], m["learn_labels"], m["labels"], m["initial"]) == (None, False, "hard", "real")
  assert (m["image_momentum"], m["lr_momentum"], m["augment"]) == (0.5, 0.5, DSA)
  assert (c["steps"], *(c["teacher_train"][key] for key in ("epochs", "rho", "lr"))) == (5000, 50, 0.0, 0.01)
  assert (c["eval"]["batch_size"], c["eval"]["epochs"]) == (256, 1000)
  assert c["model"]["depth"] == (4 if preset.startswith("tiny_imagenet") else 3)


def _check_sweep(name, summary, work, again):
  assert (work / "figure.png").is_file()
  if "best" in summary:
    two = {"SRe2L", "RDED"}
    rows = {
      "compare_matching": {"IPC 1": {"MTT", "DM", "KIP", "random_hard", "herding_hard"}},
      "compare_compression": {
        "IPC 1": {*two, "random_hard"},
        "IPC 1, dbr": {*two, "random", "graph_cut"},
      },
    }
    early_and_late = {"IPC 1": {"early", "late", "random_hard", "random_soft", "full_data"}}
    assert {group: set(found) for group, found in summary["groups"].items()} == rows.get(name, early_and_late)
    assert set(summary["best"]) == set(summary["groups"])
    assert all(len(scores) == 1 for found in summary["groups"].values() for scores in found.values())
    assert again() == summary
  else:
    pairs, small, half = ("few labels, convnet to convnet", "few labels, convnet to mixer"), "2 per class", "50 %"
    arms = {  # in which runs some of them are
      "compare_knowledge": {"ce": {*pairs}, "kd": {*pairs}, "ofa": {pairs[1]}},
      "deepcore": {label: {f"{small}, equal steps"} for label in ("facility_location", "random")},
      "dq": {label: {"half, equal steps"} for label in ("dq", "dq_cam_decoder")},
      "kd_pruning": {label: {f"{half}, equal steps"} for label in ("kd_pruning", "labels")},
    }
    found = {label: set(differences) for label, differences in summary["differences"].items()}
    assert found.items() >= arms[name].items() and summary["reference"] in arms[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_variant_runs_to_the_end(name, tmp_path):
  experiment, work = _module(name).get_config("tiny"), tmp_path / "work"

  def once():
    with open(tmp_path / "log.txt", "w") as log:
      return run.run_experiment(experiment, work, stream=log)

  summary = once()
  for file in ("summary.json", "report.md", "report.html"):
    assert (work / file).stat().st_size > 0
  if experiment.get("sweep"):
    _check_sweep(name, summary, work, once)
  else:
    arms, metric = summary["arms"], summary["metric"]
    has_set = {"evaluate", "transfer"} & set(experiment.stages)
    own = "distilled" if has_set else experiment.get("subject") or experiment.method.name
    assert own in arms and summary["reference"] in arms and summary["failed"] == []
    for arm in arms.values():
      assert all(math.isfinite(value) for value in arm["scores"][metric])
      assert arm["mean"] == pytest.approx(np.mean(arm["scores"][metric]))
    if own == "distilled":
      models = experiment.eval.models if "eval" in experiment else [experiment.model.name]
      assert summary["models"][models[0]] == arms
      soft = name == "datm" or catalog.row(name).toy.get("kind") == "regression"
      assert jdistill.load(work).labels.ndim == (2 if soft else 1)


def test_a_sweep_without_an_evaluation_is_refused(call, tmp_path):
  sweep = "--config=experiments/datm_difficulty.py:tiny"
  complaint = call(sweep, "--config.stages=teachers,distill", f"--workdir={tmp_path / 'work'}").complaint
  assert complaint.startswith("stages=['teachers', 'distill']: a sweep compares results; it needs evaluate")
  assert not (tmp_path / "work").exists()


def test_a_sweep_refuses_a_mistake_in_any_of_its_runs_before_the_first(call, tmp_path):
  sweep = "--config=experiments/datm_difficulty.py:tiny"
  complaint = call(sweep, "--config.teacher_train.epochs=3", f"--workdir={tmp_path / 'work'}").complaint
  assert "method.max_start_epoch=3" in complaint  # of the late range, the last one
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.tex").write_text("precious")
  assert "not that of a sweep" in call(sweep, f"--workdir={tmp_path / 'other'}").complaint
  assert not (tmp_path / "work").exists()


def _tiny(dataset, **sizes):
  experiment = _module("datm").get_config("tiny")
  experiment.dataset = str(dataset)
  experiment.train_size, experiment.test_size = None, None
  experiment.update(sizes)
  experiment.teacher_train.batch_size = 20
  return experiment


def _finished(experiment, tmp_path):
  with open(tmp_path / "log.txt", "w") as log:
    run.run_experiment(experiment, tmp_path / "work", stream=log)
  return jdistill.load(tmp_path / "work")


def _pictures(count):
  """`count` 8x8 pictures of two classes: dark and bright ones."""
  labels = np.arange(count) % 2
  noise = np.random.default_rng(count).integers(0, 100, (count, 8, 8))
  return (noise + 150 * labels.reshape(-1, 1, 1)).astype(np.uint8), labels


@pytest.mark.slow
def test_a_set_of_ones_own_as_arrays_runs_to_the_end(tmp_path):
  (train, train_labels), (test, test_labels) = _pictures(40), _pictures(20)
  file = tmp_path / "mine.npz"
  np.savez(file, x_train=train, y_train=train_labels, x_test=test, y_test=test_labels, class_names=["dark", "bright"])
  distilled = _finished(_tiny(file), tmp_path)
  assert distilled.images.shape == (2, 8, 8, 1)
  assert distilled.class_names == ("dark", "bright")
  assert distilled.pixels[0].mean() < distilled.pixels[1].mean()
  assert distilled.evaluate(seeds=1).accuracies[0] >= 0  # finds its own test images again


@pytest.mark.slow
def test_a_set_of_ones_own_as_a_folder_runs_to_the_end(tmp_path):
  for split, count in (("train", 40), ("test", 20)):
    for index, (pixels, label) in enumerate(zip(*_pictures(count), strict=True)):
      folder = tmp_path / "mine" / split / ("bright" if label else "dark")
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(pixels).save(folder / f"{index}.png")
  experiment = _tiny(tmp_path / "mine", ipc=2)
  distilled = _finished(experiment, tmp_path)
  assert distilled.images.shape == (4, 8, 8, 1)
  assert distilled.class_names == ("bright", "dark")
  assert distilled.pixels[:2].mean() > distilled.pixels[2:].mean()


@pytest.mark.slow
@pytest.mark.network
def test_a_tfds_set_runs_to_the_end(tmp_path):
  if not (CIFAR10 / "cifar10").is_dir():
    pytest.skip("CIFAR-10's TFDS files are not beside the repository")
  experiment = _tiny("cifar10", data_dir=str(CIFAR10), train_size=100, test_size=50)
  experiment.stages = ("teachers", "distill", "export")
  distilled = _finished(experiment, tmp_path)
  assert distilled.images.shape == (10, 32, 32, 3)
  assert len(distilled.class_names) == 10
  assert distilled.provenance["dataset"]["name"] == "cifar10"
