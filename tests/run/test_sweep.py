"""Sweeps: which runs a grid stands for, and what becomes of their summaries. No run is carried out here."""

import io

import pytest

from experiments import compare_knowledge, compare_matching, datm_difficulty
from jdistill.base import UserError
from jdistill.evaluation import label_robust_score
from jdistill.files import read_json, write_json
from jdistill.reporting import comparison
from jdistill.stages import Interrupted, resolve, sweep


def _summary(arms, reference, metric="accuracy"):
  """A run's `summary.json`, of scores by arm; a message stands for an arm that failed."""
  cells = {
    label: {"failed": scores} if isinstance(scores, str) else {"scores": {metric: scores}}
    for label, scores in arms.items()
  }
  failed = [label for label, cell in cells.items() if "failed" in cell]
  compared = comparison.compare(cells, metric, reference)
  return {"metric": metric, "reference": reference, "arms": compared, "failed": failed}


@pytest.fixture
def carried_out(tmp_path):
  """`(grid, one)` runs a sweep of which `one(cell)` is each run's summary; gives the summary and what was printed."""

  def run(grid, one):
    cells, said = iter(grid), io.StringIO()

    def run_cell(config, directory, log):
      cell = next(cells)
      assert (config, directory.name) == (cell.config, cell.name)
      print("begun", file=log)
      write_json(directory / "summary.json", one(cell))
      return read_json(directory / "summary.json")  # as a run does: what is not finite is a word there

    return sweep.run(grid, "experiment", tmp_path / "work", run_cell, said), said.getvalue()

  return run


def _difficulty(seeds=(0, 1)):
  experiment = datm_difficulty.get_config("tiny")
  experiment.sweep.seeds = seeds
  return experiment


def test_cells_are_groups_by_series_by_seeds():
  grid, name = sweep.prepare(_difficulty(), resolve)
  assert name == "datm_difficulty"
  assert [(cell.group, cell.series, cell.seed) for cell in grid] == [
    ("IPC 1", "early", 0),
    ("IPC 1", "late", 0),
    ("IPC 1", "early", 1),
    ("IPC 1", "late", 1),
  ]
  assert [cell.config["method"]["min_start_epoch"] for cell in grid] == [0, 2, 0, 2]
  assert [cell.config["seed"] for cell in grid] == [0, 0, 1, 1]
  # controls do not depend on the series: they are evaluated with the first
  assert [cell.config["eval"]["sets"] for cell in grid[1::2]] == [("distilled",)] * 2
  assert all(cell.config["eval"]["sets"] != ("distilled",) for cell in grid[::2])
  assert grid[0].name == "ipc1-early-seed0"
  assert sweep.file_name("../../A b/c") == "_.._ab_c"  # stays in the directory of the sweep


@pytest.mark.parametrize(
  ("names", "order"),
  [
    (["IPC 1", "IPC 10", "IPC 5"], ["IPC 1", "IPC 5", "IPC 10"]),
    (["lr 0.5, 2", "lr 0.1, 10", "lr 0.1, 9"], ["lr 0.1, 9", "lr 0.1, 10", "lr 0.5, 2"]),
    (["with 10", "few", "of 2"], ["with 10", "few", "of 2"]),
  ],
)
def test_groups_that_differ_in_numbers_go_by_them(names, order):
  experiment = _difficulty(seeds=(0,)).to_dict()
  experiment["sweep"]["groups"] = {name: {} for name in names}
  assert list(dict.fromkeys(cell.group for cell in sweep.cells(experiment))) == order


