"""Killed at any moment and started again, a run ends with the same bytes as one that was never disturbed."""

import json
import random
import re
import signal
import subprocess
import sys
import time

import processes
import pytest

from jdistill.reporting import read_jsonl

pytestmark = pytest.mark.slow

STEPS = 20
OPTIONS = [
  "--config=experiments/datm.py:tiny",
  f"--config.steps={STEPS}",
  "--config.checkpoint_seconds=0",
  "--config.teachers.count=4",
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
    self._environment = processes.environment(cache)

  def start(self, root, *, program=("-m", "jdistill.run")):
    """Starts the run in `root`, or goes on with it."""
    return subprocess.Popen(
      [sys.executable, *program, *OPTIONS, f"--workdir={root / 'work'}"],
      cwd=processes.REPOSITORY,
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
  root, second = tmp_path_factory.mktemp("undisturbed"), tmp_path_factory.mktemp("timed")
  runs.finish(root)
  begin = time.monotonic()
  runs.finish(second)
  seconds = time.monotonic() - begin
  _assert_same(second, root)
  return root, seconds


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
  teachers = [sorted((r / "artefacts").rglob("*.npy")) for r in (root, other)]
  assert len(teachers[0]) == len(teachers[1]) == 4
  assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*teachers, strict=True))
  shown = [{path.name: path.read_bytes() for path in (r / "work" / "snapshots").iterdir()} for r in (root, other)]
  assert shown[0] == shown[1]


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


def test_a_run_killed_in_every_stage_ends_with_the_same_bytes(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  work = tmp_path / "work"
  moments = {
    "teachers": lambda: any((tmp_path / "artefacts").rglob("expert_0001.npy")),
    "distill": lambda: _lines(work / "metrics.jsonl") >= 7,
    "distill again": lambda: (work / "checkpoints" / "15.json").exists(),
    "evaluate": lambda: (work / "stages" / "evaluations.json").exists(),
  }
  caught = {name: _kill_when(runs.start(tmp_path), moment) for name, moment in moments.items()}
  assert caught == dict.fromkeys(moments, True)
  said = runs.finish(tmp_path)
  assert not re.search(r"^teachers \d", said, re.MULTILINE)
  assert "distill 1/" not in said
  _assert_same(tmp_path, root)


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(undisturbed, runs, tmp_path):
  root, seconds = undisturbed
  rng = random.Random(0)
  for _ in range(2):
    process = runs.start(tmp_path)
    time.sleep(rng.uniform(0.3, 0.9) * seconds)
    _kill(process)
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)


def test_a_run_killed_around_the_naming_of_files_ends_with_the_same_bytes(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  rng = random.Random(7)
  for nth in (4, rng.randint(8, 14), rng.randint(15, 30)):
    program = ("-c", SABOTAGE, str(nth), rng.choice(("before", "after")))
    process = runs.start(tmp_path, program=program)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)


def _stop(process, metrics, lines, *numbers):
  """Sends signals once there are so many lines of metrics; returns what was said at the end."""
  while process.poll() is None and _lines(metrics) < lines:
    time.sleep(0.001)
  for number in numbers:
    process.send_signal(number)
    time.sleep(0.02)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (130, ""), err
  assert "Traceback" not in err
  assert "stopping at the next safe point" in err
  return err


def test_stop_requests_save_and_the_same_command_goes_on(undisturbed, runs, tmp_path):
  root, _ = undisturbed
  metrics = tmp_path / "work" / "metrics.jsonl"
  saved = 0
  for number, lines in ((signal.SIGINT, 4), (signal.SIGTERM, 9)):
    said = _stop(runs.start(tmp_path), metrics, lines, number)
    assert (f"distill: going on after step {saved} of {STEPS}" in said) == bool(saved)
    last = said.splitlines()[-1]
    assert last.startswith("jdistill: stopped; step ")
    assert last.endswith(f" of {STEPS} is saved; the same command goes on")
    saved = int(last.split("step ")[1].split()[0])
    assert lines <= saved < STEPS
    assert _lines(metrics) == saved
    assert (tmp_path / "work" / "checkpoints" / f"{saved}.json").exists()
    assert not (tmp_path / "work" / "stages" / "distill.json").exists()
  twice = _stop(runs.start(tmp_path), metrics, 14, signal.SIGINT, signal.SIGINT)  # which stops at once
  assert twice.splitlines()[-1].startswith("jdistill: stopped; ")
  runs.finish(tmp_path)
  _assert_same(tmp_path, root)
