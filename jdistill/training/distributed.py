"""Many processes as one run: process 0 decides and writes, the others follow and read what it wrote.

All processes run the same stages in the same order. What must be the same everywhere (is a stage finished, which step
comes next, does somebody want to stop) is asked of process 0 with `on_first`; what only one process may do (files,
stages on one device) happens inside `on_first` as well, while the others wait. Messages go through JAX's coordination
service and not through the devices, so that waiting for hours is no collective that could time out.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from jdistill._compat import coordination
from jdistill.base import UserError
from jdistill.training import lost

HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as lost
START_SECONDS = 120  # all processes must have been started within this time
_STOP = "jdistill/stop"
_KEPT = 100_000  # messages that a follower may be behind


class _Progress:
  """Where this process is in the conversation."""

  messages = 0  # the same on all processes between two messages
  alone = False  # inside the work of `on_first`


def _client() -> Any:
  found = coordination.connection()
  return None if found is None else found.client


def count() -> int:
  """How many processes act together here: 1 without `initialize`, and inside `on_first`."""
  found = coordination.connection()
  return 1 if found is None or _Progress.alone else found.processes


def is_alone() -> bool:
  """Whether this is process 0 of several that wait for it, inside `on_first`."""
  return _Progress.alone


def is_writer() -> bool:
  """Whether this process writes files and prints progress."""
  found = coordination.connection()
  return found is None or found.process == 0


def initialize(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *, where=lambda: ""
) -> None:
  """Joins the processes of a run; before anything uses a device.

  Args:
    coordinator: `HOST:PORT` of process 0; without it all three are found by JAX (TPU pods, Slurm, Open MPI, ...).
    num_processes: how many there are.
    process_id: index of this process.
    where: `() -> text` that says how a run goes on that ends because a process was lost.

  Raises:
    UserError: numbers that do not fit together, a port in use, no cluster to be found, or a release of JAX without the
      means.
  """
  flag = "distributed" if coordinator is None else "coordinator"
  if not coordination.is_available():
    raise UserError(f"--{flag}: jax {jax.__version__} has no client for messages between processes; install jax 0.10.2")
  options: dict[str, Any] = {}
  if coordinator is not None:
    _check(coordinator, num_processes, process_id)
    if process_id == 0:
      _check_port(coordinator)
    options = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    options["cluster_detection_method"] = "deactivate"
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from us
  others = f"of {num_processes} processes" if num_processes else "of the processes"
  lost.watch(
    f"not all {others} came within {START_SECONDS} s, or two have the same number; start all of them at the same time, "
    "each with the same --coordinator and --num_processes and its own --process_id"
  )
  try:
    jax.distributed.initialize(
      **options,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      initialization_timeout=START_SECONDS,
      shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
  except jax.errors.JaxRuntimeError as error:
    lost.unwatch()
    raise UserError(
      f"--coordinator={coordinator}: {str(error).splitlines()[0]}; start all processes again, on another port"
    ) from error
  except (ValueError, RuntimeError) as error:
    lost.unwatch()
    reason = str(error).splitlines()[0].rstrip(".")
    raise UserError(f"--{flag}: {reason}; give --coordinator=HOST:PORT, --num_processes and --process_id") from error

  def line() -> str:
    text = where()
    return (
      "another process of this run died or was lost; start all of them again with the same command"
      f"{', ' if text else ''}{text}"
    )

  lost.watch(line)


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator={coordinator}: must be HOST:PORT of process 0, such as 10.0.0.1:4321")
  if num_processes is None or num_processes < 1:
    raise UserError(f"--num_processes={num_processes}: must be at least 1")
  if process_id is None or not 0 <= process_id < num_processes:
    raise UserError(f"--process_id={process_id}: must be one of 0..{num_processes - 1}")


def _check_port(coordinator: str) -> None:
  """Asked for beforehand, as JAX's own server can crash where the port is in use."""
  family, host = (socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "0.0.0.0")
  try:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of runs that ended a moment ago are free
      probe.bind((host, int(coordinator.rpartition(":")[2])))
  except OSError as error:
    raise UserError(
      f"--coordinator={coordinator}: cannot listen there ({error.strerror}); choose another port, the same for all"
    ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
  before, _Progress.alone = _Progress.alone, True
  try:
    yield
  finally:
    _Progress.alone = before


def on_first(work: Callable[[], Any], passes: tuple[type[Exception], ...] = (UserError,)) -> Any:
  """Process 0 does something while the others wait, and what it returned or raised is everybody's.

  Inside `work` the process is by itself: `count()` is 1 and `on_first` in it is a plain call. Without several processes
  this is `work()`.

  Args:
    work: returns something that JSON can hold.
    passes: exceptions that are raised on all processes, with the same text; others end process 0 alone.

  Returns:
    The result, as JSON gives it back.
  """
  if count() == 1:
    return work()
  _Progress.messages += 1
  number = _Progress.messages
  if not is_writer():
    message = _receive(number)
    if "kind" in message:
      raise passes[message["kind"]](message["text"])
    return message["value"]
  try:
    with _alone():
      out = work()
  except passes as error:
    _send(number, {"kind": next(i for i, kind in enumerate(passes) if isinstance(error, kind)), "text": str(error)})
    raise
  _send(number, {"value": out})
  return json.loads(json.dumps(out))


def _send(number: int, message: dict[str, Any]) -> None:
  _client().key_value_set(f"jdistill/{number}", json.dumps(message))
  if number > _KEPT:
    _client().key_value_delete(f"jdistill/{number - _KEPT}")


def _receive(number: int) -> dict[str, Any]:
  while True:
    try:
      return json.loads(_client().blocking_key_value_get(f"jdistill/{number}", 500))
    except jax.errors.JaxRuntimeError as error:  # short waits, so that Ctrl-C is heard between them
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def request_stop() -> None:
  """Tells process 0 that this process was asked to stop; may be called from a signal handler."""
  if _client() is not None and not is_writer():
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      _client().key_value_set(_STOP, "1", allow_overwrite=True)


def stop_requested(own: bool) -> bool:
  """Whether any process was asked to stop; the same answer on all.

  Args:
    own: whether this one was.
  """
  return on_first(lambda: own or _asked_by_others())


def _asked_by_others() -> bool:
  if _client() is None:
    return False
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # which says that there is no such key
    return bool(_client().key_value_try_get(_STOP))
  return False


def is_loss(error: Exception) -> bool:
  """Whether an error of the runtime says that another process is gone."""
  words = ("Gloo", "coordination", "Coordination", "Barrier", "heartbeat", "UNAVAILABLE", "Socket closed")
  return _client() is not None and any(word in str(error) for word in words)


def fails() -> None:
  """Notes that this process ends by an error of its own, so that it does not say that another one was lost."""
  if _client() is not None:
    lost.leaving(1)


def leave(status: int) -> None:
  """Ends this process's part; with an exit status for one that the others do not come along with.

  All processes that end together leave in an orderly way. One that ends by itself (bad input on its machine only) waits
  a moment and goes; the others then say that it was lost.
  """
  if _client() is None:
    return
  lost.leaving(status)
  try:
    _client().wait_at_barrier("jdistill/end", 5_000 if status else 60_000)
    jax.distributed.shutdown()
  except jax.errors.JaxRuntimeError:
    _exit(status)
  lost.unwatch()


def _exit(status: int) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)  # an orderly exit would wait for processes that do not come
