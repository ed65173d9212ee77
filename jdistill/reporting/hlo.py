"""Compiled programs read as text (`compiled.as_text()`): their computations, shapes, and how often loops run."""

import math
import re
from typing import NamedTuple

_BYTES = {"pred": 1, "token": 0, "opaque": 0}
_LEAF = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")


class Leaf(NamedTuple):
  """One array of a shape.

  Attributes:
    dims: its sizes.
    size: bytes of its elements.
    held: bytes in memory, with what the tiles of its layout add.
    near: whether it lies in the memory on the chip, which costs no bandwidth of the large one.
  """

  dims: tuple[int, ...]
  size: int
  held: int
  near: bool


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: tuple[Leaf, ...]
  opcode: str
  operands: tuple[str, ...]
  rest: str
  root: bool


class Program(NamedTuple):
  """All computations by name, each a dictionary of instructions in order, and the name of the first one to run."""

  computations: dict[str, dict[str, Instruction]]
  entry: str


def _leaf(dtype: str, dims: str, layout: str | None) -> Leaf:
  sizes = tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size)
  bits = re.search(r"\d+", dtype)
  item = _BYTES.get(dtype, int(bits.group()) / 8 if bits else 4)
  order, _, tiling = (layout or "").partition(":")
  padded = [sizes[int(axis)] for axis in order.split(",") if axis] if sizes else []  # minor to major
  tile = re.search(r"T\(([\d,]+)\)", tiling)
  for axis, step in enumerate(reversed([int(s) for s in tile.group(1).split(",")] if tile and padded else [])):
    if axis < len(padded):
      padded[axis] = -(-padded[axis] // step) * step
  count = math.prod(sizes)
  return Leaf(sizes, int(count * item), int((math.prod(padded) if padded else count) * item), "S(1)" in tiling)


def _end(text: str, depth: int) -> int:
  """Where the last of so many open brackets is closed; the length where it is not."""
  for place, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return place
  return len(text)


def _instruction(match: re.Match) -> Instruction:
  text = match.group(3)
  end = _end(text, 0) + 1 if text.startswith("(") else text.index(" ")
  shape, call = text[:end], text[end + 1 :]
  opcode, _, rest = call.partition("(")
  end = _end(rest, 1)
  inside, rest = rest[:end], rest[end + 1 :]
  operands = tuple(_NAME.findall(inside))
  leaves = tuple(_leaf(*found) for found in _LEAF.findall(shape))
  if opcode in ("constant", "parameter"):
    rest = f"{inside},{rest}"
  return Instruction(match.group(2), leaves, opcode, operands, rest, bool(match.group(1)))


def parse(text: str) -> Program:
  """Reads the text of a compiled program (`compiled.as_text()`).

  Raises:
    ValueError: no entry computation.
  """
  computations: dict[str, dict[str, Instruction]] = {}
  entry, current = None, None
  for line in text.splitlines():
    if head := _HEAD.match(line):
      current = computations.setdefault(head.group(2), {})
      entry = head.group(2) if head.group(1) else entry
    elif line == "}":
      current = None
    elif current is not None and (found := _LINE.match(line)):
      instruction = _instruction(found)
      current[instruction.name] = instruction
  if entry is None:
    raise ValueError("hlo: no ENTRY computation in the text")
  return Program(computations, entry)


def called(instruction: Instruction, *keys: str) -> list[str]:
  """The computations that an instruction names under some keys, such as `body=`."""
  out = []
  for key in keys:
    if found := re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|%([\w.\-]+))", instruction.rest):
      out += _NAME.findall(found.group(1)) if found.group(1) is not None else [found.group(2)]
  return out


def trip_count(program: Program, loop: Instruction) -> int:
  """How often the body of a `while` runs; 1 where nothing tells."""
  if found := re.search(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)', loop.rest):
    return int(found.group(1))
  (condition,) = called(loop, "condition")
  limits = [
    int(number.group(1))
    for instruction in program.computations[condition].values()
    if instruction.opcode == "constant" and (number := re.match(r"(\d+),", instruction.rest))
  ]
  return max(limits, default=1)


def root(program: Program, computation: str) -> Instruction:
  """The instruction whose value a computation gives."""
  return next(i for i in program.computations[computation].values() if i.root)


def parameter(program: Program, computation: str, place: int) -> str:
  """The name of a computation's parameter by its place."""
  instructions = program.computations[computation].values()
  return next(i.name for i in instructions if i.opcode == "parameter" and i.rest.startswith(f"{place},"))
