"""Strict JAX for every test: implicit rank and dtype promotion are errors, and there are eight devices.

A worker's memory is bounded: compiled programs are dropped when they have come to about a gigabyte.
"""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# runs share their compiled programs within a session of tests, and leave the user's cache alone
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jdistill-tests-")
# Tests compile far more than they compute: a program that runs slower and compiles in a third of the time suits them.
# The commands that tests start inherit it. XLA aborts on a flag it does not know, so it is given to the one it is for.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
  flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
  os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}".strip()

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


MOST_GIGABYTES = 2.0  # resident, of one worker
MANY_GIGABYTES = 1.0
peaks = []  # of this process, or of its workers


def pytest_unconfigure():
  shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def peak_gigabytes() -> float:
  """The most memory that this process has held at once; 0 where the system does not tell."""
  try:
    import resource
  except ImportError:
    return 0.0
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def resident_gigabytes() -> float:
  """The memory that this process holds now; 0 where the system does not tell."""
  try:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
  except OSError:
    return 0.0


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  """A worker has ended; a crashed one has left no output."""
  peaks.append(getattr(node, "workeroutput", {}).get("peak", 0.0))


def pytest_sessionfinish(session):
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["peak"] = peak_gigabytes()
    return
  if not peaks:
    peaks.append(peak_gigabytes())
  if sys.platform == "linux" and max(peaks) > MOST_GIGABYTES:
    session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
  if peaks and max(peaks):
    over = f", more than the {MOST_GIGABYTES:.1f} GB allowed" if max(peaks) > MOST_GIGABYTES else ""
    terminalreporter.write_line(f"peak memory of a worker: {max(peaks):.2f} GB{over}", red=bool(over))


def pytest_collection_modifyitems(items):
  """Files of whole runs first: a long one that begins last leaves the other workers idle at the end.

  A file with `TOGETHER = "name"` goes through its tests name by name. What they share, such as the programs of one
  method, is then made once and can go; test by test, programs of all names are held, dropped, and made again.
  """
  long = {item.path for item in items if item.get_closest_marker("slow")}
  files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}

  def place(item):
    shared = getattr(item.module, "TOGETHER", None)
    of = item.callspec.params.get(shared, "") if hasattr(item, "callspec") else ""
    return item.path not in long, files[item.path], of

  items.sort(key=place)  # stable: the order within a file, or of one name, stays


@pytest.hookimpl(wrapper=True)
def pytest_collection():
  """Half a million objects, of imports and of tests, live as long as the session: the collector never visits them."""
  gc.disable()
  try:
    return (yield)
  finally:
    gc.enable()
    gc.collect()
    gc.freeze()


def drop_programs():
  """Drops what JAX keeps of programs, and gives what glibc holds back of it to the system."""
  jax.clear_caches()
  gc.collect()
  if sys.platform == "linux":
    with contextlib.suppress(OSError, AttributeError):  # another C library
      ctypes.CDLL("libc.so.6").malloc_trim(0)


after_drop = [0.0]  # gigabytes that were left


def drop_programs_above(gigabytes: float):
  """Drops them only for want of memory: small programs, which most tests share, would have to be compiled again."""
  held = resident_gigabytes()
  if held > gigabytes and held > after_drop[0] + 0.3:
    drop_programs()
    after_drop[0] = resident_gigabytes()


@pytest.fixture(scope="module", autouse=True)
def dropped_programs():
  """Between files, whose larger programs differ, where a few hundred have come together."""
  yield
  drop_programs_above(MANY_GIGABYTES - 0.1)


def pytest_runtest_logreport(report):
  """Within files of long tests, which run whole experiments, or of many programs."""
  if report.when == "teardown":
    drop_programs_above(MANY_GIGABYTES)


@pytest.fixture(scope="session")
def cache_directory(tmp_path_factory):
  """Where `compiled_once` keeps programs, also those of processes that tests start."""
  return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def compiled_once(cache_directory):
  """Keeps all compiled programs, however small, for files whose tests run the same thing again and again."""
  settings = {
    "jax_compilation_cache_dir": str(cache_directory),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def x64():
  """Float64 for a reference test, and float32 again afterwards."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def numpy_pool():
  """`(x [n, height, width, channels], size)`: means over bins from floor(i H / n) to ceil((i + 1) H / n)."""

  def pool(x, size):
    height, width = x.shape[1:3]
    out = np.zeros((x.shape[0], size, size, x.shape[3]))
    for i in range(size):
      for j in range(size):
        rows = slice(int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size)))
        columns = slice(int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size)))
        out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out

  return pool
