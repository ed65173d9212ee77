"""One outer gradient of trajectory matching: ours against a straightforward PyTorch double backward, in turn.

  python -m benchmarks.trajectory_step [--repeats=5] [--out=benchmarks/results/trajectory_step.json]

Needs the extra `bench`. Same sizes, float32, two threads, the same float count for both: nine forward passes, the least
that reverse-over-reverse does. Memory is the peak resident memory above that of the imported framework.
"""

import argparse
import json
import os
import platform
from pathlib import Path

from benchmarks import _workers

# name: image side, channels, width, depth, images, inner steps
CASES = {
  "width 32, 5 steps": (32, 3, 32, 3, 100, 5),
  "width 32, 20 steps": (32, 3, 32, 3, 100, 20),
  "width 32, 80 steps": (32, 3, 32, 3, 100, 80),
  "width 128, 5 steps": (32, 3, 128, 3, 100, 5),
  "digits, 20 steps": (8, 1, 32, 2, 100, 20),
}
CLASSES = 10


def forward_flops(side: int, channels: int, width: int, depth: int, images: int) -> float:
  """Multiplications and additions of the convolutions and the head for one forward pass."""
  total = 0.0
  for _ in range(depth):
    total += 2 * side * side * 9 * channels * width
    side, channels = side // 2, width
  return images * (total + 2 * side * side * width * CLASSES)


def jax_worker(case: tuple, gradient: str) -> None:
  """Our step: `trajectory_method` without its optimisers."""
  import jax
  import jax.numpy as jnp

  baseline = _workers.peak_rss()
  import functools

  from jdistill import bilevel, models
  from jdistill.augment import identity
  from jdistill.losses import trajectory_matching
  from jdistill.methods.dataset.trajectory import synthetic_loss

  side, channels, width, depth, images, steps = case
  network = models.build("convnet", num_classes=CLASSES, image_shape=(side, side, channels), width=width, depth=depth)
  flat = models.flatten(network)
  loss = synthetic_loss(flat.apply, identity())
  unroll = functools.partial(bilevel.unroll, gradient=gradient)
  key = jax.random.key(0)
  start = flat.ravel(network.init(key).params)
  target = start + 0.01 * jax.random.normal(key, start.shape)
  learned = (
    jax.random.normal(key, (images, side, side, channels)),
    jax.random.normal(key, (images, CLASSES)),
    jnp.float32(0.01),
  )
  indices = jnp.tile(jnp.arange(images, dtype=jnp.int32)[None], (steps, 1))
  batches = {"weight": jnp.full((steps, images), 1 / images), "record": ()}

  @jax.jit
  def gradients(learned, start, target):
    def outer(learned):
      pictures, labels, lr = learned
      end = unroll(loss, start, {"images": pictures, "labels": labels}, batches, lr, indices=indices)
      return trajectory_matching(end, target, start)

    return jax.value_and_grad(outer)(learned)

  compiled = gradients.lower(learned, start, target).compile()
  _workers.serve(
    lambda: jax.block_until_ready(compiled(learned, start, target)),
    baseline,
    temp_bytes=compiled.memory_analysis().temp_size_in_bytes,
    version=jax.__version__,
  )


def torch_worker(case: tuple) -> None:
  """The same step as one writes it in PyTorch: functional parameters and a graph through every inner gradient."""
  import torch
  from torch.nn import functional as F

  baseline = _workers.peak_rss()
  torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
  torch.manual_seed(0)
  side, channels, width, depth, images, steps = case
  parameters, size, entering = [], side, channels
  for _ in range(depth):
    parameters += [0.05 * torch.randn(width, entering, 3, 3), torch.zeros(width), torch.ones(width), torch.zeros(width)]
    size, entering = size // 2, width
  parameters += [0.05 * torch.randn(CLASSES, width * size * size), torch.zeros(CLASSES)]
  target = [p + 0.01 * torch.randn_like(p) for p in parameters]
  distance = sum(((p - t) ** 2).sum() for p, t in zip(parameters, target, strict=True))
  pictures = torch.randn(images, channels, side, side, requires_grad=True)
  labels = torch.randn(images, CLASSES, requires_grad=True)
  lr = torch.tensor(0.01, requires_grad=True)

  def apply(params, x):
    for layer in range(depth):
      kernel, bias, scale, shift = params[4 * layer : 4 * layer + 4]
      x = F.group_norm(F.conv2d(x, kernel, bias, padding=1), width, scale, shift)
      x = F.avg_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params[-2], params[-1])

  def step():
    params = [p.clone().requires_grad_() for p in parameters]
    start = params
    for _ in range(steps):
      loss = -(labels.softmax(1) * apply(params, pictures).log_softmax(1)).sum(1).mean()
      grads = torch.autograd.grad(loss, params, create_graph=True)
      params = [p - lr * g for p, g in zip(params, grads, strict=True)]
    del start
    value = sum(((p - t) ** 2).sum() for p, t in zip(params, target, strict=True)) / distance
    torch.autograd.grad(value, (pictures, labels, lr))

  _workers.serve(step, baseline, version=torch.__version__)


