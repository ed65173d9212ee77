"""Scores of chunks: who trains on what, what is kept by them, what is shared, resumption, and what is refused."""

import io
import json
import re

import numpy as np
import pytest
from knowledge_runs import experiment as images
from knowledge_runs import one_step_at_a_time

from experiments import ddk, miniplm
from jdistill import run
from jdistill.base import UserError
from jdistill.data.policies import Chosen, selected
from jdistill.files import read_npz, read_record
from jdistill.jobs import choices, scoring, subset
from jdistill.runs import lines
from jdistill.stages import STAGES, Interrupted, run_stages

pytestmark = pytest.mark.usefixtures("compiled_once")
RULES = {
  "miniplm": lambda teacher, reference: reference - teacher,
  "likely": lambda teacher, reference: -teacher,
  "hard": lambda teacher, reference: reference,
}


def experiment(arms=None, **changes):
  """The tiny experiment with every scorer; 80 chunks, 4 of which are set aside."""
  config = miniplm.get_config("tiny")
  config.stages, config.seeds, config.reference = ("teachers", "select"), 2, None
  arms = {"random": {"select/name": "random"}} if arms is None else arms
  config.proxy_train.epochs = 4
  with config.unlocked():
    config.arms, config.order = arms, ("miniplm", *arms)
    for name, value in changes.items():
      section, _, key = name.partition("__")
      if key:
        config[section][key] = value
      else:
        config[section] = value
  return config


EVERY = {
  "likely": {"select/name": "teacher_likelihood"},
  "hard": {"select/name": "reference_loss"},
  "random": {"select/name": "random"},
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
  """The work directory of a finished run of the stages `teachers` and `select`, and the run. Not to be written to."""
  root = tmp_path_factory.mktemp("scores")
  one = run.make_run(experiment(EVERY), root / "work", root / "artefacts", io.StringIO())
  with pytest.MonkeyPatch.context() as monkeypatch:
    one_step_at_a_time(monkeypatch)
    run_stages(one)
  return root, one


def losses(root):
  """Means per token of each kind, by position."""
  found = {}
  for path in (root / "artefacts" / "scores").iterdir():
    kind = read_record(path / "scores.json")["identity"]["losses"]
    assert kind not in found  # all arms share them
    arrays = read_npz(path / "scores.npz")
    found[kind] = arrays["losses"][0] / arrays["losses"][1], arrays["positions"], arrays["ids"]
  return found


def test_what_is_kept_is_what_the_rule_says_in_the_order_of_the_corpus(scored):
  root, one = scored
  found, arm = losses(root), one.config["arms"]["miniplm"]
  (teacher, positions, ids), (reference, others, _) = found[scoring.TEACHER], found[scoring.REFERENCE]
  np.testing.assert_array_equal(positions, others)
  aside = subset.set_aside(one, arm)
  assert len(aside) == 4 and not set(aside) & set(positions) and len(positions) == 76
  np.testing.assert_array_equal(ids, one.task().data.ids[positions])
  np.testing.assert_array_equal(scoring.job_of(one, "", arm).members, aside[None])
  for label, rule in RULES.items():
    kept = choices.ready(one, label, one.config["arms"][label], [0, 1], "select").chosen.positions
    score = rule(teacher, reference)
    want = sorted(positions[sorted(range(76), key=lambda i, score=score: -score[i])[: int(0.48 * 76)]])
    assert kept[0].tolist() == kept[1].tolist() == want, label
  any_ = choices.ready(one, "random", one.config["arms"]["random"], [0, 1], "select").chosen.positions
  assert any_.shape == kept.shape and (np.diff(any_) > 0).all() and not set(aside) & set(any_.ravel())
  assert any_[0].tolist() != any_[1].tolist()


def test_the_record_tells_losses_by_domain_and_the_work(scored):
  root, one = scored
  record = one.finished("select")["choices"]["miniplm"]
  found = losses(root)
  domain = one.task().data.extra["domain"][found[scoring.TEACHER][1]]
  difference = found[scoring.REFERENCE][0] - found[scoring.TEACHER][0]
  for number, name in enumerate(("repeats", "structured", "noise")):
    mine = domain == number
    assert record["losses"][name]["difference"] == pytest.approx(difference[mine].mean(), rel=1e-9)
    auc = np.mean(difference[mine][:, None] > difference[~mine])
    assert record["losses"][name]["auc"] == pytest.approx(auc, abs=1e-12)
  assert record["teacher_flops"] > 0 and record["reference_flops"] > 0
  assert sum(np.mean(shares) for shares in record["domains"].values()) == pytest.approx(1)
  section = STAGES["select"].report(one, one.finished("select")).sections[1]
  assert section.title == "Scores" and "AUC" in section.table[0]


def test_a_reference_that_is_interrupted_goes_on_to_the_same_scores(scored, tmp_path, monkeypatch):
  one_step_at_a_time(monkeypatch)
  config = experiment({})
  one = run.make_run(config, tmp_path / "work", tmp_path / "artefacts", io.StringIO())
  STAGES["teachers"].run(one)

  class Writer(lines.JsonlWriter):
    """Asks the run to stop in the middle."""

    def write(self, step, metrics):
      super().write(step, metrics)
      one.stop_requested = True

  monkeypatch.setattr(lines, "JsonlWriter", Writer)
  with pytest.raises(Interrupted, match="reference of miniplm: step 2 of about 4 is saved"):
    STAGES["select"].run(one)
  monkeypatch.undo()
  one_step_at_a_time(monkeypatch)
  one = run.make_run(config, tmp_path / "work", tmp_path / "artefacts", io.StringIO())
  STAGES["select"].run(one)
  for kind, (want, _, _) in losses(scored[0]).items():
    np.testing.assert_array_equal(losses(tmp_path)[kind][0], want)


def test_the_order_of_a_choice_can_be_kept():
  own = Chosen(np.array([[2, 3, 5, 8, 9]]), np.ones((1, 5)))
  policy = selected(10, 2, own, shuffled=False)
  block, _ = policy.next(None, policy.init(None), 0, None)
  assert np.asarray(block.index)[np.asarray(block.weight) > 0].tolist() == [2, 3, 5, 8, 9]
  assert policy.steps == 3 and np.asarray(block.weight).sum() == 5


def refused(config, tmp_path, stage="select"):
  one = run.make_run(config, tmp_path / "work", tmp_path / "artefacts", io.StringIO())
  with pytest.raises(UserError) as caught:
    STAGES[stage].check(one)
  assert "\n" not in str(caught.value) and not (tmp_path / "work").exists()
  return str(caught.value)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"select__reference": 0.0},
      r"miniplm: select\.reference=0\.0: miniplm needs examples that a reference",
    ),
    ({"select__reference": 0.01}, r"miniplm: select\.reference=0\.01: miniplm needs examples"),
    ({"select__fraction": 0.01}, r"miniplm: select\.fraction=0\.01: keeps none of 76 chunks; raise it"),
    ({"select__name": "el2n"}, "selectors need one label for every example.*or one of random, miniplm, teacher"),
    ({"select__name": "k_center"}, "selectors need one label for every example"),
  ],
)
def test_a_choice_of_chunks_that_cannot_be_made_is_refused(changes, words, tmp_path):
  assert re.search(words, refused(experiment({}, **changes), tmp_path))


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"name": "miniplm"}, r"kd: select\.name='miniplm': scores rows of tokens, and task\.name='supervised' has others"),
    ({"name": "random", "reference": 0.1}, r"kd: select\.reference=0\.1: is set aside for language models"),
  ],
)
def test_images_have_no_scores_of_chunks(changes, words, tmp_path):
  config = images({}, tune={}, reference=None)
  config.data_policy.name = "selected"
  for key, value in changes.items():
    config.select[key] = value
  assert re.search(words, refused(config, tmp_path))


