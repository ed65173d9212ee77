"""What tests of stages share: one finished run in knowledge distillation."""

import contextlib

import knowledge_runs
import pytest


@pytest.fixture(scope="session")
def done(tmp_path_factory):
  """A finished tiny run (`knowledge_runs`). Not to be written to."""
  with contextlib.chdir(tmp_path_factory.getbasetemp()):
    return knowledge_runs.finish(tmp_path_factory.mktemp("knowledge"))
