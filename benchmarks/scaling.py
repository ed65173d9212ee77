"""The outer gradient spread over 1, 2, 4 and 8 devices: work, scratch and bytes sent by each, from compiled programs.

  python -m benchmarks.scaling

The devices are imitated on the CPU, so there are no seconds here: what is counted is what the program would do on each.
"""

from benchmarks import _reports

DEVICES = (1, 2, 4, 8)
SIZES = (16, 3, 32, 2, 80, 10)  # side, channels, width, depth, images, inner steps


def compiled_step(devices: int):
  """The compiled program of one outer gradient on some devices, and the number of parameters."""
  from benchmarks import _outer
  from jdistill import bilevel
  from jdistill.training import parallel

  sizes, mesh = _outer.Sizes(*SIZES), parallel.make_mesh(data=devices)
  step = _outer.gradients(sizes, parallel.spread_unroll(bilevel.unroll, mesh))
  return parallel.spread_step(step, mesh).lower(*_outer.shapes(sizes)).compile(), _outer.flat_network(sizes).size


def main() -> None:
  import jax

  from jdistill.reporting.cost import cost

  arguments = _reports.parser(__doc__).parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", max(DEVICES))
  figures = {"machine": _reports.machine(arguments.threads), "sizes": SIZES, "devices": {}}
  for devices in DEVICES:
    compiled, parameters = compiled_step(devices)
    found = cost(compiled.as_text(), devices)
    figures["devices"][devices] = {
      "flops": found.flops,
      "scratch_bytes": compiled.memory_analysis().temp_size_in_bytes,
      "sent_bytes": found.sent,
      "exchanges": {f"{e.kind} of {e.size} bytes": times for e, times in found.collectives.items()},
    }
    figures["parameters"] = parameters
    print(f"{devices} devices", flush=True)
  header = ["devices", "GFLOP each", "scratch MB each", "MB sent each", "exchanges of parameters"]
  rows = [
    [
      devices,
      row["flops"] / 1e9,
      row["scratch_bytes"] / 1e6,
      row["sent_bytes"] / 1e6,
      sum(times for name, times in row["exchanges"].items() if f" {4 * parameters} " in name),
    ]
    for devices, row in figures["devices"].items()
  ]
  side, channels, *_, images, steps = SIZES
  print(f"\nConvNet of {parameters:,} parameters, {images} images of {side}x{side}x{channels}, {steps} inner steps")
  print(_reports.table(header, rows))
  _reports.write("scaling", figures, arguments.out)


if __name__ == "__main__":
  main()
