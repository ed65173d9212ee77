"""Stage `warm_up`: another method moves the images before the run's own."""

import io

import numpy as np
import pytest

from experiments import datm
from jdistill import stages
from jdistill.files import read_json, read_npz, write_npz
from jdistill.jobs import trajectories
from jdistill.run import load_experiment, make_run
from jdistill.stages import Interrupted, distill, warm_up
from jdistill.synthetic import SyntheticSet, expert_label_logits, to_arrays

STEPS = 3
OPTIONS = {"batch_real": 10, "augment": "none"}


def _config():
  config = load_experiment("experiments/datm.py:tiny")
  config.update({"warm_up_steps": STEPS, "steps": 2, "keep": "best", "checkpoint_seconds": 0.0})
  config.warm_up.update(OPTIONS)
  return config


def _set(run, name):
  return SyntheticSet(**read_npz(run.workdir / "stages" / f"{name}.npz"))


@pytest.fixture(name="run", scope="module")
def finished_run(tmp_path_factory):
  log = io.StringIO()
  run = make_run(_config(), tmp_path_factory.mktemp("warm") / "work", stream=log)
  stages.run_stages(run)
  assert f"warm_up: {STEPS} steps of dm" in log.getvalue()
  return run


def test_the_images_are_those_of_a_run_of_the_other_method_from_the_same_start(run, tmp_path):
  config = load_experiment("experiments/dm.py:tiny")
  config.update({"steps": STEPS, "stages": ("distill",)})
  config.method.update(OPTIONS)
  other, initial = make_run(config, tmp_path / "work", stream=io.StringIO()), _set(run, "initial")
  classes = np.arange(len(initial.images), dtype=np.int32)
  write_npz(other.workdir / distill.INITIAL, to_arrays(initial._replace(labels=classes)))
  distill.STAGE.run(other)
  found = _set(run, "warm_up")
  np.testing.assert_allclose(found.images, _set(other, "distilled").images, rtol=1e-5, atol=1e-6)
  assert np.abs(found.images - initial.images).max() > 1e-3


def test_experts_label_the_moved_images_and_the_method_starts_from_them(run):
  found, first = _set(run, "warm_up"), SyntheticSet(**read_npz(run.workdir / "sets" / "0000000.npz"))
  for one, other in zip(first, found, strict=True):
    np.testing.assert_array_equal(one, other)
  logits = trajectories.logits(run, trajectories.ready(run), found.images, range(run.config["teachers"]["count"]))
  np.testing.assert_allclose(found.labels, expert_label_logits(logits, np.arange(10)), rtol=1e-5, atol=1e-5)


def test_the_real_images_can_still_be_kept_and_stay_the_control(run):
  accuracies = read_json(run.workdir / "stages" / "keep.json")["accuracies"]
  assert set(accuracies) == {"-1", "0", "1", "2"}
  assert "| before warm_up |" in (run.workdir / "report.md").read_text()
  real = {image.tobytes() for image in run.task().teacher.x}
  assert all(image.tobytes() in real for image in _set(run, "initial").images)
  assert read_json(run.workdir / "summary.json")["warm_up"] == "dm"


def test_a_run_that_is_stopped_within_goes_on_there(run, tmp_path):
  class Stopping(io.StringIO):
    def write(self, text):
      again.stop_requested |= text.startswith("warm_up:")
      return super().write(text)

  again = make_run(_config(), tmp_path / "work", artefacts=run.artefacts, stream=Stopping())
  with pytest.raises(Interrupted, match="step 1 of 3 is saved"):
    stages.run_stages(again)
  log = io.StringIO()
  stages.run_stages(make_run(_config(), tmp_path / "work", artefacts=run.artefacts, stream=log))
  assert "distill: going on after step 1 of 3" in log.getvalue()
  for one, other in zip(_set(again, "distilled"), _set(run, "distilled"), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  ("values", "words"),
  [
    ({"stages": ("distill", "evaluate")}, "warm_up_steps=3: is the work of the stage warm_up"),
    ({"stages": ("warm_up",), "warm_up_steps": 0}, "stages=.'warm_up',.: there is nothing to do with warm_up_steps=0"),
    ({"warm_up": {"name": "frepo"}}, "warm_up.name='frepo'"),
    ({"warm_up": {"name": "dm", "batch_real": 0}}, "warm_up.batch_real=0: must be at least 1"),
  ],
)
def test_what_does_not_go_together_is_one_line(values, words):
  with pytest.raises(ValueError, match=words):
    stages.resolve(_config().to_dict() | values)


def test_what_the_other_method_refuses_is_told_before_any_work(tmp_path):
  config = _config()
  config.warm_up.classes_at_once = 7
  with pytest.raises(ValueError, match=r"^warm_up: .*classes_at_once"):
    stages.check(make_run(config, tmp_path / "work"))
  assert not (tmp_path / "work").exists()


def test_a_table_gives_no_warm_up_to_a_run_of_fewer_stages():
  config = datm.get_config("own").to_dict() | {"stages": ("teachers", "distill")}
  assert stages.resolve(config)["warm_up_steps"] == 0


def test_a_usual_run_has_no_such_stage():
  assert "warm_up" not in stages.resolve(datm.get_config("tiny"))["stages"]
  assert {"dm", "dc", "datadam"} <= set(warm_up.names()) and not {"datm", "frepo", "sre2l"} & set(warm_up.names())
