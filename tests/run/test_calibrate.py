"""The preset `own`: values that nobody set are measured once, stored, and used by everything after."""

import json

import numpy as np
import pytest

import jdistill
from jdistill import run, stages

OWN = (
  "--config=experiments/datm.py:own",
  "--config.train_size=200",
  "--config.test_size=100",
  "--config.model.name=mlp",
  "--config.model.widths=(8,)",
  "--config.time_limit=4s",
  "--config.eval.models=('mlp',)",
  "--config.eval.seeds=2",
  "--config.method.inner_steps=3",
  "--config.teacher_train.epochs=6",
  "--config.teachers.count=2",
  "--config.steps=4",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, call):
  root = tmp_path_factory.mktemp("own")
  ended = call(*OWN, f"--workdir={root / 'work'}")
  assert ended.code == 0, ended.err
  return root / "work", ended


def test_values_are_printed_with_reasons_stored_and_used(finished):
  work, ended = finished
  config = json.loads((work / "config.json").read_text())
  record = json.loads((work / "stages" / "calibrate.json").read_text())
  chosen = {path: value for path, value, _ in record["choices"]}
  for path, value in chosen.items():
    section, _, key = path.rpartition("/")
    assert (config[section] if section else config)[key] == value
    assert f"calibrate: {path.replace('/', '.')}=" in ended.err
  assert {"method/image_lr", "method/lr_init", "teacher_train/lr", "method/max_start_epoch"} <= set(chosen)
  assert json.loads((work / "summary.json").read_text())["calibrated"] == chosen
  assert "## Calibration" in (work / "report.md").read_text()


def test_what_the_user_set_is_not_measured(finished):
  work, _ = finished
  config = json.loads((work / "config.json").read_text())
  chosen = json.loads((work / "stages" / "calibrate.json").read_text())["choices"]
  assert config["method"]["inner_steps"] == 3 and config["steps"] == 4 and config["teacher_train"]["epochs"] == 6
  assert not {"method/inner_steps", "steps", "teacher_train/epochs", "model/width"} & {path for path, _, _ in chosen}


def test_the_same_command_measures_nothing_again(finished, call):
  work, _ = finished
  before = (work / "config.json").read_bytes(), (work / "stages" / "calibrate.json").read_bytes()
  (work / "summary.json").unlink()
  ended = call(*OWN, f"--workdir={work}")
  assert ended.code == 0, ended.err
  assert "calibrate:" not in ended.err
  assert before == ((work / "config.json").read_bytes(), (work / "stages" / "calibrate.json").read_bytes())


def test_a_work_directory_is_recognised_by_its_config_alone(finished, call):
  work, _ = finished
  (work / "claim.json").unlink()
  complaint = call(*OWN, "--config.eval.batch_size=7", f"--workdir={work}").complaint
  assert "belongs to another configuration: eval.batch_size=128 (there) != 7 (now)" in complaint
  ended = call(*OWN, f"--workdir={work}")
  assert ended.code == 0, ended.err
  assert "seed=0 (there) != 1 (now)" in call(*OWN, "--config.seed=1", f"--workdir={work}").complaint


def test_data_that_is_not_known_is_calibrated_by_default(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (40, 6, 6, 1), np.uint8)
  labels = np.arange(40) % 2
  parts = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
  np.savez(tmp_path / "mine.npz", **parts)
  for experiment in ("datm", "mtt"):
    config = run.load_experiment(f"experiments/{experiment}.py")
    config.dataset = str(tmp_path / "mine.npz")
    config.method.image_lr = 3.0
    keys = stages.resolve(config)["calibration"]["keys"]
    assert "method/lr_init" in keys and "method/image_lr" not in keys
  for preset in ("digits", "tiny", "cifar10_ipc10", "cifar10_small"):
    assert not stages.resolve(run.load_experiment(f"experiments/datm.py:{preset}"))["calibration"]["enabled"]


@pytest.mark.parametrize(
  ("flag", "complaint"),
  [
    ("--config.time_limit=soon", "time_limit: 'soon' is no time; write it like '20m', '90s' or '1.5h'"),
    ("--config.time_limit=0m", "time_limit: '0m' is no time"),
    ("--config.calibration.keys=('method/view',)", "calibration.keys: 'method/view' cannot be measured"),
  ],
)
def test_refuses(flag, complaint, tmp_path, call):
  assert complaint in call(*OWN, flag, f"--workdir={tmp_path / 'work'}").complaint


def test_a_run_that_learns_nothing_stops_and_goes_on_if_asked(tmp_path, call):
  command = (
    "--config=experiments/datm.py:tiny",
    "--config.steps=12",
    "--config.method.lr_init=300.0",
    f"--workdir={tmp_path / 'work'}",
  )
  ended = call(*command)
  assert ended.code == 1
  assert "distill: nothing is learned. method.threshold=1: all steps are refused" in ended.err
  assert "method.lr_init" in ended.err
  ended = call(*command, "--config.stop_if_stuck=False")
  assert ended.code == 0, ended.err
  assert "nothing is learned" in ended.err
  assert "no step was accepted" in ended.out + ended.err


def test_the_rate_of_the_set_is_chosen_like_the_controls(finished):
  work, _ = finished
  rate = json.loads((work / "stages" / "evaluations.json").read_text())["mlp/distilled"]["lr"]
  learned = float(np.load(work / "stages" / "kept.npz")["lr"])
  assert any(np.isclose(rate, one) for one in (0.003, 0.01, 0.03, 0.1, learned))
  assert np.isclose(jdistill.load(work / "result").learned_lr, rate)
