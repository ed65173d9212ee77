"""PyTorch at its fastest: the usual switches, tried before anything is compared.

  layout       contiguous, or channels_last for images and convolution kernels
  compiled     torch.compile, where a C++ compiler is there and the step can be compiled
  precision    float32 matrix products at "high", for all

Each combination runs in a process of its own, in turn with the others; the fastest is the one that is compared.
"""

import shutil

from benchmarks import _workers

NAMES = ("contiguous", "channels_last", "contiguous, compiled", "channels_last, compiled")
TRIALS = 2


def names() -> list[str]:
  """The combinations that this machine can try."""
  compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
  return [name for name in NAMES if compiler or "compiled" not in name]


def prepare(name: str, threads: int):
  """PyTorch with the switches that hold for the whole process.

  Returns:
    `(torch, layout, compiled)`: `layout(tensor or module)` puts images and kernels into the layout of `name`, and
    `compiled(function)` compiles where `name` asks for it.
  """
  import torch

  torch.set_num_threads(threads)
  torch.set_float32_matmul_precision("high")
  memory = torch.channels_last if "channels_last" in name else torch.contiguous_format

  def layout(one):
    if isinstance(one, torch.nn.Module):
      return one.to(memory_format=memory)
    return one.contiguous(memory_format=memory) if one.ndim == 4 else one

  def compiled(function):
    return torch.compile(function) if "compiled" in name else function

  return torch, layout, compiled


def fastest(command: list[str], threads: int, tried: tuple[str, ...] = NAMES) -> tuple[str, dict[str, float | str]]:
  """The fastest combination for a worker.

  Args:
    command: starts the worker, without `--switches=NAME`.
    threads: of each.
    tried: combinations out of `NAMES`.

  Returns:
    Its name, and by name the median seconds of a step, or why it cannot be run.
  """
  found: dict[str, float | str] = {}
  for name in [name for name in names() if name in tried]:
    worker = _workers.Worker([*command, f"--switches={name}"], threads)
    try:
      _workers.interleave([worker], TRIALS)
      found[name] = worker.median
      worker.stop()
    except SystemExit as error:
      found[name] = str(error)
  timed = {name: seconds for name, seconds in found.items() if isinstance(seconds, float)}
  return min(timed, key=timed.__getitem__), found
