"""Stage `active`: what it refuses before any work, what a round sees, that it resumes, and what it records."""

import io

import jax
import numpy as np
import pytest
from tiny_experiments import tiny

from jdistill import run, stages
from jdistill.base import UserError
from jdistill.data.policies import answered
from jdistill.files import read_record
from jdistill.stages import active_rounds, topology
from jdistill.tasks import Request
from jdistill.tasks.active import active


def experiment(name="rad", **changes):
  return tiny(name, **changes)


REFUSED = {
  "an exhausted pool": (
    {"active__queries": 100},
    r"active\.queries=100: 2 rounds ask about 200 examples, and the pool has 150; ask fewer",
  ),
  "an unknown selector": ({"selector": {"name": "margn"}}, r"selector\.name='margn': unknown; did you mean 'margin'"),
  "another selector's option": (
    {"selector": {"name": "margin", "mistakes": 3}},
    r"selector\.mistakes=3: margin has no such option; it belongs to rad",
  ),
  "no estimate of the mistakes": (
    {"validation_size": 0},
    r"selector\.mistakes: open, and no held-out examples to estimate it; set it, or validation_size",
  ),
  "answers without labels": (
    {"arms": {"kd": {"method/name": "kd"}}, "order": None, "reference": None},
    r"kd: active\.answers='teacher': gives no labels, which kd learns from; choose rad or activekd",
  ),
  "two teachers": ({"teachers__count": 2}, r"teachers: one teacher is asked; set count=1"),
  "a start that leaves nothing": ({"task__start": 160}, r"task\.start=160: leaves nothing of the 160 training images"),
  "minority": ({"task__minority": 10}, r"task\.minority=10: must be below the number of classes, 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_refused_before_anything_is_written(case, tmp_path):
  changes, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    run.run_experiment(experiment(**changes), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value) and not (tmp_path / "work").exists()


def test_a_plan_for_tpus_is_refused_and_a_plan_counts_rounds(tmp_path):
  one = run.make_run(experiment("activekd"), tmp_path / "work", stream=io.StringIO())
  with pytest.raises(UserError, match=r"--topology=v5e:2x4: plans steps of .*, and this run has teachers, active"):
    topology.show(one, "v5e:2x4")
  plan = stages.STAGES["active"].plan(one)
  assert plan[0][0].startswith("pcoreset: 2 x 3 trainings of mlp (") and "10 queries by pcoreset" in plan[0][0]


def test_batches_are_full_and_what_is_beside_has_no_answer():
  policy = answered(50, 8, labelled=5, unlabelled=6, steps=3)
  block, _ = policy.next(jax.random.key(0), (), 0, None)
  index = np.asarray(block.index)
  assert index.shape == (3, 14) and policy.steps == 3 and np.all(np.asarray(block.weight) == 1)
  counts = np.bincount(index[:, :8].ravel(), minlength=5)
  assert len(counts) == 5 and np.ptp(counts) <= 1
  beside = index[:, 8:]
  assert beside.min() >= 5 and all(len(set(row)) == 6 for row in beside.tolist())
  assert answered(50, 8, labelled=17).steps == 3
  block, _ = answered(6, 4, labelled=4, unlabelled=9).next(jax.random.key(0), (), 0, None)
  assert sorted(np.asarray(block.index)[0].tolist()) == [0, 1, 2, 3, 4, 5]  # no more than there are
  with pytest.raises(UserError, match=r"labelled=7: of 6 examples"):
    answered(6, 4, labelled=7)


def test_the_teacher_of_the_task_errs_as_asked():
  request = Request("digits", None, 1000, None, "none", 100, 0)
  plain = active(request, start=20, teacher_size=500)
  np.testing.assert_array_equal(np.bincount(plain.teacher.y), 50)
  for seed in (0, 1):
    own = plain.members(seed)
    np.testing.assert_array_equal(np.bincount(plain.data.y[own]), 2)
  assert plain.members(0).tolist() != plain.members(1).tolist()
  assert list(plain.score(lambda x: np.zeros((len(x), 10)), plain.test)) == ["accuracy"]
  noisy = active(request, start=20, teacher_size=500, teacher_noise=0.2)
  where = dict(zip(plain.data.ids.tolist(), plain.data.y.tolist(), strict=True))
  wrong = np.mean([where[i] != y for i, y in zip(noisy.teacher.ids.tolist(), noisy.teacher.y.tolist(), strict=True)])
  assert abs(wrong - 0.2) < 4 * np.sqrt(0.16 / 500)
  thin = active(request, start=20, teacher_size=500, minority=3, minority_share=0.1)
  counts = np.bincount(thin.teacher.y)
  rare = np.flatnonzero(counts < 50)
  assert sorted(counts.tolist()) == [5] * 3 + [50] * 7
  perfect_on_rare = lambda x: np.eye(10)[np.where(np.isin(thin.test.y, rare), thin.test.y, (thin.test.y + 1) % 10)]  # noqa: E731
  assert thin.score(perfect_on_rare, thin.test)["minority"] == 1


def toy_rounds(**changes):
  """Forty examples of which two seeds know ten, and a teacher who holds class 0 of everything."""
  task = active(Request("digits", None, 40, None, "none", 0, 0), start=10)
  start = np.stack([task.members(seed) for seed in range(2)])
  teacher = active_rounds.Asked(np.tile([1.0] + [0.0] * 9, (40, 1)), 0.75)
  arm = {"method": {"name": "activekd"}, "train": {"batch_size": 4}}
  found = active_rounds.Rounds("a", arm, task, None, active_rounds.twice(task.data), start, None, (), teacher)
  return found._replace(**changes)


HOW = {"answers": "labels", "unlabelled": 3, "steps": None}


def test_a_round_sees_answers_with_labels_and_the_pool_without():
  found = toy_rounds()
  asked = active_rounds.pools(found, np.zeros((2, 0), np.int64))[:, :4]
  own, labelled = active_rounds.members(found, asked, HOW)
  assert own.shape == (2, 40) and labelled == 14
  for seed in range(2):
    y, ids = found.data.y[own[seed]], found.data.ids[own[seed]]
    assert (y[:14] >= 0).all() and (y[14:] == -1).all() and sorted(ids.tolist()) == sorted(found.task.data.ids.tolist())
    np.testing.assert_array_equal(ids[:14], found.task.data.ids[[*found.start[seed], *asked[seed]]])
  plain = toy_rounds(arm=found.arm | {"method": {"name": "ce"}})
  own, labelled = active_rounds.members(plain, asked, HOW)
  assert own.shape == (2, 14) and labelled == 14 and (found.data.y[own] >= 0).all()  # no examples without a label


def test_answers_of_the_teacher_hide_the_labels():
  found, how = toy_rounds(), HOW | {"answers": "teacher", "unlabelled": 0}
  asked = active_rounds.pools(found, np.zeros((2, 0), np.int64))[:, :4]
  own, labelled = active_rounds.members(found, asked, how)
  assert labelled == 14 and (found.data.y[own[:, 10:]] == -1).all() and (found.data.y[own[:, :10]] >= 0).all()
  assert (active_rounds.answers(found, asked, how)[:, 10:] == 0).all()
  said = {"probabilities": np.full((40, 10), 0.1), "embedding": np.ones((40, 2))}
  pool, places = active_rounds.look(found, said, 1, asked, how)
  assert len(places) == 26 and not set(places.tolist()) & {*found.start[1].tolist(), *asked[1].tolist()}
  np.testing.assert_array_equal(pool.right, found.task.data.y[places] == 0)
  assert pool.teacher_mistakes == 0.75 * 26 and pool.counts[0] == 1 + 4 and len(pool.labelled_embedding) == 14


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path):
  config = experiment(active__scratch=False)
  whole = run.run_experiment(config, tmp_path / "whole", stream=io.StringIO())
  one = run.make_run(config, tmp_path / "parts", stream=io.StringIO())
  one.stops = lambda: len(read(tmp_path / "parts").get("margin", {}).get("rounds", [])) == 1
  with pytest.raises(stages.Interrupted, match=r"margin: round 1 of 2 comes next"):
    stages.run_stages(one)
  again = run.run_experiment(config, tmp_path / "parts", stream=io.StringIO())
  assert {label: arm["scores"] for label, arm in again["arms"].items()} == {
    label: arm["scores"] for label, arm in whole["arms"].items()
  }
  cells, others = read(tmp_path / "whole"), read(tmp_path / "parts")
  for label, cell in cells.items():
    assert cell["asked"] == others[label]["asked"] and [len(one[0]) for one in cell["asked"]] == [10, 10]
    for seed in range(2):  # nothing is asked about twice
      assert len({*cell["asked"][0][seed], *cell["asked"][1][seed]}) == 20
    assert [one["answers"] for one in cell["rounds"]] == [10, 20, 30] and "right" in cell["rounds"][0]
  first = [cell["rounds"][0]["scores"] for cell in cells.values()]
  assert first[0] == first[1]  # arms differ from the first query on
  assert (tmp_path / "whole" / "curves" / "rounds.png").exists()


def read(workdir):
  path = workdir / "stages" / "rounds.json"
  return read_record(path) if path.exists() else {}
