"""The outer gradient spread over 1, 2, 4 and 8 devices: work, scratch and bytes sent by each, from compiled programs.

  python -m benchmarks.scaling

The devices are imitated on the CPU, so there are no seconds here: what is counted is what the program would do on each.
"""

from benchmarks import _networks, _reports

DEVICES = (1, 2, 4, 8)
SIDE, CHANNELS, WIDTH, DEPTH, IMAGES, STEPS = 16, 3, 32, 2, 80, 10


def compiled_text(devices: int):
  """The compiled program of one outer gradient on some devices."""
  import jax
  import jax.numpy as jnp

  from jdistill import bilevel, models
  from jdistill.augment import identity
  from jdistill.losses import trajectory_matching
  from jdistill.methods.dataset.trajectory import synthetic_loss
  from jdistill.training import parallel

  image = (SIDE, SIDE, CHANNELS)
  network = models.build("convnet", num_classes=_networks.CLASSES, image_shape=image, width=WIDTH, depth=DEPTH)
  flat = models.flatten(network)
  loss = synthetic_loss(flat.apply, identity(), image)
  mesh = parallel.make_mesh(data=devices)
  unroll = parallel.spread_unroll(bilevel.unroll, mesh)

  def gradients(learned, start, target, indices, weight):
    def outer(learned):
      shared, lr = learned
      end = unroll(loss, start, shared, {"weight": weight, "record": ()}, lr, indices=indices)
      return trajectory_matching(end, target, start)

    return jax.grad(outer)(learned)

  def shape(*sizes, kind=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, kind)

  learned = ({"images": shape(IMAGES, SIDE * SIDE * CHANNELS), "labels": shape(IMAGES, _networks.CLASSES)}, shape())
  rows = (STEPS, IMAGES)
  arguments = (learned, shape(flat.size), shape(flat.size), shape(*rows, kind=jnp.int32), shape(*rows))
  return parallel.spread_step(gradients, mesh).lower(*arguments).compile(), flat.size


def main() -> None:
  import jax

  from jdistill.reporting.cost import cost

  arguments = _reports.parser(__doc__).parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", max(DEVICES))
  figures = {"machine": _reports.machine(arguments.threads), "inner_steps": STEPS, "devices": {}}
  for devices in DEVICES:
    compiled, parameters = compiled_text(devices)
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
  print(f"\nConvNet of {parameters:,} parameters, {IMAGES} images of {SIDE}x{SIDE}x{CHANNELS}, {STEPS} inner steps")
  print(_reports.table(header, rows))
  _reports.write("scaling", figures, arguments.out)


if __name__ == "__main__":
  main()
