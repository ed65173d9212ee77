"""Stage `select`: what is chosen, from which proxies, what it costs, and what is refused before any work."""

import io
import re
import shutil

import jax
import numpy as np
import pytest
from knowledge_runs import experiment, one_step_at_a_time
from test_train import DATA, NETWORK, TRAIN, N, Run

from jdistill import run
from jdistill.base import Batch, UserError
from jdistill.data.policies import Chosen, selected
from jdistill.files import read_npz, read_record
from jdistill.jobs import choices, train
from jdistill.methods.knowledge import logits
from jdistill.runs import lines
from jdistill.stages import STAGES, Interrupted, resolve, run_stages

pytestmark = pytest.mark.usefixtures("compiled_once")
ARMS = {
  "same": {"method/name": "ce"},
  "far": {"method/name": "ce", "select/name": "k_center"},
  "any": {"method/name": "ce", "select/name": "random"},
  "all": {"method/name": "ce", "data_policy/name": "shuffle"},
}


def selecting(arms=ARMS, **changes):
  """The tiny experiment of KD on what EL2N keeps: a fifth of 50 examples, 2 or less of each class."""
  config = experiment(arms, tune={}, score_every=1, target_scores=(0.01, 1.0), reference=None)
  config.data_policy.name, config.select.name, config.select.fraction, config.select.runs = "selected", "el2n", 0.4, 2
  config.proxy.name, config.proxy.widths = "mlp", (6,)
  config.proxy_train.epochs, config.proxy_train.batch_size = 3, 25
  for name, value in changes.items():
    section, _, key = name.partition("__")
    config[section][key] = value
  return config


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
  """A finished run, its work directory and what it printed. Not to be written to."""
  root, said = tmp_path_factory.mktemp("select"), io.StringIO()
  with pytest.MonkeyPatch.context() as monkeypatch:
    one_step_at_a_time(monkeypatch)
    summary = run.run_experiment(selecting(), root / "work", stream=said)
  return root, summary, said.getvalue()


def artefact(root, selector):
  """The arrays of a choice."""
  for path in (root / "artefacts" / "choices").iterdir():
    if read_record(path / "choice.json")["identity"]["select"]["name"] == selector:
      return read_npz(path / "choice.npz")
  raise AssertionError(selector)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_what_is_kept_is_what_the_proxies_are_most_wrong_about_in_every_class(chosen, tmp_path):
  root, _, _ = chosen
  (proxies,) = (root / "artefacts" / "proxies").iterdir()  # EL2N and k-center ask the same
  task = run.make_run(selecting(), tmp_path / "work", stream=io.StringIO()).task()
  found = artefact(root, "el2n")
  assert found["positions"].shape == (2, 20) and (found["weights"] == 1).all()
  for seed in range(2):
    y = np.asarray(task.data.y)[task.members(seed)]
    z = read_npz(proxies / f"answers{seed}.npz")["logits"].astype(np.float64)
    assert z.shape == (2, 50, 10)
    error = np.linalg.norm(softmax(z) - np.eye(10)[y], axis=-1).mean(0)
    want = [own[np.argsort(-error[own], kind="stable")[:2]] for own in (np.flatnonzero(y == c) for c in range(10))]
    assert set(found["positions"][seed].tolist()) == set(np.concatenate(want).tolist())
  assert set(found["positions"][0].tolist()) != set(found["positions"][1].tolist())


def test_arms_that_select_alike_share_the_choice_and_its_cost_counts_in_time(chosen):
  root, summary, said = chosen
  assert len(list((root / "artefacts" / "choices").iterdir())) == 3  # el2n, k_center, random
  arms, found = summary["arms"], summary["choices"]
  assert set(found) == {"kd", "same", "far", "any"} and found["kd"] == found["same"]
  assert found["kd"]["kept"] == [20, 20] and found["kd"]["examples"] == 50
  for label, one in found.items():
    assert arms[label]["prepare_seconds"] == pytest.approx(one["proxy_seconds"] + one["select_seconds"])
    first = arms[label]["curve"][0]
    assert arms[label]["time_to"]["0.01"]["seconds"] == pytest.approx(arms[label]["prepare_seconds"] + first["seconds"])
    assert arms[label]["time_to"]["0.01"]["steps"] == first["step"] == 1
  assert found["any"]["proxy_seconds"] == 0 < found["far"]["proxy_seconds"]
  assert "prepare_seconds" not in arms["all"] and arms["all"]["time_to"]["1"] is None
  assert "| seconds (steps) to 0.01 |" in said and "never" in said
  report = (root / "work" / "report.md").read_text()
  assert "Selection" in report and "20 of 50" in report


