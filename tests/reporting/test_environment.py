"""What a run says about its machine, and what it must not say."""

import getpass
import importlib
import json
import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

import jdistill

module = importlib.import_module("jdistill.reporting.environment")


def test_contents():
  found = module.environment()
  assert json.loads(json.dumps(found)) == found
  assert found["python"] == platform.python_version()
  assert found["versions"]["jdistill"] == jdistill.__version__
  assert found["versions"]["jax"] == jax.__version__ and found["versions"]["numpy"] == np.__version__
  assert set(found["versions"]) == {"jdistill", "jax", "jaxlib", "flax", "optax", "numpy"}
  assert found["devices"] == {"backend": "cpu", "kind": "cpu", "count": jax.device_count()}
  assert found["cpu_count"] == os.cpu_count() and len(found["load_average"]) == 3


def test_no_names_and_paths():
  found = module.environment()
  text = json.dumps([value for name, value in found.items() if name not in ("devices", "versions")])
  assert "/" not in text and "\\" not in text
  for name in (platform.node(), getpass.getuser()):
    assert len(name) < 4 or name not in text  # shorter ones are found by chance


def test_git_commit_of_a_checkout(tmp_path):
  assert module._git(tmp_path) == (None, None)
  git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
  subprocess.run([*git, "init", "-q"], check=True)
  assert module._git(tmp_path) == (None, None)  # no commit yet
  (tmp_path / "x").write_text("1")
  subprocess.run([*git, "add", "x"], check=True)
  subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
  head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
  assert module._git(tmp_path) == (head, False)
  (tmp_path / "new").write_text("untracked files do not count")
  assert module._git(tmp_path) == (head, False)
  (tmp_path / "x").write_text("2")
  assert module._git(tmp_path) == (head, True)
  (tmp_path / "inner").mkdir()
  assert module._git(tmp_path / "inner") == (None, None)  # somebody else's repository above


def test_git_is_not_installed(tmp_path, monkeypatch):
  (tmp_path / ".git").mkdir()
  monkeypatch.setenv("PATH", str(tmp_path))
  assert module._git(tmp_path) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process")
def test_the_peak_can_be_counted_anew():
  block = np.ones(128_000_000, np.uint8)
  before = module.peak_memory_bytes()
  assert block[-1] == 1
  del block
  module.restart_peak_memory()
  assert module.peak_memory_bytes() < before - 64_000_000


def test_peak_memory_sees_an_allocation():
  before = module.peak_memory_bytes()
  extra = max(0, before - _resident()) + 64_000_000
  block = np.ones(extra, np.uint8)
  after = module.peak_memory_bytes()
  assert block[-1] == 1
  assert before + 32_000_000 < after < before + 200_000_000


def _resident():
  try:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except OSError:
    pytest.skip("this system has no /proc/self/statm")


def test_sources_of_the_peak(monkeypatch):
  resource = pytest.importorskip("resource")

  class Usage:
    ru_maxrss = 1000

  class Device:
    def __init__(self, stats):
      self.stats = stats

    def memory_stats(self):
      if isinstance(self.stats, Exception):
        raise self.stats
      return self.stats

  devices = [Device(None), Device({"peak_bytes_in_use": 7}), Device({}), Device(jax.errors.JaxRuntimeError("no"))]
  monkeypatch.setattr(resource, "getrusage", lambda _: Usage)
  monkeypatch.setattr(module, "_high_water_mark", lambda: 0)
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(module.sys, "platform", "linux")
  assert module.peak_memory_bytes() == 1000 * 1024 + 7
  monkeypatch.setattr(module.sys, "platform", "darwin")
  assert module.peak_memory_bytes() == 1000 + 7