def matmul_peak(threads: int) -> float:
  """FLOP/s of a 1024 x 1024 float32 product, the best of a few."""
  worker = _workers.Worker(["-m", "benchmarks.trajectory_step", "--worker=matmul"], threads)
  worker.wait()
  for _ in range(12):
    worker.step()
  worker.stop()
  return 2 * 1024**3 * 10 / min(worker.seconds)


def matmul_worker() -> None:
  import jax

  x = jax.random.normal(jax.random.key(0), (1024, 1024))
  product = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: (x @ y) * 0.03, x))
  jax.block_until_ready(product(x))
  _workers.serve(lambda: jax.block_until_ready(product(x)), 0)


def run(names: list[str], repeats: int, threads: int, gradient: str) -> dict:
  """Measures the cases; rows by name."""
  out = {
    "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": threads, "load": os.getloadavg()},
    "repeats": repeats,
    "gradient": gradient,
    "matmul_peak_gflops": matmul_peak(threads) / 1e9,
    "cases": {},
  }
  print(f"matmul peak {out['matmul_peak_gflops']:.0f} GFLOP/s, load {out['machine']['load'][0]:.1f}")
  header = f"{'case':22s} {'ours s':>8s} {'torch s':>8s} {'ratio':>6s} {'GFLOP/s':>8s} {'of peak':>8s}"
  print(header + f" {'ours MB':>8s} {'torch MB':>9s} {'ratio':>6s}")
  for name in names:
    case = CASES[name]
    workers = [
      _workers.Worker(
        ["-m", "benchmarks.trajectory_step", f"--worker={kind}", f"--case={name}", f"--gradient={gradient}"], threads
      )
      for kind in ("jax", "torch")
    ]
    _workers.interleave(workers, repeats)
    ours, theirs = (worker.stop() for worker in workers)
    flops = 9 * case[-1] * forward_flops(*case[:-1])
    row = {
      "ours_seconds": workers[0].median,
      "torch_seconds": workers[1].median,
      "time_ratio": workers[0].median / workers[1].median,
      "ours_gflops": flops / workers[0].median / 1e9,
      "share_of_peak": flops / workers[0].median / 1e9 / out["matmul_peak_gflops"],
      "ours_bytes": ours["peak_bytes"],
      "torch_bytes": theirs["peak_bytes"],
      "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
      "ours_temp_bytes": ours["temp_bytes"],
      "versions": {"jax": ours["version"], "torch": theirs["version"]},
    }
    out["cases"][name] = row
    print(
      f"{name:22s} {row['ours_seconds']:8.3f} {row['torch_seconds']:8.3f} {row['time_ratio']:6.2f} "
      f"{row['ours_gflops']:8.1f} {100 * row['share_of_peak']:7.0f}% {row['ours_bytes'] / 1e6:8.0f} "
      f"{row['torch_bytes'] / 1e6:9.0f} {row['memory_ratio']:6.2f}",
      flush=True,
    )
  return out


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--gradient", default="mixed")
  parser.add_argument("--out", type=Path)
  parser.add_argument("--worker", choices=("jax", "torch", "matmul"), help=argparse.SUPPRESS)
  parser.add_argument("--case", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker == "jax":
    return jax_worker(CASES[arguments.case], arguments.gradient)
  if arguments.worker == "torch":
    return torch_worker(CASES[arguments.case])
  if arguments.worker == "matmul":
    return matmul_worker()
  result = run(arguments.cases, arguments.repeats, arguments.threads, arguments.gradient)
  if arguments.out:
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  main()
