"""The ledger of claims: verdicts, the reader, the page, claims made of runs, and what lies in `docs/results`."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest

from docs import ledger
from docs.claims import Arm, Claim, Effect, page, read_claims, verdict_of, write_claims
from jdistill import catalog
from jdistill.base import UserError

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

CLAIM = Claim(
  name="pld_over_ce",
  method="pld",
  statement="PLD is above plain training.",
  command="python -m jdistill.run --config=experiments/pld.py",
  config_hash=None,
  data="digits",
  metric="accuracy",
  direction="higher",
  arm="pld",
  reference="ce",
  arms={"pld": Arm(0.9, 0.01), "ce": Arm(0.875, None, (0.87, 0.88))},
  seeds=2,
  effect=Effect(0.025, 0.01, "paired difference", 0.95),
  verdict="shown",
)

SUMMARY = {
  "config_hash": "abc",
  "method": "pld",
  "dataset": "digits",
  "metric": "accuracy",
  "higher_is_better": True,
  "reference": "ce",
  "arms": {
    "pld": {"scores": {"accuracy": [0.90, 0.92, 0.94], "loss": [1.0, 1.1, 1.2]}, "mean": 0.92},
    "ce": {"scores": {"accuracy": [0.89, 0.90, 0.91], "loss": [1.5, 1.5, 1.5]}, "mean": 0.90},
  },
}
SETS = {
  "config_hash": "abc",
  "method": "mtt",
  "dataset": "digits",
  "ipc": 1,
  "arms": {
    "distilled": {"scores": {"accuracy": [0.85, 0.88, 0.91]}},
    "random_soft": {"scores": {"accuracy": [0.70, 0.72, 0.74]}},
    "diverged": {"failed": "not finite"},
  },
}
SWEEP = {"metric": "accuracy", "groups": {"IPC 1": {"early": [0.8, 0.9], "random_hard": [0.6, 0.8]}}}
WORDS = {"name": "one", "statement": "A claim.", "command": "python -m jdistill.run"}


@pytest.mark.parametrize(
  ("value", "half_width", "direction", "verdict"),
  [
    (0.02, 0.01, "higher", "shown"),
    (-0.02, 0.01, "higher", "contradicted"),
    (-0.02, 0.01, "lower", "shown"),
    (0.02, 0.01, "lower", "contradicted"),
    (0.02, 0.03, "higher", "not shown at this scale"),
    (0.02, 0.02, "higher", "not shown at this scale"),  # an interval that ends at zero
    (-0.02, 0.03, "lower", "not shown at this scale"),
    (0.5, None, "higher", "not shown at this scale"),
    (0.0, 0.0, "higher", "not shown at this scale"),
  ],
)
def test_verdict(value, half_width, direction, verdict):
  assert verdict_of(Effect(value, half_width, "any"), direction) == verdict


def test_file_round_trip(tmp_path):
  other = CLAIM._replace(
    name="other", note="a note", effect=Effect(0.1, None, "no interval"), verdict="not shown at this scale"
  )
  write_claims(tmp_path / "pld.json", [CLAIM, other])
  assert read_claims(tmp_path) == {"pld": [CLAIM, other]}
  (tmp_path / "pld.json").write_text(json.dumps(json.loads((tmp_path / "pld.json").read_text())[0]))  # one object
  assert read_claims(tmp_path) == {"pld": [CLAIM]}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"verdict": "great"}, r"pld\.json: verdict='great': unknown; choose one of contradicted"),
    ({"verdict": "contradicted"}, r"pld\.json: verdict='contradicted' of pld_over_ce: its effect says 'shown'"),
    ({"statement": None}, r"pld\.json: statement: is missing"),
    (
      {"effect": {"value": math.nan, "half_width": 0.1, "kind": "k"}},
      r"pld\.json: effect\.value=nan: must be",
    ),
    (
      {"effect": {"value": 0.1, "half_width": math.inf, "kind": "k"}},
      r"effect\.half_width=inf: must be",
    ),
    ({"effect": {"value": 0.1, "half_width": -0.1, "kind": "k"}}, r"effect\.half_width=-0\.1: must be at least 0"),
    ({"effect": {"value": 0.1, "kind": "k"}}, r"pld\.json: effect\.half_width: is missing"),
    ({"effect": {"value": "0.1", "half_width": 0.1, "kind": "k"}}, r"effect\.value='0\.1': must be of type float"),
    ({"effect": 0.1}, r"pld\.json: effect=0\.1: must be an object"),
    ({"arms": {"pld": {}}}, r"pld\.json: arms\.pld\.mean: is missing"),
    ({"arms": [1]}, r"pld\.json: arms=.*by label"),
    ({"seeds": 0}, r"pld\.json: seeds=0: must be at least 1"),
    ({"direction": "up"}, r"pld\.json: direction='up': unknown"),
    ({"sedes": 3}, r"pld\.json: \.?sedes=3: unknown key; did you mean 'seeds'"),
  ],
)
def test_reader_refuses(tmp_path, change, message):
  write_claims(tmp_path / "pld.json", [CLAIM])
  entry = json.loads((tmp_path / "pld.json").read_text())[0] | change
  (tmp_path / "pld.json").write_text(json.dumps(entry))
  with pytest.raises(UserError, match=message) as caught:
    read_claims(tmp_path)
  assert "\n" not in str(caught.value)


def test_missing_keys_and_names_taken_are_refused(tmp_path):
  write_claims(tmp_path / "pld.json", [CLAIM])
  entry = json.loads((tmp_path / "pld.json").read_text())[0]
  for key in ("name", "command", "config_hash", "effect", "arms", "verdict"):
    (tmp_path / "pld.json").write_text(json.dumps({k: v for k, v in entry.items() if k != key}))
    with pytest.raises(UserError, match=rf"pld\.json: {key}: is missing"):
      read_claims(tmp_path)
  write_claims(tmp_path / "other.json", [CLAIM])
  write_claims(tmp_path / "pld.json", [CLAIM])
  with pytest.raises(UserError, match=r"pld\.json: name='pld_over_ce': is taken in other\.json"):
    read_claims(tmp_path)


def test_page():
  kd = CLAIM._replace(
    name="b", method="kd", verdict="contradicted", effect=Effect(-0.28, 0.213, "k"), statement="a | b"
  )
  text = page(
    {"pld": [CLAIM], "zoo": [kd]},
    {name: f"https://arxiv.org/abs/{at}" for name, at in (("pld", "2506.12542"), ("kd", "1503.02531"))},
    ["pld", "README"],
  )
  lines = text.splitlines()
  assert lines[2] == "shown 1, not shown at this scale 0, contradicted 1."
  first, second = (line for line in lines if line.startswith("| ["))
  assert first.startswith(r"| [kd](https://arxiv.org/abs/1503.02531) | a \| b | -0.280 ± 0.213 (pld - ce) | accuracy")
  assert "| contradicted |" in first and "zoo.md" not in first and "[figures](zoo.json)" in first
  assert "+0.025 ± 0.010" in second and "| **shown** | `python -m jdistill.run" in second and "[page](pld.md)" in second


def test_claim_of_paired_arms():
  claim = ledger.claim_of(SUMMARY, arm="pld", reference="ce", commit="c0ffee", **WORDS)
  assert (claim.method, claim.metric, claim.direction, claim.seeds) == ("pld", "accuracy", "higher", 3)
  assert (claim.config_hash, claim.commit, claim.data) == ("abc", "c0ffee", "digits")
  # differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; Student's t of two degrees of freedom is 4.302653
  assert claim.effect == Effect(0.02, round(4.302653 * 0.01 / math.sqrt(3), 6), "paired difference", 0.95)
  assert claim.verdict == "not shown at this scale"
  assert claim.arms["pld"] == Arm(0.92, 0.02, (0.90, 0.92, 0.94))
  loss = ledger.claim_of(SUMMARY, arm="pld", reference="ce", metric="loss", direction="lower", **WORDS)
  assert loss.effect.value == pytest.approx(-0.4) and loss.verdict == "shown"
  assert ledger.claim_of(SUMMARY | {"higher_is_better": False}, arm="pld", reference="ce", **WORDS).direction == "lower"


def test_claim_of_a_distilled_set():
  claim = ledger.claim_of(SETS, arm="distilled", reference="random_soft", **WORDS)
  assert claim.effect.value == pytest.approx(0.16) and claim.effect.kind == "paired difference"
  assert claim.verdict == "shown" and claim.seeds == 3 and claim.data == "digits, 1 image per class"
  with pytest.raises(UserError, match="diverged: the run has no accuracy of it"):
    ledger.claim_of(SETS, arm="distilled", reference="diverged", **WORDS)
  alone = {"arms": {name: {"scores": {"accuracy": [0.5]}} for name in ("a", "b")}}
  single = ledger.claim_of(alone, arm="a", reference="b", **WORDS)
  assert single.effect == Effect(0.0, None, "no interval") and single.verdict == "not shown at this scale"


def curve_of(*scores):
  """Looks at every tenth update; a list for each, with the scores of all seeds."""
  return [{"step": 10 * i, "scores": [{"distance": one} for one in seeds]} for i, seeds in enumerate(scores, 1)]


def test_claim_of_updates_to_a_score():
  arms = {"slow": {"curve": curve_of((4, 4), (2, 3), (0, 0))}, "fast": {"curve": curve_of((3, 2), (1, 0.5), (0, 0))}}
  summary = SUMMARY | {"arms": arms, "metric": "distance", "higher_is_better": False}
  given = {"commit": None, "arm": "slow", "reference": "fast", **WORDS}
  claim = ledger.claim_of(summary, target=1.0, **given)
  assert (claim.metric, claim.direction, claim.verdict) == ("updates to 1 distance", "lower", "not shown at this scale")
  assert claim.arms["slow"].scores == (25.0, pytest.approx(20 + 10 * 2 / 3))
  assert claim.arms["fast"].scores == (20.0, pytest.approx(10 + 10 / 1.5))
  with pytest.raises(UserError, match=r"--target=-1: a seed of slow is never there"):
    ledger.claim_of(summary, target=-1.0, **given)
  with pytest.raises(UserError, match=r"pld: the run has no curve of accuracy; set score_every"):
    ledger.claim_of(SUMMARY, target=0.9, **WORDS, arm="pld", reference="ce")
  with pytest.raises(UserError, match=r"--arm or --reference=slw: the run has none of that name; did you mean 'slow'"):
    ledger.claim_of(summary, target=1.0, **(given | {"arm": "slw"}))


def test_seeds_that_do_not_differ_have_no_interval():
  """Copies of one teacher with the same noise: five equal figures are one."""
  arms = {"pld": {"scores": {"accuracy": [0.9] * 3}}, "ce": {"scores": {"accuracy": [0.8] * 3}}}
  claim = ledger.claim_of(SUMMARY | {"arms": arms}, **WORDS, arm="pld", reference="ce")
  assert claim.effect.half_width is None and claim.verdict == "not shown at this scale"


def test_claim_of_a_sweep():
  claim = ledger.claim_of(SWEEP, arm="early", reference="random_hard", group="IPC 1", **WORDS | {"name": "datm_early"})
  assert claim.method == "datm" and claim.effect.value == pytest.approx(0.15)
  assert claim.effect.half_width == pytest.approx(12.7062 * 0.05, abs=1e-4)  # t of one degree of freedom
  with pytest.raises(
    UserError, match=r"reference=late: the run has none of that name; choose one of early, random_hard"
  ):
    ledger.claim_of(SWEEP, arm="early", reference="late", group="IPC 1", **WORDS)


def test_command(tmp_path, capsys):
  run, results = tmp_path / "run", tmp_path / "results"
  run.mkdir()
  (run / "summary.json").write_text(json.dumps(SETS))
  (run / "environment.json").write_text(json.dumps({"git_commit": "c0ffee"}))
  words = [f"--{key}={value}" for key, value in WORDS.items()]
  add = [f"--directory={results}", "add", f"--workdir={run}", "--arm=distilled", *words]
  assert ledger.main([*add, "--reference=random_soft"]) == 0
  assert "one: +0.1600 ± 0.0248: shown\nshown 1, " in capsys.readouterr().out
  assert ledger.main([*add, "--reference=random_soft", "--note=once more"]) == 0  # in place of the first
  (claim,) = read_claims(results)["mtt"]
  assert (claim.note, claim.commit, claim.seeds) == ("once more", "c0ffee", 3)
  written = (results / "README.md").read_text()
  (results / "README.md").unlink()
  assert ledger.main([f"--directory={results}", "write"]) == 0
  assert (results / "README.md").read_text() == written
  assert ledger.main([*add, "--reference=nothing"]) == 1
  assert capsys.readouterr().err.startswith("jdistill: --arm or --reference=nothing: ")
  write_claims(results / "mtt.json", [claim._replace(method="mttt")])
  assert ledger.main([f"--directory={results}", "write"]) == 1
  assert "mtt.json: method='mttt' of one: unknown; did you mean 'mtt'" in capsys.readouterr().err


CLAIMS = [(file, claim) for file, claims in read_claims(RESULTS).items() for claim in claims]


def test_a_sweep_is_recorded_with_the_method_and_the_commit_of_its_runs(tmp_path, capsys):
  (tmp_path / "run" / "cells" / "ipc1-early-seed0").mkdir(parents=True)
  (tmp_path / "run" / "summary.json").write_text(json.dumps(SWEEP))
  for name, content in (("summary", {"method": "datm", "dataset": "digits"}), ("environment", {"git_commit": "abc"})):
    (tmp_path / "run" / "cells" / "ipc1-early-seed0" / f"{name}.json").write_text(json.dumps(content))
  words = {**WORDS, "name": "early_over_random", "arm": "early", "reference": "random_hard", "group": "IPC 1"}
  options = [f"--{key}={value}" for key, value in words.items()]
  assert ledger.main([f"--directory={tmp_path}", "add", f"--workdir={tmp_path / 'run'}", *options]) == 0
  (claim,) = read_claims(tmp_path)["datm"]
  assert (claim.method, claim.data, claim.commit, claim.seeds) == ("datm", "digits, IPC 1", "abc", 2)
  assert claim.effect.value == pytest.approx(0.15) and "early_over_random" in capsys.readouterr().out


def test_page_is_up_to_date():
  assert (RESULTS / "README.md").read_text(encoding="utf-8") == ledger.text_of(RESULTS), "python -m docs.ledger write"


def test_every_result_page_has_claims():
  pages = {path.stem for path in RESULTS.glob("*.md")} - {"README"}
  assert pages <= {file for file, _ in CLAIMS}
  assert {claim.method for _, claim in CLAIMS} <= {row.name for row in catalog.rows()}


@pytest.mark.parametrize(("file", "claim"), CLAIMS, ids=[claim.name for _, claim in CLAIMS])
def test_recorded_claim(file, claim):
  """Verdicts, effects and figures agree with each other and with the page that tells the story."""
  value, half_width = claim.effect.value, claim.effect.half_width
  gain = value if claim.direction == "higher" else -value
  if half_width is None or gain - half_width <= 0 <= gain + half_width:
    assert claim.verdict == "not shown at this scale"
  else:
    assert claim.verdict == ("shown" if gain > 0 else "contradicted")
  if {claim.arm, claim.reference} <= set(claim.arms):
    one, other = claim.arms[claim.arm].mean, claim.arms[claim.reference].mean
    # each of the three figures is rounded to the digits that it shows
    assert one - other == pytest.approx(value, abs=sum(0.5 * 10.0 ** -places(x) for x in (one, other, value)) + 1e-9)
  assert claim.statement.endswith(".")
  name, preset = re.match(
    r"python -m jdistill\.run --config=experiments/(\w+)\.py(?::(\w+))? --", claim.command
  ).groups()
  assert preset is None or preset in importlib.import_module(f"experiments.{name}").presets()
  assert (RESULTS.parents[1] / "experiments" / f"{name}.py").exists()
  if (RESULTS / f"{file}.md").exists() and half_width is not None:
    text = (RESULTS / f"{file}.md").read_text(encoding="utf-8")
    scales = [(1, 4), (1, 3), (1, 2), (100, 2)]  # the last one: in points
    texts = [f"{abs(value * k):.{digits}f} ± {half_width * k:.{digits}f}" for k, digits in scales]
    assert any(one in text for one in texts), texts


def places(number):
  """Digits after the decimal point of a number as it is written in a file."""
  return len(str(number).partition(".")[2])
