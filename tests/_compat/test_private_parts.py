"""Each private part of another library, used and missing: what is taken away comes back after the test."""

import ctypes
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache as jax_cache
from jax._src import dispatch
from jax._src import distributed as jax_distributed
from jax.experimental.compilation_cache import compilation_cache as public_cache
from jax.extend.core import Primitive

from jdistill._compat import aborts, compilation_cache, coordination, lowering, onednn_call
from jdistill.base import UserError
from jdistill.ops import conv, onednn
from jdistill.training import distributed, lost

DIES = """
import os, sys
from jdistill._compat import aborts
from jdistill.training import lost
if sys.argv[1] == "without":
  aborts.ctypes.CDLL = lambda name: object()
lost.watch("another process was lost")
os.write(2, b"before\\n")
os.write(2, sys.argv[2].encode() + b"\\nand a stack\\n")
os.abort()
"""
FATAL = "F0000 client.h:80] Terminating process because the JAX distributed service detected fatal errors."


@pytest.fixture
def own_cache():
  """JAX's choice of a cache directory is the test's, and as before afterwards."""
  before = jax.config.jax_compilation_cache_dir
  public_cache.reset_cache()
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  public_cache.reset_cache()


@pytest.mark.parametrize("missing", [None, "_get_cache", "is_cache_used"])
def test_an_open_cache_is_known_and_otherwise_the_options_are_believed(own_cache, monkeypatch, tmp_path, missing):
  def is_open(directory):
    jax.config.update("jax_compilation_cache_dir", directory)
    with monkeypatch.context() as without:
      if missing:
        without.delattr(jax_cache, missing)
      return compilation_cache.is_open()

  assert not is_open(None)
  public_cache.reset_cache()
  assert is_open(str(tmp_path))
  # JAX keeps the cache that it has opened, which the options do not tell
  assert is_open(None) == (missing is None)


def test_devices_reach_the_lowering_or_the_caller_is_told(monkeypatch):
  one = Primitive("jdistill_test")
  assert conv.forward_p in dispatch.prim_requires_devices_during_lowering
  try:
    assert lowering.request_devices(one)
    assert one in dispatch.prim_requires_devices_during_lowering
  finally:
    dispatch.prim_requires_devices_during_lowering.discard(one)
  monkeypatch.delattr(dispatch, "prim_requires_devices_during_lowering")
  assert not lowering.request_devices(one)
  monkeypatch.setattr(onednn, "_knows_devices", onednn._knows_devices)
  onednn.spread(one)
  assert not onednn.usable(jnp.float32)


def test_the_instruction_belongs_to_releases_that_were_checked(monkeypatch):
  monkeypatch.setattr(onednn_call.jaxlib, "__version__", onednn_call.RELEASES[-1])
  assert onednn_call.is_known()
  monkeypatch.setattr(onednn_call.jaxlib, "__version__", "0.10.20")
  assert not onednn_call.is_known() and not onednn.usable(jnp.float32)


def test_a_connection_is_that_of_jax(monkeypatch):
  assert coordination.is_available() and coordination.connection() is None
  for name, value in {"client": "client", "process_id": 1, "num_processes": 3}.items():
    monkeypatch.setattr(jax_distributed.global_state, name, value)
  assert coordination.connection() == ("client", 1, 3)
  assert distributed.count() == 3 and not distributed.is_writer()


def test_without_the_client_one_process_runs_and_several_are_refused(monkeypatch):
  monkeypatch.delattr(jax_distributed, "global_state")
  assert coordination.connection() is None and not coordination.is_available()
  assert distributed.count() == 1 and distributed.is_writer()
  assert distributed.on_first(lambda: 7) == 7
  with pytest.raises(UserError, match=r"--coordinator: jax .* has no client .*; install jax 0\.10\.2"):
    distributed.initialize("127.0.0.1:4321", 2, 1)


def _dies(*arguments):
  done = subprocess.run([sys.executable, "-c", DIES, *arguments], capture_output=True, text=True)
  return done.returncode, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
def test_a_loss_is_one_line_where_the_abort_can_be_caught():
  assert _dies("with", FATAL) == (1, "before\njdistill: another process was lost\n")
  status, said = _dies("without", FATAL)
  assert status < 0 and said == f"before\n{FATAL}\nand a stack\n"


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
def test_an_abort_for_another_reason_stays_one():
  status, said = _dies("with", "some other error")
  assert status < 0 and said == "before\nsome other error\nand a stack\n"


def test_without_a_c_library_nothing_is_watched(monkeypatch):
  def missing(name):
    raise OSError(name)

  monkeypatch.setattr(ctypes, "CDLL", missing)
  assert not aborts.on_abort(lambda: None)
  before = sys.stderr
  lost.watch("lost")
  assert sys.stderr is before and lost._Watch.stderr is None
  lost.unwatch()
