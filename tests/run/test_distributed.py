"""Two processes as one run: the same numbers as one process, and what happens when one of them is lost."""

import signal
import socket
import subprocess
import sys
import time

import numpy as np
import processes
import pytest

from jdistill import cli, config, run, stages
from jdistill.files import read_record
from jdistill.reporting import read_jsonl
from jdistill.training import distributed

STEPS = 20
OPTIONS = [
  "--config=experiments/datm.py:tiny",
  f"--config.steps={STEPS}",
  "--config.checkpoint_seconds=0",
]
BUSY = "cannot listen there"


class Runs:
  """Starts the command as two processes that share compiled programs."""

  def __init__(self, cache):
    self._environment = processes.environment(cache)

  def start(self, root, *options):
    """The processes of a run in `root`."""
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [
      subprocess.Popen(
        [
          sys.executable,
          "-m",
          "jdistill.run",
          *OPTIONS,
          *options,
          f"--workdir={root / 'work'}",
          *flags,
          f"--process_id={index}",
        ],
        cwd=processes.REPOSITORY,
        env=self._environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for index in range(2)
    ]

  def finish(self, root, *options, tries=3):
    """Runs two processes to their end, which must be a good one; returns what each said."""
    running = self.start(root, *options)
    said = [process.communicate(timeout=120)[1] for process in running]
    if tries and BUSY in said[0]:  # somebody else took the port in between
      return self.finish(root, *options, tries=tries - 1)
    assert [process.returncode for process in running] == [0, 0], said
    return said

  def disturb(self, root, victim, number, lines, *options, tries=3):
    """Sends one of two processes a signal after so many lines of metrics; returns what each said, and their codes."""
    running = self.start(root, *options)
    metrics = root / "work" / "metrics.jsonl"
    while all(process.poll() is None for process in running) and _lines(metrics) < lines:
      time.sleep(0.002)
    running[victim].send_signal(number)
    said = [process.communicate(timeout=60)[1] for process in running]  # all must end within a minute
    if tries and BUSY in said[0]:
      return self.disturb(root, victim, number, lines, *options, tries=tries - 1)
    return said, [process.returncode for process in running]


def _lines(path):
  return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def runs(cache_directory):
  return Runs(cache_directory / "of_processes")


@pytest.fixture
def finish(call):
  """`(root, *options)` runs to its end as one process, this one, and returns what was said."""

  def run_to_the_end(root, *options):
    single = ("--config.parallel.data=1", "--config.parallel.pool=1")
    result = call(*OPTIONS, *single, *options, f"--workdir={root / 'work'}")
    assert result.code == 0, result.err
    return result.err

  return run_to_the_end


@pytest.fixture(name="one")
def run_of_one(finish, cache_directory):
  """The run of a single process, made once."""
  root = cache_directory / "one"
  if not root.exists():
    finish(root)
  return root


def _assert_close(root, other):
  """Both runs ended with the same numbers, up to rounding, and took every step once."""
  mine, theirs = (np.load(r / "work" / "stages" / "distilled.npz") for r in (root, other))
  for name in theirs.files:
    np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name)
  initial = np.load(other / "work" / "stages" / "initial.npz")["images"]
  assert not np.allclose(initial, theirs["images"], rtol=1e-4, atol=1e-6)
  rows = read_jsonl(root / "work" / "metrics.jsonl", "distill")
  assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
  teachers = [sorted((r / "artefacts").rglob("*.npy")) for r in (root, other)]
  assert (
    [path.name for path in teachers[0]] == [path.name for path in teachers[1]] == ["expert_0000.npy", "expert_0001.npy"]
  )
  for a, b in zip(*teachers, strict=True):
    np.testing.assert_allclose(np.load(a), np.load(b), rtol=1e-4, atol=1e-6)
  results = [read_record(r / "work" / "stages" / "evaluations.json") for r in (root, other)]
  for name, entry in results[1].items():
    found = results[0][name]["scores"]["accuracy"]
    np.testing.assert_allclose(found, entry["scores"]["accuracy"], atol=0.011, err_msg=name)
  assert not list(root.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(runs, one, tmp_path):
  """Rows of batches, teachers and evaluation seeds are spread."""
  said = runs.finish(tmp_path, "--config.parallel.data=2", "--config.parallel.pool=2")
  assert "teachers: 2 trajectories (2 new" in said[0]
  assert f"distill: {STEPS} steps" in said[0]
  assert said[1] == ""  # only one process speaks
  _assert_close(tmp_path, one)


@pytest.mark.slow
def test_stopped_and_killed_processes_all_end_and_the_same_command_goes_on(runs, one, finish, tmp_path):
  two = "--config.parallel.data=2"
  said, codes = runs.disturb(tmp_path, 1, signal.SIGINT, 3, two)
  assert codes == [130, 130], "\n".join(said)
  (last,) = {text.splitlines()[-1] for text in said}  # whichever was asked, all save and stop at the same step
  assert last.startswith("jdistill: stopped; step ")
  step = int(last.split("step ")[1].split()[0])
  for victim, lines in ((1, 8), (0, 14)):
    said, codes = runs.disturb(tmp_path, victim, signal.SIGKILL, lines, two)
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 1), said
    assert f"distill: going on after step {step} of {STEPS}" in said[0]
    assert "teachers:" not in said[0]
    last = said[1 - victim].splitlines()[-1]
    assert last.startswith(
      "jdistill: another process of this run died or was lost; start all of them again with the same command, "
      "the run goes on from step "
    ), said
    assert last.endswith(" of stage distill")
    assert "Traceback" not in said[1 - victim] and "coordination" not in said[1 - victim]
    before, step = step, int(last.split("from step ")[1].split()[0])
    assert before < step < STEPS
    assert (tmp_path / "work" / "checkpoints" / f"{step}.json").exists()
  assert said[1].count("\n") == 1, said  # the line is all that process 1 says
  assert f"distill: going on after step {step} of {STEPS}" in finish(tmp_path)  # how many share the work is open
  _assert_close(tmp_path, one)


