"""The client of JAX's coordination service (`jax._src.distributed.global_state`).

Why: processes of one run exchange small messages (`jdistill.training.distributed`) that must not time out as
collectives on devices do. The service that `jax.distributed.initialize` starts can do that, but its client has no
public name. The index of this process is read beside it, as `jax.process_index` would start the devices.
Checked for: jax 0.10.2.
Without it: `is_available` is `False` and a run of several processes is refused; a run of one process does not need it.
"""

from typing import Any, NamedTuple


class Connection(NamedTuple):
  """This process among those of a run.

  Attributes:
    client: what messages are sent with.
    process: index of this process.
    processes: how many there are.
  """

  client: Any
  process: int
  processes: int


def is_available() -> bool:
  """Whether this release of JAX has the client."""
  return _state() is not None


def connection() -> Connection | None:
  """The connection that `jax.distributed.initialize` made; `None` before it and without it."""
  state = _state()
  return None if state is None or state.client is None else state


def _state() -> Connection | None:
  try:
    from jax._src import distributed

    state = distributed.global_state
    return Connection(state.client, state.process_id, state.num_processes)
  except (ImportError, AttributeError):
    return None
