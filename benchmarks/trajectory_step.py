"""One outer gradient of trajectory matching: ours against a straightforward PyTorch double backward, in turn.

  python -m benchmarks.trajectory_step [--repeats=5] [--cases "width 32, 5 steps" ...]

Needs the extra `bench`. Same sizes, float32, the same number of threads (ours as that many CPU devices that share the
rows, as a run has them by default), the same operators where there is augmentation, and PyTorch with the fastest of its
usual switches. FLOPs are counted alike for
both: nine forward passes a step, the least of reverse-over-reverse. Memory is the peak resident memory above that
of a process that has imported the framework and added two numbers; ours contains the compiler's, unless `--cached` has
its program come from the compilation cache, as from the second run on.
"""

import os
import tempfile

from benchmarks import _networks, _reports, _torch, _workers

# name: image side, channels, width, depth, images, inner steps, augmentation
CASES = {
  "digits, 20 steps": (8, 1, 32, 2, 100, 20, False),
  "width 32, 5 steps": (32, 3, 32, 3, 100, 5, False),
  "width 32, 5 steps, DSA": (32, 3, 32, 3, 100, 5, True),
  "width 32, 20 steps": (32, 3, 32, 3, 100, 20, False),
  "width 32, 20 steps, DSA": (32, 3, 32, 3, 100, 20, True),
  "width 32, 80 steps": (32, 3, 32, 3, 100, 80, False),
  "width 128, 5 steps": (32, 3, 128, 3, 100, 5, False),
  "width 128, 5 steps, DSA": (32, 3, 128, 3, 100, 5, True),
}


def jax_worker(case: tuple, gradient: str, cache: str | None) -> None:
  """Our step: `trajectory_method`'s gradient without its optimisers."""
  import functools

  import jax
  import jax.numpy as jnp
  import numpy as np

  from benchmarks import _outer
  from jdistill import bilevel, ops
  from jdistill.training import parallel

  jax.config.update("jax_num_cpu_devices", int(os.environ["OMP_NUM_THREADS"]))
  if cache:
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()

  *numbers, augmented = case
  sizes = _outer.Sizes(*numbers)
  flat = _outer.flat_network(sizes)
  devices = parallel.suggest_data(sizes.images, len(jax.devices()))
  mesh = parallel.make_mesh(data=devices)
  theta = jax.ShapeDtypeStruct((flat.size,), jnp.float32)
  chunk = ops.suggest_chunk_size(flat.apply, theta, sizes.image, sizes.images // devices)
  unroll = parallel.spread_unroll(functools.partial(bilevel.unroll, gradient=gradient, chunk_size=chunk), mesh)
  gradients = _outer.gradients(sizes, unroll, *(_networks.jax_dsa() if augmented else ()))

  rng = np.random.default_rng(0)
  _, *rest = _outer.shapes(sizes)
  learned, start, target = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), rest)
  start = 0.05 * start
  arguments = (jax.random.key(0), (*learned[:2], np.float32(0.01)), start, start + 0.01 * target)
  compiled = parallel.spread_step(gradients, mesh).lower(*arguments).compile()
  arguments = parallel.replicate(arguments, mesh)
  _workers.serve(
    lambda: jax.block_until_ready(compiled(*arguments)),
    baseline,
    temp_bytes=compiled.memory_analysis().temp_size_in_bytes,
    chunk_size=chunk,
    devices=devices,
    version=jax.__version__,
  )


def torch_worker(case: tuple, switches: str) -> None:
  """The same step as one writes it in PyTorch: functional parameters and a graph through every inner gradient."""
  torch, layout, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  torch.manual_seed(0)
  side, channels, width, depth, images, steps, augmented = case
  parameters, apply = _networks.torch_convnet(side, channels, width, depth)
  parameters, apply = [layout(p) for p in parameters], compiled(apply)
  target = [p + 0.01 * torch.randn_like(p) for p in parameters]
  distance = sum(((p - t) ** 2).sum() for p, t in zip(parameters, target, strict=True))
  pictures = layout(torch.randn(images, channels, side, side)).requires_grad_()
  labels = torch.randn(images, _networks.CLASSES, requires_grad=True)
  lr = torch.tensor(0.01, requires_grad=True)

  def step():
    params = [p.clone().requires_grad_() for p in parameters]
    for n in range(steps):
      x = _networks.torch_dsa(pictures, n) if augmented else pictures
      loss = -(labels.softmax(1) * apply(params, x).log_softmax(1)).sum(1).mean()
      grads = torch.autograd.grad(loss, params, create_graph=True)
      params = [p - lr * g for p, g in zip(params, grads, strict=True)]
    value = sum(((p - t) ** 2).sum() for p, t in zip(params, target, strict=True)) / distance
    torch.autograd.grad(value, (pictures, labels, lr))

  _workers.serve(step, baseline, version=torch.__version__)


