"""Scratch memory of the outer gradient by number of inner steps, for each gradient route, from compiled programs.

  python -m benchmarks.memory_growth

The last column is what an inner step more costs, in parameter vectors: the slope between the two longest unrolls.
"""

from benchmarks import _networks, _reports

STEPS = (4, 16, 64)
SIDE, CHANNELS, WIDTH, DEPTH, IMAGES = 16, 3, 32, 2, 40


def scratch(route: str, steps: int, chunk_size: int | None) -> tuple[int, int]:
  """Bytes of scratch of one compiled outer gradient, and the number of parameters."""
  import jax
  import jax.numpy as jnp

  from jdistill import bilevel, models
  from jdistill.augment import identity
  from jdistill.losses import trajectory_matching
  from jdistill.methods.dataset.trajectory import synthetic_loss

  image = (SIDE, SIDE, CHANNELS)
  network = models.build("convnet", num_classes=_networks.CLASSES, image_shape=image, width=WIDTH, depth=DEPTH)
  flat = models.flatten(network)
  loss = synthetic_loss(flat.apply, identity(), image)
  options = {"gradient": route, "chunk_size": chunk_size} | ({"window": steps // 2} if route == "truncated" else {})

  def gradients(learned, start, target, indices, weight):
    def outer(learned):
      shared, lr = learned
      batches = {"weight": weight, "record": ()}
      end = bilevel.unroll(loss, start, shared, batches, lr, indices=indices, **options)
      return trajectory_matching(end, target, start)

    return jax.grad(outer)(learned)

  def shape(*sizes, kind=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, kind)

  learned = ({"images": shape(IMAGES, SIDE * SIDE * CHANNELS), "labels": shape(IMAGES, _networks.CLASSES)}, shape())
  rows = (steps, IMAGES)
  arguments = (learned, shape(flat.size), shape(flat.size), shape(*rows, kind=jnp.int32), shape(*rows))
  return jax.jit(gradients).lower(*arguments).compile().memory_analysis().temp_size_in_bytes, flat.size


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
