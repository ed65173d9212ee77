"""Stage `federate`: what it refuses before any work, how it resumes, and its plan."""

import io

import pytest
from tiny_experiments import tiny

from jdistill import run, stages
from jdistill.base import UserError
from jdistill.stages import topology


def experiment(name="fedlgd", **changes):
  return tiny(name, **changes)


REFUSED = {
  "a client without a class": (
    {"task__least": 0, "task__alpha": 0.01},
    r"fedlgd: client \d has no image of class \d, whose mean and deviation .*; raise task\.least, or train on real",
  ),
  "a task without clients": (
    {"task": {"name": "supervised"}},
    r"task\.name: this task's examples belong to no clients; set task\.name='clients'",
  ),
  "no normalisation": (
    {"method__local_norm": True},
    r"fedlgd: method\.local_norm=True: the network has no parameters of normalisation layers; set it to False",
  ),
  "a rate of zero": ({"method__lr": 0.0}, r"method\.lr=0\.0: must be above 0"),
  "an unknown transport": ({"transport__name": "flowr"}, r"transport\.name='flowr': unknown; did you mean 'flower'"),
  "nobody takes part": ({"participation": 0.0}, r"participation=0\.0: must be above 0"),
  "an unknown reference": ({"reference": "fedavgg"}, r"reference='fedavgg': no such arm"),
  "an unknown option of an arm": (
    {"arms": {"fedavg": {"method/name": "fedavg", "method/proximl": 1.0}}, "order": None},
    r"arms\.fedavg: method\.proximl=1\.0: fedavg has no such option; did you mean 'proximal'",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_refused_before_anything_is_written(case, tmp_path):
  changes, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    run.run_experiment(experiment(**changes), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value) and not (tmp_path / "work").exists()


def test_the_transport_is_no_part_of_the_name_of_a_run():
  names = {stages.label(stages.resolve(experiment(transport__name=name))) for name in ("in_process", "flower")}
  assert len(names) == 1


def test_a_plan_for_tpus_is_refused(tmp_path):
  one = run.make_run(experiment(), tmp_path / "work", stream=io.StringIO())
  with pytest.raises(UserError, match=r"--topology=v5e:2x4: plans steps of .*, and this run has federate, report"):
    topology.show(one, "v5e:2x4")


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path):
  config = experiment("fedprox")
  whole = run.run_experiment(config, tmp_path / "whole", stream=io.StringIO())
  one = run.make_run(config, tmp_path / "parts", stream=io.StringIO())
  asked = iter([False] * 3 + [True] * 100)
  one.stops = lambda: next(asked)
  with pytest.raises(stages.Interrupted, match="round 1 of 2 of seed 1 is saved"):
    stages.run_stages(one)
  again = run.run_experiment(config, tmp_path / "parts", stream=io.StringIO())
  assert {label: arm["scores"] for label, arm in again["arms"].items()} == {
    label: arm["scores"] for label, arm in whole["arms"].items()
  }
  curve = whole["arms"]["fedprox"]["curve"]
  assert [point["round"] for point in curve] == [1, 2] and len(curve[0]["scores"]) == 2
  assert (tmp_path / "whole" / "curves" / "rounds.png").exists()
  plan = stages.STAGES["federate"].plan(one)
  assert plan[0][0].startswith("fedprox: 2 x 2 rounds of 3 clients, mlp (") and "per client and round" in plan[0][1]