@pytest.mark.parametrize(
  ("axis", "value", "words"),
  [
    ("seeds", (), "sweep.seeds: empty"),
    ("groups", {}, "sweep.groups: empty"),
    ("order", ("early",), "sweep.order=['early']: must name every one of ['early', 'late'] once"),
    ("groups", [1], "sweep.groups=[1]: must be a mapping of names"),
    ("series", {"early": 3}, "sweep.series.early=3: must be a mapping of paths"),
    ("order", 7, "sweep.order=7: must be a list of names"),
    ("order", (1, "early"), "sweep.order=(1, 'early'): must be a list of names"),
    ("seeds", (0, 0), "sweep.seeds=[0, 0]: names one of them twice"),
    ("seeds", ("a",), "sweep.seeds='a': must be of type int"),
    ("seeds", (1e30,), "sweep.seeds=1e+30: must be of type int"),
    ("sizes", (1,), "sweep.sizes=(1,): unknown key"),
    ("groups", {"IPC 1": {"method": 1}}, "sweep: method/max_start_epoch=1: the configuration has no such key"),
    ("groups", {"A b": {"ipc": 1}, "ab": {"ipc": 2}}, "sweep: two groups or series have names"),
    ("groups", {"../../x": {"ipc": 1}}, "sweep.groups: '../../x' is no name; give one without"),
    ("groups", {"IPC 1": {"ipcc": 1}}, "sweep: ipcc=1: the configuration has no such key"),
    ("groups", {"IPC 1": {"method/rate": 1}}, "sweep: method/rate=1: the configuration has no such key"),
  ],
)
def test_a_mistaken_axis_is_one_readable_line(axis, value, words):
  raw = _difficulty().to_dict()
  raw["sweep"][axis] = value
  with pytest.raises(UserError) as caught:
    sweep.prepare(raw, resolve)
  assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def _matching(**changes):
  experiment = compare_matching.get_config("tiny")
  for key, value in changes.items():
    section, _, last = key.rpartition("__")
    (experiment[section] if section else experiment)[last] = value
  return experiment


def test_series_of_other_experiments_share_what_is_set_around_them():
  grid, name = sweep.prepare(_matching(train_size=150, eval__epochs=3), resolve)
  assert name == "compare_matching"
  configs = {cell.series: resolve(cell.config) for cell in grid}
  assert {series: c["method"]["name"] for series, c in configs.items()} == {"MTT": "mtt", "DM": "dm", "KIP": "kip"}
  assert all((c["train_size"], c["eval"]["epochs"], c["steps"]) == (150, 3, 2) for c in configs.values())
  assert [c["eval"]["loss"] for c in configs.values()] == ["ce", "ce", "mse"]  # each base has its own otherwise
  assert configs["MTT"]["eval"]["sets"] == ["distilled", "random_hard", "herding_hard"]
  assert "teachers" in configs["MTT"] and "teachers" not in configs["DM"]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"method__batch_real": 7},
      "method.batch_real=7: methods differ here; set it in sweep.series as 'method/batch_real'",
    ),
    ({"sweep__bases": {"XY": {}}}, "sweep.bases.XY: no such series"),
    ({"sweep__bases": 3}, "sweep.bases=3: must be a mapping of series to whole configurations"),
    ({"sweep__bases": {"DM": {"ipc": 1}}}, "sweep.bases.DM: must be a whole configuration with a section method"),
  ],
)
def test_a_mistaken_base_is_one_readable_line(changes, words):
  raw = _matching().to_dict()
  for key, value in changes.items():
    section, _, last = key.rpartition("__")
    raw[section][last] = value
  with pytest.raises(UserError) as caught:
    sweep.prepare(raw, resolve)
  assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_an_option_that_a_base_lacks_is_refused_by_name():
  raw = _matching().to_dict()
  raw["teachers"] = {"count": 3}
  with pytest.raises(UserError, match=r"teachers.count: dm has no section teachers; set it in sweep.series"):
    sweep.prepare(raw, resolve)