@pytest.mark.parametrize("together", [False, True])
def test_a_process_that_fails_by_itself_blames_no_other(monkeypatch, together):
  """Of one that is alone nothing is noted: another run may follow in the same process."""
  noted = []
  monkeypatch.setattr(distributed.lost, "leaving", noted.append)
  monkeypatch.setattr(distributed, "_client", lambda: object() if together else None)
  monkeypatch.setattr(distributed, "is_loss", lambda error: False)
  monkeypatch.setattr(cli, "parse", lambda argv: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run.main(["run"])
  assert noted == [1] * together


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("flags", "complaint"),
  [
    (["--coordinator=h:1"], "--coordinator: many processes need all of coordinator, num_processes, process_id; add "
      "--num_processes and --process_id"),
    (["--num_processes=2", "--process_id=0"], "add --coordinator"),
    (["--coordinator=nowhere", "--num_processes=2", "--process_id=0"], "--coordinator=nowhere: must be HOST:PORT"),
    (["--coordinator=h:70000", "--num_processes=2", "--process_id=0"], "--coordinator=h:70000: must be HOST:PORT"),
    (["--coordinator=h:1", "--num_processes=0", "--process_id=0"], "--num_processes=0: must be at least 1"),
    (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "--process_id=2: must be one of 0..1"),
    (["--distributed", "--process_id=0"], "--distributed: finds coordinator, num_processes, process_id by itself"),
  ],
)  # fmt: skip
def test_flags_of_processes_are_checked_before_anything_else(refuse, flags, complaint):
  assert complaint in refuse(*flags)


def test_a_port_in_use_is_named(refuse):
  with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as taken:
    taken.bind(("", 0))
    taken.listen()
    port = taken.getsockname()[1]
    complaint = refuse(f"--coordinator=127.0.0.1:{port}", "--num_processes=2", "--process_id=0")
  assert complaint.startswith(f"--coordinator=127.0.0.1:{port}: cannot listen there")
  assert "choose another port" in complaint


@pytest.mark.parametrize(
  ("options", "complaint"),
  [
    (["data=16"], "parallel.data=16: there are 8 cpu devices; lower it"),
    (["pool=9"], "parallel.pool=9: there are 8 cpu devices; lower it"),
    (["data=0"], "parallel.data=0: must be at least 1"),
    (
      ["data=3"],
      "parallel.data=3: does not divide the 10 images of an inner step; use a divisor, or another method.batch_size",
    ),
    (["route=map"], "parallel.route='map': unknown"),
    (["dat=2"], "unknown key"),
  ],
)
def test_devices_are_checked_before_work(refuse, options, complaint):
  assert complaint in refuse(*(f"--config.parallel.{option}" for option in options))


@pytest.mark.parametrize("gradient", ["full", "remat"])
def test_gradients_that_cannot_be_spread_are_refused(refuse, gradient):
  complaint = refuse("--config.parallel.data=2", f"--config.unroll.gradient={gradient}")
  assert complaint.startswith(f"unroll.gradient='{gradient}': cannot spread a batch over parallel.data=2 devices")
  assert "set unroll.gradient='mixed', or parallel.route='jit'" in complaint


def test_how_a_run_is_carried_out_is_not_what_it_is(call, copy):
  experiment = cli.parse(["run", "--config=experiments/datm.py:tiny"])["config"].value
  one = stages.resolve(experiment)
  experiment.parallel.update({"pool": 8, "data": 4, "route": "jit"})
  many = stages.resolve(experiment)
  assert config.difference(one, many) and config.config_hash(one) == config.config_hash(many)
  silent = experiment.to_dict()
  del silent["parallel"]  # an experiment need not say how
  assert stages.resolve(silent) == one
  result = call(
    "--config=experiments/datm.py:tiny",
    f"--workdir={copy / 'work'}",
    "--config.parallel.data=2",
    "--config.parallel.pool=2",
  )
  assert result.code == 0, result.err
