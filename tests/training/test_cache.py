"""Where compiled programs are kept."""

import subprocess
import sys

import jax
import pytest

from jdistill.base import UserError
from jdistill.ops import onednn
from jdistill.training import cache

PROGRAM = """
import sys
import jax, jax.numpy as jnp
from jdistill.training import cache
print(cache.enable(sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sum(jnp.sin(x)))(jnp.arange(3.0))
"""


def run(choice):
  return subprocess.run(
    [sys.executable, "-c", PROGRAM, choice], capture_output=True, text=True, check=True
  ).stdout.strip()


def test_choice_comes_before_the_variable_and_that_before_the_default(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.delenv(cache.VARIABLE, raising=False)
  assert cache.directory(None).parent.name == "jdistill"
  monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "variable"))
  assert cache.directory(None) == tmp_path / "variable"
  assert cache.directory(str(tmp_path / "flag")) == tmp_path / "flag"
  assert cache.directory("off") is None


def test_programs_are_kept_or_not(tmp_path):
  path = tmp_path / "programs"
  assert run(str(path)) == str(path)
  assert len(list(path.iterdir())) > 0
  assert run("off") == "None"


def test_a_named_directory_must_work(tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  with pytest.raises(
    UserError, match=r"--compilation_cache=.*file: .*; give a directory that can be written, or 'off'"
  ):
    cache.enable(str(blocked))


@pytest.fixture
def own_settings():
  """JAX's settings as they were, after a test that changes them."""
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  before, first = {name: getattr(jax.config, name) for name in names}, onednn._before_cache
  yield
  onednn._before_cache = first
  for name, value in before.items():
    jax.config.update(name, value)


def test_a_default_that_cannot_be_made_is_left_out(monkeypatch, tmp_path, own_settings):
  (tmp_path / "file").write_text("")
  monkeypatch.delenv(cache.VARIABLE, raising=False)
  monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda *a, **k: str(tmp_path / "file"))
  assert cache.enable(None) is None
  assert jax.config.jax_compilation_cache_dir is None


def test_fast_convolutions_come_before_a_cache_that_nobody_chose(monkeypatch, tmp_path, own_settings):
  monkeypatch.setattr(onednn, "_before_cache", False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  cache.enable(str(tmp_path / "chosen"))
  monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "chosen"))
  cache.enable(None)
  assert not onednn._before_cache
  monkeypatch.delenv(cache.VARIABLE)
  cache.enable(None)
  assert onednn._before_cache


def test_jaxs_own_variable_is_left_to_jax(monkeypatch, own_settings):
  monkeypatch.setenv(cache.VARIABLE, "gs://bucket/programs")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.125)
  cache.enable(None)
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.125