def test_a_reference_larger_than_the_teacher_is_told(tmp_path):
  said = io.StringIO()
  config = experiment({}, proxy__width=64)
  one = run.make_run(config, tmp_path / "work", tmp_path / "artefacts", said)
  STAGES["select"].check(one)
  assert re.search(r"miniplm: the reference has [\d,]+ parameters and the teacher [\d,]+", said.getvalue())


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"method/name": "sft"},
      r"data_policy\.name='ddk': compares with a teacher, and sft has none; choose a method",
    ),
    ({"targets/source": "cached"}, r"data_policy\.name='ddk': asks the teacher about held-out examples.*'online'"),
  ],
)
def test_ddk_without_a_teacher_to_ask_is_refused(changes, words, tmp_path):
  config = ddk.get_config("tiny")
  with config.unlocked():
    config.arms, config.order, config.reference = {"other": changes}, ("ddk", "other"), None
    config.arms["other"]["start_method/name"] = "none"
  assert re.search(words, refused(config, tmp_path, "students"))


def test_presets_share_the_work_as_the_paper_does():
  config = json.loads(miniplm.get_config("mixed").to_json_best_effort())
  steps = lambda arm: (config["train"] | {k.partition("/")[2]: v for k, v in arm.items()})["epochs"]  # noqa: E731
  kept = -(-int(miniplm.KEPT * miniplm.POOL) // 32)
  matched = config["arms"]["vanilla_kd"]["select/per_class"] / 32
  n_s, n_t = 12 * 64**2 * 2, 12 * 128**2 * 3
  assert abs(matched - 3 * n_s / (3 * n_s + n_t) * steps({}) * kept) <= 0.5
  assert steps(config["arms"]["all_data"]) == 1 and config["arms"]["all_data"]["select/fraction"] == 1  # each row once
