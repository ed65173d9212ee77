"""Clients as real processes behind Flower: the figures of this process, and a client that is killed in a round."""

import contextlib
import io
import os
import re
import signal
import sys
import threading

import jax
import numpy as np
import pytest

from jdistill import experiment_files, run
from jdistill.base import UserError
from jdistill.files import write_json
from jdistill.stages import federation
from jdistill.transports import Session, in_process, run_rounds
from jdistill.transports import flower as transport

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment():
  pytest.importorskip("flwr", reason="needs the extra: pip install 'jdistill[federated]'")
  config = experiment_files.load("experiments/fedavg.py:tiny")
  config.arms, config.order = {}, None
  config.model = {"name": "mlp", "widths": (8,)}
  return config


def prepared(experiment, workdir):
  """A run, and a work directory that clients can read."""
  found = run.make_run(experiment, workdir, workdir / "artefacts", io.StringIO())
  write_json(workdir / "config.json", found.config)
  return found


def train(one, carried, rounds):
  label = one.config["order"][0]
  work = federation.work_of(one, label, 0)
  shapes = federation.shapes(work.federation, work.data, carried.clients)
  name = federation.name_of(one, label)
  session = Session(name, 0, rounds, 1.0, "validation", federation.directory(one) / name / "seed0", "identity")
  return run_rounds(work.federation, carried, session, work.key(0), shapes[:2])


def same(a, b):
  """Programs of one client are the same on both ways, but a process may divide its work among other threads."""
  for x, y in zip(jax.tree.leaves(a.message), jax.tree.leaves(b.message), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
  assert [row["clients"] for row in a.rows] == [row["clients"] for row in b.rows]
  assert [row["right"] for row in a.rows] == [row["right"] for row in b.rows]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower and what it imports
def test_processes_give_the_figures_of_this_process_and_one_may_be_killed(experiment, tmp_path):
  """Client 1 is halted before the second round, so that it is killed in it, and starts again for the third."""
  local = prepared(experiment, tmp_path / "local")
  lost = lambda client, request: (client, request.kind, request.round) == (1, "local", 1)  # noqa: E731
  want = train(local, in_process(federation.participants(local, 3), lost), 3)
  assert [row["clients"] for row in want.rows] == [[0, 1, 2], [0, 2], [0, 1, 2]]

  one, lines = prepared(experiment, tmp_path / "processes"), []

  def command(client, address):
    return [sys.executable, "-m", "jdistill.stages.flower_client", one.workdir, one.artefacts, str(client), address]

  carried = transport.flower(command, 3, one.workdir / "logs", log=lines.append)

  def ask(requests):
    if any(lost(client, request) for client, request in requests.items()):
      process = int(re.search(r"client 1: process (\d+)", "\n".join(lines))[1])
      os.kill(process, signal.SIGSTOP)
      threading.Timer(1.0, os.kill, (process, signal.SIGKILL)).start()
    return carried.ask(requests)

  with contextlib.closing(carried):
    found = train(one, carried._replace(ask=ask), 3)
  same(found, want)
  assert "client 1: did not answer; the others go on without it" in lines
  assert len([line for line in lines if line.startswith("client 1: process")]) == 2


def test_without_flower_the_message_names_the_extra(monkeypatch):
  monkeypatch.setattr(transport.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"flwr is not installed; pip install 'jdistill\[federated\]', or set transport"):
    transport.flower(lambda client, address: [], 1, None)