def test_the_same_command_again_chooses_nothing_and_what_is_lost_is_made_again(chosen, tmp_path):
  shutil.copytree(chosen[0], tmp_path / "copy")
  root, said = tmp_path / "copy", io.StringIO()
  run.run_experiment(selecting(), root / "work", stream=said)
  assert not re.search(r"^(select|students)", said.getvalue(), re.MULTILINE)
  before = artefact(root, "el2n")
  (proxies,) = (root / "artefacts" / "proxies").iterdir()
  (proxies / "answers1.npz").write_bytes(b"nothing")
  (place,) = (path.parent for path in (root / "artefacts" / "choices").glob("*/choice.json") if _is_el2n(path))
  (place / "choice.npz").unlink()
  said = io.StringIO()
  run.run_experiment(selecting(), root / "work", stream=said)
  assert re.search(r"^select: .*choice\.npz is missing; it is made again$", said.getvalue(), re.MULTILINE)
  assert re.search(r"^select: .*answers1\.npz is damaged", said.getvalue(), re.MULTILINE)
  after = artefact(root, "el2n")
  assert all((before[name] == after[name]).all() for name in before)


def _is_el2n(path):
  return read_record(path)["identity"]["select"]["name"] == "el2n"


def test_proxies_that_are_interrupted_go_on_to_the_same_choice(chosen, tmp_path, monkeypatch):
  one_step_at_a_time(monkeypatch)
  root = tmp_path / "again"
  shutil.copytree(chosen[0] / "artefacts" / "teachers", root / "artefacts" / "teachers")
  one = run.make_run(selecting(), root / "work", root / "artefacts", io.StringIO())

  class Writer(lines.JsonlWriter):
    """Asks the run to stop in the middle of the proxies' second epoch."""

    def write(self, step, metrics):
      super().write(step, metrics)
      one.stop_requested = one.stop_requested or step == 2

  monkeypatch.setattr(lines, "JsonlWriter", Writer)
  with pytest.raises(Interrupted, match="proxies of kd: step 3 of about 6 is saved"):
    run_stages(one)
  monkeypatch.undo()
  one_step_at_a_time(monkeypatch)
  one = run.make_run(selecting(), root / "work", root / "artefacts", io.StringIO())
  STAGES["select"].run(one)
  for name in ("el2n", "k_center"):
    np.testing.assert_array_equal(artefact(root, name)["positions"], artefact(chosen[0], name)["positions"])


def test_an_arm_of_another_selector_keeps_the_budget_and_drops_the_options(tmp_path):
  arms = run.make_run(selecting(select__keep="lowest"), tmp_path / "work", stream=io.StringIO()).config["arms"]
  assert arms["kd"]["select"]["keep"] == "lowest"
  far = arms["far"]["select"]
  assert (far["name"], far["fraction"], far["runs"]) == ("k_center", 0.4, 2) and "keep" not in far
  assert arms["all"]["select"] == arms["all"]["proxy"] == arms["all"]["proxy_train"] == {}


def test_the_plan_names_proxies_once_and_what_is_kept(tmp_path):
  one = run.make_run(selecting(), tmp_path / "work", stream=io.StringIO())
  rows = [row[0] for row in STAGES["select"].plan(one)]
  assert [row for row in rows if row.startswith("proxies")] == [
    "proxies of kd: 4 x mlp (460 parameters), 6 steps, asked after epoch 3"
  ]
  assert "far: k_center keeps 20 of 50 examples, 2 times" in rows and len(rows) == 5


