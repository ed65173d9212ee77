"""What tests of stages share: one finished run in knowledge distillation."""

import knowledge_runs
import pytest


@pytest.fixture(scope="session")
def done(tmp_path_factory):
  """A finished tiny run (`knowledge_runs`). Not to be written to."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    knowledge_runs.one_step_at_a_time(monkeypatch)
    return knowledge_runs.finish(tmp_path_factory.mktemp("knowledge"))
