"""A function that runs when the process aborts (SIGABRT), set by `signal` of the C library.

Why: JAX's coordination client aborts the process from a thread of its own when another process is lost
(`jdistill.training.lost`). A handler of Python's `signal` runs in the main thread after the C handler has returned, and
`abort` ends the process before that.
Checked for: glibc and jax 0.10.2; POSIX only.
Without it: `on_abort` returns `False`, and the process ends with the runtime's own words and status.
"""

import ctypes
import signal
from collections.abc import Callable

_kept: list = []  # the C library holds no reference to a handler, which may be running when another is set


def on_abort(act: Callable[[], None] | None) -> bool:
  """Runs `act()` in the thread that aborts, instead of what was set before; where it returns, the process ends.

  Args:
    act: what to run, or `None` for nothing.

  Returns:
    Whether it is set.
  """
  try:
    set_handler = ctypes.CDLL(None).signal
  except (OSError, AttributeError, TypeError):  # no C library that can be asked
    return False
  set_handler.restype, set_handler.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
  handler = None if act is None else ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: act())
  set_handler(signal.SIGABRT, None if handler is None else ctypes.cast(handler, ctypes.c_void_p))
  _kept.append(handler)
  return True