BAD = [
  ({"select__fraction": 0.01}, r"kd: select\.fraction=0\.01: keeps none of the \d+ examples of class 0"),
  ({"select__per_class": 6}, r"kd: select\.per_class=6: class 0 has only 5 examples"),
  ({"select__runs": 0}, r"kd: select\.runs=0: el2n needs logits of a network; set at least 1"),
  ({"select__at_epoch": 9}, r"kd: select\.at_epoch=9: proxies have proxy_train\.epochs=3; lower it"),
  ({"select__name": "bins", "select__n_bins": 6}, r"kd: select\.n_bins=6: class 0 has 5 examples; give 1 to 5$"),
  ({"select__name": "el2m"}, r"select\.name='el2m': unknown; did you mean 'el2n'"),
  ({"select__start": "mean"}, r"select\.start='mean': el2n has no such option; it belongs to k_center"),
  (
    {"teacher_data_policy__name": "selected"},
    r"teacher_data_policy\.name='selected': what is selected are examples of",
  ),
]


UNREAD = r"is read by data_policy\.name='selected' only; set that, too, or leave this out$"


@pytest.mark.parametrize(
  ("arms", "changes", "words"),
  [
    ({}, {}, r"select\.name='el2n': "),
    ({}, {"select__name": "random", "select__fraction": None, "select__runs": None}, r"proxy\.name='mlp': "),
    ({"far": {"select/name": "k_center"}}, {"select__name": "random"}, r"arms\.far: select\.name='k_center': "),
  ],
)
def test_options_of_a_selection_that_nobody_makes_are_refused(arms, changes, words):
  with pytest.raises(UserError, match=f"^{words}{UNREAD}"):
    resolve(selecting(arms, data_policy__name="shuffle", **changes))


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_a_selection_that_cannot_be_made_is_refused_before_any_work(changes, words, tmp_path):
  with pytest.raises(UserError, match=f"^{words}") as caught:
    run.run_experiment(selecting({"same": ARMS["same"]}, **changes), tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "work").exists() and not (tmp_path / "artefacts").exists()


def test_pixels_stand_for_features_where_there_is_no_network(tmp_path):
  config = selecting({}, select__name="k_center", select__runs=0)
  one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
  found = choices.ready(one, "kd", one.config["arms"]["kd"], [0], "select")
  assert found.proxy_seconds == 0 and found.chosen.positions.shape == (1, 20)
  assert not (tmp_path / "artefacts" / "proxies").exists()


def test_a_selector_that_compares_features_needs_no_network(tmp_path):
  config = selecting({}, select__name="bins", select__runs=0, select__vectors_of="features", select__n_bins=2)
  one = run.make_run(config, tmp_path / "work", stream=io.StringIO())
  STAGES["select"].check(one)
  assert choices.ready(one, "kd", one.config["arms"]["kd"], [0], "select").chosen.positions.shape == (1, 20)


def test_a_weight_of_two_is_an_example_that_is_there_twice(tmp_path):
  """Whole-batch SGD with weights 2, 1, 1 against the same examples with the first one twice."""
  schedule = TRAIN | {"batch_size": N, "epochs": 3}
  own = Chosen(np.array([[4, 0, 7]]), np.array([[2.0, 1.0, 1.0]]))

  def trained(members, policy):
    job = train.Job("arm", NETWORK, logits.ce(), schedule, Batch(*DATA), members, [0], policy)
    found, _ = train.run(Run(tmp_path), job, jax.random.key(0), None, stage="students")
    return found.variables["student"].params

  weighted = trained(np.arange(N)[None], lambda size, batch: selected(size, batch, own))
  twice = trained(np.array([[4, 4, 0, 7]]), None)
  np.testing.assert_allclose(weighted, twice, rtol=1e-5)
  alike = trained(np.arange(N)[None], lambda size, batch: selected(size, batch, own, weighted=False))
  assert np.abs(alike - twice).max() > 1e-3
