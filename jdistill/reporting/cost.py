"""What one run of a compiled program multiplies, moves between chip and memory, and sends to other devices.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as often as it runs
(`hlo.trip_count`). Of the branches of a conditional the cheapest counts, and what is unknown costs nothing: the figures
are lower bounds for the program as it was compiled.
"""

import collections
import math
import re
from typing import NamedTuple

from jdistill.reporting import hlo

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# What has no result of its own, or what nothing is known of.
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
  "partition-id", "replica-id", "custom-call", "opt-barrier", "domain",
}  # fmt: skip
_PICKS = ("dynamic-slice", "slice", "gather")
_PUTS = {"dynamic-update-slice": 1, "scatter": -1}  # in place: only the operand at this place is written


class Collective(NamedTuple):
  """A kind of exchange between devices.

  Attributes:
    kind: one of `COLLECTIVES`.
    size: bytes of the whole array, on one device: of the result, or of the operand for `reduce-scatter`.
    group: how many devices take part.
  """

  kind: str
  size: int
  group: int

  @property
  def sent(self) -> float:
    """Bytes that a device sends at least: `2 (n - 1) / n` of the size for an all-reduce, `(n - 1) / n` for others."""
    if self.kind == "collective-permute":
      return float(self.size)
    return (2 if self.kind == "all-reduce" else 1) * self.size * (self.group - 1) / self.group


class Cost(NamedTuple):
  """What one run of a program costs a device.

  Attributes:
    flops: multiplications and additions of its matrix products and convolutions.
    moved: bytes read from and written to the large memory, with what tiles add.
    collectives: how often each exchange happens.
  """

  flops: float
  moved: float
  collectives: dict[Collective, int]

  @property
  def sent(self) -> float:
    """Bytes sent to other devices."""
    return sum(exchange.sent * times for exchange, times in self.collectives.items())


def cost(text: str, devices: int = 1) -> Cost:
  """Adds up what one run of a compiled program costs one device.

  Args:
    text: `compiled.as_text()`.
    devices: how many devices an exchange is between where the text does not say.

  Raises:
    ValueError: a text without an entry computation.
  """
  program = hlo.parse(text)
  return _walk(program, program.entry, devices)


def _walk(program: hlo.Program, name: str, devices: int) -> Cost:
  computation = program.computations[name]
  flops, moved = _multiplied(program, name), 0.0
  exchanges: collections.Counter[Collective] = collections.Counter()
  for instruction in computation.values():
    moved += _moved(program, computation, instruction)
    if exchange := _collective(instruction, computation, devices):
      exchanges[exchange] += 1
    times, parts = _parts(program, instruction, devices)
    for part in parts:
      flops, moved = flops + times * part.flops, moved + times * part.moved
      for exchange, count in part.collectives.items():
        exchanges[exchange] += times * count
  return Cost(flops, moved, dict(exchanges))


def _parts(program: hlo.Program, instruction: hlo.Instruction, devices: int) -> tuple[int, list[Cost]]:
  """The computations that an instruction runs, and how often."""
  if instruction.opcode == "while":
    bodies = hlo.called(instruction, "body")
    return hlo.trip_count(program, instruction), [_walk(program, body, devices) for body in bodies]
  if instruction.opcode == "conditional":
    names = hlo.called(instruction, "branch_computations", "true_computation", "false_computation")
    branches = [_walk(program, branch, devices) for branch in names]
    exchanges = min(branches, key=lambda part: part.sent).collectives
    return 1, [Cost(min(b.flops for b in branches), min(b.moved for b in branches), exchanges)]
  if instruction.opcode == "call":
    return 1, [_walk(program, name, devices) for name in hlo.called(instruction, "to_apply")]
  return 1, []


def _collective(
  instruction: hlo.Instruction, computation: dict[str, hlo.Instruction], devices: int
) -> Collective | None:
  kind = instruction.opcode.removesuffix("-start")
  if kind not in COLLECTIVES:
    return None
  if found := re.search(r"replica_groups=\{\{([\d,]+)\}", instruction.rest):
    group = found.group(1).count(",") + 1
  elif found := re.search(r"replica_groups=\[\d+,(\d+)\]", instruction.rest):
    group = int(found.group(1))
  else:
    group = devices
  given = sum(leaf.size for operand in instruction.operands for leaf in computation[operand].shape)
  return Collective(kind, given * group if kind == "all-gather" else given, group)


# -- matrix products --------------------------------------------------------------------------------------------------


def _multiplied(program: hlo.Program, name: str) -> float:
  """FLOPs of the products of a computation and of its fusions."""
  computation, total = program.computations[name], 0.0
  for instruction in computation.values():
    if instruction.opcode == "dot":
      total += _dot_flops(instruction, computation[instruction.operands[0]].shape[0])
    elif instruction.opcode == "convolution":
      total += _conv_flops(instruction, *(computation[operand].shape[0] for operand in instruction.operands[:2]))
    elif instruction.opcode == "fusion":
      total += sum(_multiplied(program, called) for called in hlo.called(instruction, "calls"))
  return total


def _dot_flops(instruction: hlo.Instruction, left: hlo.Leaf) -> float:
  found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
  contracted = math.prod(left.dims[int(axis)] for axis in found.group(1).split(",") if axis) if found else 1
  return 2.0 * math.prod(instruction.shape[0].dims) * contracted