def test_rows_show_scores_costs_and_other_networks(carried_out):
  grid, _ = sweep.prepare(_matching(), resolve)
  shared = {"random_hard": [0.3, 0.5], "full_data": [0.9, 0.9]}

  def one(cell):
    arms = {"distilled": [0.6, 0.7], "distilled_hard": [0.5, 0.5]} | (shared if cell.series == "MTT" else {})
    out = _summary(arms, None)
    cost = {"seconds": {"distill": 75.0}, "peak_memory_bytes": 2.5e8, "stored_bytes": 17_000}
    return out | cost | {"models": {"convnet": out["arms"], "mlp": _summary({"distilled": [0.4, 0.5]}, None)["arms"]}}

  summary, said = carried_out(grid, one)
  more = summary["more"]["IPC 1"]["DM"]
  # random images and full data are those of the first series
  assert more["label_robust_score"] == pytest.approx([sum(map(_score, (0.3, 0.2), (-0.4, -0.4))) / 2])
  assert (more["distill seconds"], more["stored_bytes"]) == (75.0, 17_000)
  row = next(line for line in said.splitlines() if "| " in line and " DM " in line)
  assert all(text in row for text in ("0.650", "+0.250", "0.450", "1:15", "250.0 MB", "17.0 kB"))
  assert summary["groups"]["IPC 1"]["full_data"] == [0.9]


def _score(gain, loss):
  return label_robust_score(0.5 + gain, 0.5, 0.9, 0.9 + loss)


def _one(cell):
  scores = {"early": 0.6, "late": 0.4}[cell.series] + 0.02 * cell.seed
  arms = {"distilled": [scores, scores + 0.1]}
  if cell.series == "early":
    arms |= {"random_hard": [0.3, 0.5], "initial": [0.1, 0.1]}
  return _summary(arms, "random_hard" if cell.series == "early" else None)


def test_sets_are_beside_each_other_by_group(carried_out, tmp_path):
  grid, _ = sweep.prepare(_difficulty(), resolve)
  summary, said = carried_out(grid, _one)
  assert summary["best"] == {"IPC 1": "early"} and summary["failed"] == {}
  # one figure per repetition, each the mean over its networks
  found = summary["groups"]["IPC 1"]
  assert found["early"] == pytest.approx([0.65, 0.67]) and found["late"] == pytest.approx([0.45, 0.47])
  assert found["random_hard"] == pytest.approx([0.4, 0.4]) and "initial" not in found
  assert summary == read_json(tmp_path / "work" / "summary.json")
  assert "IPC 1: early is best" in said and "0.660 ± 0.014" in said
  for name in ("figure.png", "report.md", "report.html", "cells/ipc1-early-seed0.log"):
    assert (tmp_path / "work" / name).stat().st_size > 0


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_set_is_the_lowest_where_less_is_better(carried_out, higher):
  grid, _ = sweep.prepare(_difficulty(), resolve)
  summary, said = carried_out(grid, lambda cell: _one(cell) | {"higher_is_better": higher})
  best = "early" if higher else "late"
  assert summary["best"] == {"IPC 1": best} and f"IPC 1: {best} is best" in said


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_set_that_failed_counts_in_no_mean(carried_out, tmp_path, seeds):
  grid, _ = sweep.prepare(_difficulty(), resolve)
  failed = {"distilled": "distilled: training diverges", "random_hard": "random_hard: training diverges"}

  def one(cell):
    whole = _one(cell)
    own = [name for name in whole["arms"] if cell.seed in seeds and name in failed and cell.series == "early"]
    arms = whole["arms"] | {name: {"failed": failed[name]} for name in own}
    return whole | {"arms": arms, "failed": own}

  summary, _ = carried_out(grid, one)
  found = summary["groups"]["IPC 1"]
  left = {1: {"early": [0.67], "late": [0.45, 0.47], "random_hard": [0.4]}, 2: {"late": [0.45, 0.47]}}[len(seeds)]
  assert found.keys() == left.keys()
  assert all(found[name] == pytest.approx(left[name]) for name in left)
  assert summary["best"] == {"IPC 1": "early" if len(seeds) == 1 else "late"}
  assert {f"ipc1-early-seed{seed}, distilled": "training diverges" for seed in seeds}.items() <= summary[
    "failed"
  ].items()


