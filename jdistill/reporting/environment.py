"""What a run ran on: versions, devices and memory, without naming the machine or its owner."""

import contextlib
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jdistill

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> dict[str, Any]:
  """Describes where this process runs; JSON-able, and free of paths, user and host names.

  Returns:
    `python`, `platform` (system, processor, C library), `versions` by library, `devices` (backend, kind, count),
    `cpu_count`, `load_average` (1, 5, 15 minutes, or `None`), `git_commit` of the checkout that the package lies in and
    `git_dirty` (whether tracked files differ from it); both `None` for an installed package.
  """
  devices = jax.devices()
  commit, dirty = _git(Path(__file__).resolve().parents[2])
  return {
    "python": platform.python_version(),
    "platform": " ".join(part for part in (platform.system(), platform.machine(), *platform.libc_ver()) if part),
    "versions": {"jdistill": jdistill.__version__, **{name: _version(name) for name in _LIBRARIES}},
    "devices": {"backend": jax.default_backend(), "kind": devices[0].device_kind, "count": len(devices)},
    "cpu_count": os.cpu_count(),
    "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    "git_commit": commit,
    "git_dirty": dirty,
  }


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git(root: Path) -> tuple[str | None, bool | None]:
  # Looked for here and not above: an installed package may lie inside somebody else's repository.
  if not (root / ".git").exists():
    return None, None
  try:
    ask = ["git", "-C", str(root)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    commit = subprocess.run([*ask, "rev-parse", "--verify", "HEAD"], **options).stdout.strip()
    changes = subprocess.run([*ask, "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None, None
  return commit, bool(changes)


def peak_memory_bytes() -> int:
  """Returns the most memory this process has held so far: resident host memory plus, where reported, device memory.

  Devices that report no peak (CPU) count as zero, others are summed. On Linux the host part is `VmHWM` where the kernel
  gives it, else `ru_maxrss`: the latter also remembers the *parent* at the moment it started this process, so a small
  benchmark started by a large program would report the large one.
  """
  host = _high_water_mark() or _maximum_resident()
  return host + sum(_device_peak(device) for device in jax.local_devices())


def restart_peak_memory() -> None:
  """Lets `peak_memory_bytes` count the host's memory from now on, where the kernel can (Linux); what is held stays."""
  with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")


def _high_water_mark() -> int:
  try:
    status = Path("/proc/self/status").read_text()
  except OSError:
    return 0
  for line in status.splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  return 0


def _maximum_resident() -> int:
  try:
    import resource  # not on Windows
  except ImportError:
    return 0
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


def _device_peak(device: jax.Device) -> int:
  try:
    stats = device.memory_stats() or {}
  except jax.errors.JaxRuntimeError:  # some backends refuse the question
    return 0
  return int(stats.get("peak_bytes_in_use", 0))


def matmul_peak(size: int = 1024, seconds: float = 0.5) -> float:
  """FLOPs per second of the best of some float32 matmuls `size x size` on one device, over about `seconds`."""
  x = jnp.ones((size, size), jnp.float32)
  product = jax.jit(jnp.matmul).lower(x, x).compile()
  jax.block_until_ready(product(x, x))
  best, begin = math.inf, time.perf_counter()
  while time.perf_counter() - begin < seconds:
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    best = min(best, time.perf_counter() - start)
  return 2 * size**3 / best
