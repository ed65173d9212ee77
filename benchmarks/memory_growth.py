"""Scratch memory of the outer gradient by number of inner steps, for each gradient route, from compiled programs.

  python -m benchmarks.memory_growth

The last column is what an inner step more costs, in parameter vectors: the slope between the two longest unrolls.
"""

import functools

from benchmarks import _reports

STEPS = (4, 16, 64)
SIDE, CHANNELS, WIDTH, DEPTH, IMAGES = 16, 3, 32, 2, 40


def scratch(route: str, steps: int, chunk_size: int | None) -> tuple[int, int]:
  """Bytes of scratch of one compiled outer gradient, and the number of parameters."""
  import jax

  from benchmarks import _outer
  from jdistill import bilevel

  sizes = _outer.Sizes(SIDE, CHANNELS, WIDTH, DEPTH, IMAGES, steps)
  options = {"gradient": route, "chunk_size": chunk_size} | ({"window": steps // 2} if route == "truncated" else {})
  step = _outer.gradients(sizes, functools.partial(bilevel.unroll, **options))
  compiled = jax.jit(step).lower(*_outer.shapes(sizes)).compile()
  return compiled.memory_analysis().temp_size_in_bytes, _outer.flat_network(sizes).size


def main() -> None:
  import jax

  from jdistill import bilevel

  arguments = _reports.parser(__doc__).parse_args()
  jax.config.update("jax_platforms", "cpu")
  figures = {"machine": _reports.machine(arguments.threads), "steps": STEPS, "routes": {}}
  for route, chunk_size in [*((route, None) for route in bilevel.ROUTES), ("mixed", 10)]:
    name = route if chunk_size is None else f"{route}, chunks of {chunk_size}"
    found = [scratch(route, steps, chunk_size) for steps in STEPS]
    parameters = found[0][1]
    slope = (found[-1][0] - found[-2][0]) / (STEPS[-1] - STEPS[-2]) / (4 * parameters)
    figures["routes"][name] = {"bytes": [size for size, _ in found], "vectors_per_step": slope}
    figures["parameters"] = parameters
    print(name, flush=True)
  header = ["route", *(f"{steps} steps, MB" for steps in STEPS), "vectors a step"]
  rows = [[n, *(size / 1e6 for size in row["bytes"]), row["vectors_per_step"]] for n, row in figures["routes"].items()]
  print(f"\nConvNet of {parameters:,} parameters, {IMAGES} images of {SIDE}x{SIDE}x{CHANNELS}")
  print(_reports.table(header, rows))
  _reports.write("memory_growth", figures, arguments.out)


if __name__ == "__main__":
  main()
