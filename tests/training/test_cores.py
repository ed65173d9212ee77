"""Devices of one CPU: as many as cores, that wait for each other however busy the machine is."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os
from jdistill.training import parallel
parallel.use_cores()
import jax
print(json.dumps([jax.device_count(), os.environ["XLA_FLAGS"].split()]))
"""


def started(**environment):
  """Devices and flags of a new process."""
  own = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM], env=own | {"JAX_PLATFORMS": "cpu"} | environment, capture_output=True, check=True
  )
  return json.loads(done.stdout)


def test_a_device_waits_longer_than_the_forty_seconds_after_which_xla_ends_the_process():
  count, flags = started()
  assert count == min(32, len(os.sched_getaffinity(0)))
  assert "--xla_cpu_collective_call_terminate_timeout_seconds=86400" in flags


def test_flags_of_the_user_stay():
  own = ["--xla_force_host_platform_device_count=3", "--xla_cpu_collective_call_terminate_timeout_seconds=9"]
  count, flags = started(XLA_FLAGS=" ".join(own))
  assert count == 3 and flags[:2] == own
  assert [flag.partition("=")[0] for flag in flags[2:]] == ["--xla_cpu_collective_call_warn_stuck_timeout_seconds"]
