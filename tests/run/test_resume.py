"""Killed at any moment and started again, a run ends with the same bytes as one that was never disturbed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from jdistill.reporting import read_jsonl

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STEPS = 20
OPTIONS = [
  "--config=experiments/datm.py:tiny",
  f"--config.steps={STEPS}",
  "--config.checkpoint_seconds=0",
  "--config.experts.count=4",
  "--config.eval.seeds=3",
]

# Runs the command, but dies like a power cut just before or just after its n-th file gets its name.
SABOTAGE = """
import os, signal, sys
from jdistill import run
nth, when = int(sys.argv[1]), sys.argv[2]
names, replace = [], os.replace
def fatal(source, target, **options):
  names.append(target)
  if len(names) == nth and when == "before":
    os.kill(os.getpid(), signal.SIGKILL)
  replace(source, target, **options)
  if len(names) == nth and when == "after":
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = fatal
sys.exit(run.main(["run", *sys.argv[3:]]))
"""


class Runs:
  """Starts the command in processes of its own that share compiled programs."""

  def __init__(self, cache):
    self._environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      "PYTHONPATH": str(REPOSITORY),
    }

  def start(self, root, *, program=("-m", "jdistill.run")):
    """Starts the run in `root`, or goes on with it."""
    return subprocess.Popen(
      [sys.executable, *program, *OPTIONS, f"--workdir={root / 'work'}"],
      cwd=REPOSITORY,
      env=self._environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def finish(self, root):
    """Runs the command until it ends, which it must do well; returns what it said."""
    process = self.start(root)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == ""
    return err


@pytest.fixture(scope="module")
def runs(cache_directory):
  return Runs(cache_directory / "of_processes")


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
  """The run that is never stopped, and the seconds it takes when its programs are compiled already."""
  root = tmp_path_factory.mktemp("undisturbed")
  runs.finish(root)
  begin = time.monotonic()
  runs.finish(tmp_path_factory.mktemp("timed"))
  return root, time.monotonic() - begin


def _artefact(root):
  return json.loads((root / "work" / "summary.json").read_text())["artefact_sha256"]


def _assert_same(root, other):
  """Both runs left the same set, the same evaluations, and every step once."""
  for name in ("result/distilled.npz", "result/checksums.json", "stages/evaluations.json"):
    assert (root / "work" / name).read_bytes() == (other / "work" / name).read_bytes(), name
  assert _artefact(root) == _artefact(other)
  mine, theirs = (read_jsonl(r / "work" / "metrics.jsonl", "distill") for r in (root, other))
  assert [row["step"] for row in mine] == list(range(1, STEPS + 1))
  assert [row | {"time": 0} for row in mine] == [row | {"time": 0} for row in theirs]
  experts = [sorted((r / "artefacts").rglob("*.npy")) for r in (root, other)]
  assert len(experts[0]) == len(experts[1]) == 4
  assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*experts, strict=True))
  snapshots = [sorted(path.name for path in (r / "work" / "snapshots").iterdir()) for r in (root, other)]
  assert snapshots[0] == snapshots[1]


def _kill(process):
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=60)
  return process.returncode == -signal.SIGKILL


def _kill_when(process, condition):
  """Polls until a moment has come; true if the process was still running then."""
  end = time.monotonic() + 120
  while process.poll() is None and not condition() and time.monotonic() < end:
    time.sleep(0.001)
  return _kill(process)


def _lines(path):
  return path.read_bytes().count(b"\n") if path.exists() else 0


def test_two_undisturbed_runs_are_the_same(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  work = tmp_path / "work"
  moments = {
    "experts": lambda: any((tmp_path / "artefacts").rglob("expert_0001.npy")),
    "distill": lambda: _lines(work / "metrics.jsonl") >= 7,
    "distill again": lambda: (work / "checkpoints" / "15.json").exists(),
    "evaluate": lambda: (work / "stages" / "evaluations.json").exists(),
  }
  caught = {name: _kill_when(runs.start(tmp_path), moment) for name, moment in moments.items()}
  assert caught == dict.fromkeys(moments, True)
  said = runs.finish(tmp_path)
  assert "experts 1/" not in said
  assert "distill 1/" not in said
  _assert_same(tmp_path, root)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(undisturbed, runs, tmp_path, seed):
  root, seconds = undisturbed
  rng = random.Random(seed)
  for _ in range(3):
    process = runs.start(tmp_path)
    time.sleep(rng.uniform(0.3, 1.0) * seconds)
    _kill(process)
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)


def test_a_run_killed_around_the_naming_of_files_ends_with_the_same_bytes(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  rng = random.Random(7)
  for nth in (4, rng.randint(8, 14), rng.randint(15, 30), 6):
    program = ("-c", SABOTAGE, str(nth), rng.choice(("before", "after")))
    process = runs.start(tmp_path, program=program)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_a_stop_request_saves_and_the_same_command_goes_on(undisturbed, runs, tmp_path, number):
  root, _ = undisturbed
  process = runs.start(tmp_path)
  metrics = tmp_path / "work" / "metrics.jsonl"
  while process.poll() is None and _lines(metrics) < 5:
    time.sleep(0.001)
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (130, ""), err
  assert "Traceback" not in err
  assert "stopping at the next safe point" in err
  last = err.splitlines()[-1]
  assert last.startswith("jdistill: stopped; step ")
  assert f" of {STEPS} is saved" in last
  assert "the same command goes on" in last
  saved = int(last.split("step ")[1].split()[0])
  assert 5 <= saved < STEPS
  assert _lines(metrics) == saved
  assert not (tmp_path / "work" / "stages" / "distill.json").exists()
  said = runs.finish(tmp_path)
  assert f"distill: going on after step {saved} of {STEPS}" in said
  _assert_same(tmp_path, root)


def test_a_second_ctrl_c_stops_at_once_and_nothing_is_lost(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  process = runs.start(tmp_path)
  metrics = tmp_path / "work" / "metrics.jsonl"
  while process.poll() is None and _lines(metrics) < 5:
    time.sleep(0.001)
  for _ in range(2):
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130, err
  assert "Traceback" not in err
  assert err.splitlines()[-1].startswith("jdistill: stopped; ")
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)