def _conv_flops(instruction: hlo.Instruction, left: hlo.Leaf, kernel: hlo.Leaf) -> float:
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest).groups()
  shapes = (left.dims, kernel.dims, instruction.shape[0].dims)
  image, weights, out = (dict(zip(names, dims, strict=True)) for names, dims in zip(labels, shapes, strict=True))
  axes = sorted(name for name in image if name.isdigit())
  pairs = math.prod(
    _touching(image[axis], out[axis], *numbers)
    for axis, numbers in zip(axes, _windows(instruction.rest, len(axes)), strict=True)
  )
  groups = re.search(r"batch_group_count=(\d+)", instruction.rest)
  return 2.0 * image["b"] / (int(groups.group(1)) if groups else 1) * weights["i"] * weights["o"] * pairs


def _windows(rest: str, axes: int) -> list[tuple[int, ...]]:
  """Per axis: window, stride, padding before, dilation of the image, dilation of the window."""
  window = re.search(r"window=\{([^}]*)\}", rest)
  given = dict(part.split("=") for part in window.group(1).split()) if window else {}
  columns = []
  for key, default in (("size", "1"), ("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"), ("rhs_dilate", "1")):
    values = given[key].split("x") if key in given else [default] * axes
    columns.append([int(value.split("_")[0]) for value in values])
  return list(zip(*columns, strict=True))


def _touching(size: int, out: int, window: int, stride: int, low: int, dilate: int, spread: int) -> int:
  """Along one axis: pairs of an output place and a window place that meet an element and not padding."""
  last = (size - 1) * dilate
  places = (y * stride + k * spread - low for y in range(out) for k in range(window))
  return sum(0 <= place <= last and place % dilate == 0 for place in places)


# -- memory -----------------------------------------------------------------------------------------------------------


def _held(leaves: tuple[hlo.Leaf, ...]) -> float:
  return float(sum(leaf.held for leaf in leaves if not leaf.near))


def _moved(program: hlo.Program, computation: dict[str, hlo.Instruction], instruction: hlo.Instruction) -> float:
  """Bytes that one instruction reads from and writes to the large memory."""
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith("-done"):
    return 0.0
  sources = [computation[operand].shape for operand in instruction.operands]
  if opcode in ("copy-start", "slice-start"):  # results are where to, where from, and a mark
    ends = instruction.shape[:2]
    return float(min(leaf.held for leaf in ends) * sum(not leaf.near for leaf in ends))
  if opcode.endswith("-start"):
    return 2 * sum(_held(source) for source in sources)
  if opcode in _PICKS:
    read = 0 if sources[0][0].near else sum(leaf.held for leaf in instruction.shape)
    return _held(instruction.shape) + read
  if opcode in _PUTS:
    update = sources[_PUTS[opcode]]
    return _held(update) + (0 if instruction.shape[0].near else sum(leaf.held for leaf in update))
  if opcode != "fusion":
    return _held(instruction.shape) + sum(_held(source) for source in sources)
  (called,) = hlo.called(instruction, "calls")
  read = sum(_held(s) * _read(program, called, hlo.parameter(program, called, n)) for n, s in enumerate(sources))
  root = hlo.root(program, called)
  results = root.operands if root.opcode == "tuple" else (root.name,)
  if len(results) != len(instruction.shape):
    return read + _held(instruction.shape)
  written = zip(instruction.shape, results, strict=True)
  return read + sum(_held((leaf,)) * _written(program, called, name) for leaf, name in written)


def _share(part: hlo.Instruction, whole: hlo.Leaf) -> float:
  return min(1.0, math.prod(part.shape[0].dims) / max(1, math.prod(whole.dims)))


def _read(program: hlo.Program, computation: str, name: str) -> float:
  """Which share of a value inside a fusion is read: all of it, or what slices take."""
  instructions, total = program.computations[computation], 0.0
  own = instructions[name]
  if len(own.shape) != 1:
    return 1.0
  for user in instructions.values():
    for place, operand in enumerate(user.operands):
      if operand != name:
        continue
      if user.opcode in _PICKS and place == 0:
        total += _share(user, own.shape[0])
      elif user.opcode == "bitcast":
        total += _read(program, computation, user.name)
      elif user.opcode == "fusion":
        (called,) = hlo.called(user, "calls")
        total += _read(program, called, hlo.parameter(program, called, place))
      elif not (user.opcode in _PUTS and place == 0):
        total += 1.0
  return min(1.0, total)


def _written(program: hlo.Program, computation: str, name: str) -> float:
  """Which share of a fusion's result is written: all of it, or what is put into an array in place."""
  instructions = program.computations[computation]
  own = instructions[name]
  if own.opcode == "bitcast":
    return _written(program, computation, own.operands[0])
  if own.opcode in _PUTS:
    return _share(instructions[own.operands[_PUTS[own.opcode]]], own.shape[0])
  if own.opcode == "fusion" and len(own.shape) == 1:
    (called,) = hlo.called(own, "calls")
    return _written(program, called, hlo.root(program, called).name)
  return 1.0


def program_memory(compiled) -> dict[str, int]:
  """Bytes per device of a compiled program: `arguments`, `scratch`, `results` (those that do not take the place of
  arguments) and `program`.

  Args:
    compiled: a `jax.stages.Compiled`.
  """
  found = compiled.memory_analysis()
  return {
    "arguments": int(found.argument_size_in_bytes),
    "scratch": int(found.temp_size_in_bytes),
    "results": int(found.output_size_in_bytes - found.alias_size_in_bytes),
    "program": int(found.generated_code_size_in_bytes),
  }
