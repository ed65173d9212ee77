"""What the tests of whole runs share: the command in this process, and one finished tiny run to copy and spoil."""

import contextlib
import io
import pathlib
import shutil
from typing import NamedTuple

import pytest

from jdistill import run

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TINY = "--config=experiments/datm.py:tiny"


class Result(NamedTuple):
  """How a command ended: exit status and what it printed."""

  code: int
  out: str
  err: str

  @property
  def complaint(self) -> str:
    """The one line of a refused command, without its prefix; anything else on standard error fails."""
    assert self.code == 1, self
    assert self.err.startswith("jdistill: "), self.err
    assert self.err.endswith("\n") and self.err.count("\n") == 1, self.err
    assert self.out == "", self.out
    return self.err.removeprefix("jdistill: ").rstrip("\n")


def call(*arguments) -> Result:
  """Runs the command in this process."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = run.main(["run", *map(str, arguments)])
  return Result(code, out.getvalue(), err.getvalue())


def pytest_collection_modifyitems(items):
  """ml_collections 1.x loads experiment files in a way that newer Pythons warn about."""
  for item in items:
    if pathlib.Path(__file__).parent in item.path.parents:
      item.add_marker(pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
  """Commands name `experiments/datm.py`, as a user in the checkout would."""
  monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module", autouse=True)
def programs(compiled_once):
  """Most runs here are the same run again."""


@pytest.fixture(name="call", scope="session")
def call_fixture():
  """The command as a function `(*arguments) -> Result`."""
  return call


@pytest.fixture
def refuse(tmp_path):
  """`(*arguments) -> complaint` of a command that must stop before it writes a single file."""

  def check(*arguments, config=TINY):
    before = sorted(tmp_path.rglob("*"))
    complaint = call(config, *arguments, f"--workdir={tmp_path / 'work'}").complaint
    assert sorted(tmp_path.rglob("*")) == before
    return complaint

  return check


@pytest.fixture(scope="session")
def done(tmp_path_factory):
  """The directory of one finished tiny run: `work` and `artefacts`. Not to be written to."""
  root = tmp_path_factory.mktemp("done")
  with contextlib.chdir(REPOSITORY):
    result = call(TINY, f"--workdir={root / 'work'}")
  assert result.code == 0, result.err
  (root / "printed.txt").write_text(result.err)
  return root


@pytest.fixture
def copy(done, tmp_path):
  """A copy of the finished run in `tmp_path`, to be spoilt."""
  shutil.copytree(done, tmp_path, dirs_exist_ok=True)
  return tmp_path


def flip(path: pathlib.Path) -> None:
  """Flips a bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


@pytest.fixture(name="flip")
def flip_fixture():
  """`(path)` flips a bit of a file."""
  return flip