def measure(name: str, repeats: int, threads: int, gradient: str, cache: str | None) -> dict:
  """One case, both sides in turn."""
  case = CASES[name]
  arguments = ["-m", "benchmarks.trajectory_step", f"--case={name}", f"--gradient={gradient}"]
  if cache:  # a first process fills the cache
    arguments.append(f"--cache={cache}")
    first = _workers.Worker([*arguments, "--worker=jax"], threads)
    first.wait()
    first.stop()
  switches, tried = _torch.fastest([*arguments, "--worker=torch"], threads)
  sides = ["--worker=jax"], ["--worker=torch", f"--switches={switches}"]
  workers = [_workers.Worker([*arguments, *side], threads) for side in sides]
  _workers.interleave(workers, repeats)
  ours, theirs = (worker.stop() for worker in workers)
  flops = 9 * case[5] * _networks.forward_flops(*case[:5])
  return {
    "ours_seconds": workers[0].median,
    "torch_seconds": workers[1].median,
    "time_ratio": workers[0].median / workers[1].median,
    "all_ours_seconds": workers[0].seconds,
    "all_torch_seconds": workers[1].seconds,
    "ours_gflops": flops / workers[0].median / 1e9,
    "ours_bytes": ours["peak_bytes"],
    "torch_bytes": theirs["peak_bytes"],
    "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
    "ours_temp_bytes_per_device": ours["temp_bytes"],
    "chunk_size": ours["chunk_size"],
    "devices": ours["devices"],
    "torch_switches": switches,
    "torch_tried": tried,
    "versions": {"jax": ours["version"], "torch": theirs["version"]},
  }


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
  parser.add_argument("--gradient", default="mixed")
  parser.add_argument("--cached", action="store_true", help="ours starts from a filled compilation cache")
  parser.add_argument("--worker", choices=("jax", "torch"))
  parser.add_argument("--case")
  parser.add_argument("--cache")
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker == "jax":
    return jax_worker(CASES[arguments.case], arguments.gradient, arguments.cache)
  if arguments.worker == "torch":
    return torch_worker(CASES[arguments.case], arguments.switches)
  figures = {
    "machine": _reports.machine(arguments.threads),
    "repeats": arguments.repeats,
    "gradient": arguments.gradient,
  }
  peak = figures["matmul_peak_gflops"] = _reports.matmul_peak(arguments.threads) / 1e9
  figures |= {"cached": arguments.cached, "cases": {}}
  with tempfile.TemporaryDirectory() as cache:
    for name in arguments.cases:
      row = measure(name, arguments.repeats, arguments.threads, arguments.gradient, cache if arguments.cached else None)
      row["share_of_peak"] = row["ours_gflops"] / peak
      figures["cases"][name] = row
      print(f"{name}: {row['ours_seconds']:.3f} s against {row['torch_seconds']:.3f} s", flush=True)
  header = ["case", "ours s", "PyTorch s", "ratio", "GFLOP/s", "of peak", "ours MB", "PyTorch MB", "ratio", "switches"]
  rows = [
    [
      name, row["ours_seconds"], row["torch_seconds"], row["time_ratio"], row["ours_gflops"], row["share_of_peak"],
      row["ours_bytes"] / 1e6, row["torch_bytes"] / 1e6, row["memory_ratio"],
      row["torch_switches"],
    ]
    for name, row in figures["cases"].items()
  ]  # fmt: skip
  print(f"\nmatmul peak {peak:.0f} GFLOP/s, load {figures['machine']['load_at_start'][0]}")
  print(_reports.table(header, rows))
  _reports.write("trajectory_step_cached" if arguments.cached else "trajectory_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