def test_a_group_of_which_every_set_failed_is_told(carried_out):
  grid, _ = sweep.prepare(_difficulty((0,)), resolve)
  wild = {
    "arms": {"distilled": {"failed": "distilled: lost"}, "random_hard": {"failed": "lost"}},
    "failed": ["distilled"],
  }
  summary, said = carried_out(grid, lambda cell: _one(cell) | wild)
  assert summary["best"] == {} and summary["groups"] == {"IPC 1": {}} and "IPC 1: every set failed" in said


def test_a_run_that_fails_is_told_and_the_others_go_on(carried_out, tmp_path):
  grid, _ = sweep.prepare(_difficulty(), resolve)

  def one(cell):
    if (cell.series, cell.seed) == ("late", 0):
      raise UserError("step 3: match/loss is not finite")
    return _one(cell)

  summary, said = carried_out(grid, one)
  assert summary["failed"] == {"ipc1-late-seed0": "step 3: match/loss is not finite"}
  assert summary["groups"]["IPC 1"]["late"] == pytest.approx([0.47])
  assert "failed: step 3: match/loss is not finite" in said
  assert "ipc1-late-seed0: step 3" in (tmp_path / "work" / "report.md").read_text()


def test_a_sweep_of_which_every_run_fails_is_refused(carried_out):
  def one(cell):
    raise UserError(f"no luck with {cell.series}")

  with pytest.raises(UserError, match="sweep: every run failed; the first one: no luck with early"):
    carried_out(sweep.prepare(_difficulty(), resolve)[0], one)


def test_a_stop_says_in_which_run(carried_out):
  def one(cell):
    raise Interrupted("step 3 of 9 is saved")

  with pytest.raises(Interrupted, match="run 1 of 4: step 3 of 9 is saved"):
    carried_out(sweep.prepare(_difficulty(), resolve)[0], one)


ARMS = {"kd": [0.7, 0.8], "ce": [0.6, 0.6], "wild": "wild: step 1: loss/ce is not finite; lower train.lr"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_arms_are_compared_in_every_run_and_those_that_failed_are_listed(carried_out, tmp_path, seeds):
  grid, _ = sweep.prepare(compare_knowledge.get_config("tiny"), resolve)
  arms = {label: scores if label == "wild" else scores[:seeds] for label, scores in ARMS.items()}
  summary, said = carried_out(grid, lambda cell: _summary(arms, "ce"))
  names = {"few labels, convnet to convnet", "few labels, convnet to mixer"}
  assert summary["differences"].keys() == {"kd", "ce"} and summary["reference"] == "ce"
  assert summary["differences"]["kd"].keys() == names
  gap = 0.15 if seeds == 2 else 0.1
  assert [found[0] for found in summary["differences"]["kd"].values()] == pytest.approx([gap, gap])
  assert summary["mean_differences"] == {"kd": pytest.approx(gap), "ce": 0.0}
  message = "step 1: loss/ce is not finite; lower train.lr"
  assert summary["failed"] == {f"{cell.name}, wild": message for cell in grid}
  assert message in (tmp_path / "work" / "report.md").read_text()
  # Student's t with one degree of freedom times half of the gap between both differences
  interval = "+0.1500 ± 0.6353" if seeds == 2 else "+0.1000"
  assert f"{interval} against ce" in said and "nan" not in said


def test_a_reference_that_failed_leaves_no_differences(carried_out):
  grid, _ = sweep.prepare(compare_knowledge.get_config("tiny"), resolve)
  summary, said = carried_out(grid, lambda cell: _summary({"kd": [0.5, 0.7], "ce": "ce: lost"}, "ce"))
  assert summary["differences"] == {} and len(summary["failed"]) == 2
  assert "kd: accuracy 0.6000" in said
