"""One step of DC, DM and DataDAM at width 128, ten images per class, CIFAR shapes: ours against PyTorch, in turn.

  python -m benchmarks.matching_step [--repeats=5] [--cases DM ...]
  python -m benchmarks.matching_step --kernels          Gram matrices of KIP and FRePo against the product of matrices

Needs the extra `bench`, but for `--kernels`. Ours is the step of the method as a run takes it: real images of every
class, the loss, its gradient in the synthetic images, and SGD with momentum. PyTorch does the same as one writes it
there, all classes together in one forward pass (class by class for the gradients of DC), without a graph for the real
images, with the fastest of its usual switches. Neither augments. Real images are 64 per class, as DataDAM's release
has; 256 as for DC and DM only lengthen both sides.
"""

import os
import time

from benchmarks import _networks, _reports, _torch, _workers

CASES = ("DC", "DM", "DataDAM")
REAL, IPC, SIDE, CHANNELS, WIDTH, DEPTH = 64, 10, 32, 3, 128, 3
POWER, RATE, MOMENTUM = 4.0, 0.1, 0.5
GRAM = (5_000, 500)  # rows of both sides of a kernel


def jax_worker(name: str) -> None:
  """The method's own step."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jdistill import catalog, models
  from jdistill.base import Batch
  from jdistill.synthetic import SyntheticSet

  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()
  network = models.build(
    "convnet", num_classes=_networks.CLASSES, image_shape=(SIDE, SIDE, CHANNELS), width=WIDTH, depth=DEPTH
  )
  rng = np.random.default_rng(0)
  labels = np.arange(_networks.CLASSES * IPC, dtype=np.int32) // IPC
  images = rng.normal(size=(len(labels), SIDE, SIDE, CHANNELS)).astype(np.float32)
  method = catalog.row(name.lower()).build()(
    network, SyntheticSet(images, labels, np.float32(0.01)), batch_real=REAL, image_lr=RATE, image_momentum=MOMENTUM
  )
  real = rng.normal(size=(_networks.CLASSES, REAL, SIDE, SIDE, CHANNELS)).astype(np.float32)
  own = np.broadcast_to(np.arange(_networks.CLASSES, dtype=np.int32)[:, None], real.shape[:2])
  batch = Batch(jnp.asarray(real), own, own, None)
  state = method.init(jax.random.key(0), batch)
  step = jax.jit(method.step)
  _workers.serve(
    lambda: jax.block_until_ready(step(jax.random.key(1), state, batch)[0].roles["images"].params),
    baseline,
    version=jax.__version__,
  )


def torch_worker(name: str, switches: str) -> None:
  """The same step in PyTorch: a new network, the loss, its gradient in the images, and SGD."""
  torch, layout, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  torch.manual_seed(0)
  synthetic = layout(torch.randn(_networks.CLASSES * IPC, CHANNELS, SIDE, SIDE)).requires_grad_()
  real = layout(torch.randn(_networks.CLASSES * REAL, CHANNELS, SIDE, SIDE))
  optimizer = torch.optim.SGD([synthetic], lr=RATE, momentum=MOMENTUM)
  loss = compiled({"DC": _dc, "DM": _dm, "DataDAM": _datadam}[name](torch))

  def step():
    parameters = [layout(p) for p in _networks.torch_convnet(SIDE, CHANNELS, WIDTH, DEPTH)[0]]
    optimizer.zero_grad()
    loss(parameters, real, synthetic).backward()
    optimizer.step()

  _workers.serve(step, baseline, version=torch.__version__)


def _maps(params, x):
  """The maps of every block after its activation, and what enters the head."""
  from torch.nn import functional as F

  found = []
  for layer in range(DEPTH):
    kernel, bias, scale, shift = params[4 * layer : 4 * layer + 4]
    x = F.relu(F.group_norm(F.conv2d(x, kernel, bias, padding=1), WIDTH, scale, shift))
    found.append(x)
    x = F.avg_pool2d(x, 2)
  return found, x.flatten(1)


def _mean(x):
  return x.reshape(_networks.CLASSES, -1, *x.shape[1:]).mean(1)


def _dm(torch):
  def loss(params, real, synthetic):
    with torch.no_grad():
      wanted = _mean(_maps(params, real)[1])
    return ((wanted - _mean(_maps(params, synthetic)[1])) ** 2).sum()

  return loss


def _datadam(torch):
  def attention(x):
    where = x.abs().pow(POWER).sum(1).flatten(1)
    return where / where.norm(dim=1, keepdim=True)

  def means(params, x):
    maps, last = _maps(params, x)
    return [_mean(attention(one)) for one in maps[:-1]], _mean(last)

  def loss(params, real, synthetic):
    with torch.no_grad():
      wanted, last = means(params, real)
    found, own = means(params, synthetic)
    value = sum(((a - b) ** 2).sum() for a, b in zip(wanted, found, strict=True))
    return value + 0.01 * ((last - own) ** 2).sum()

  return loss


def _dc(torch):
  from torch.nn import functional as F

  def gradients(params, x, label, graph):
    logits = F.linear(_maps(params, x)[1], params[-2], params[-1])
    value = F.cross_entropy(logits, torch.full((len(x),), label))
    return torch.autograd.grad(value, params, create_graph=graph)

  def loss(params, real, synthetic):
    params, total = [p.detach().requires_grad_() for p in params], 0.0
    for label in range(_networks.CLASSES):
      wanted = gradients(params, real[label * REAL : (label + 1) * REAL], label, False)
      found = gradients(params, synthetic[label * IPC : (label + 1) * IPC], label, True)
      for r, s in zip(wanted, found, strict=True):
        if r.ndim > 1:
          r, s = r.flatten(1), s.flatten(1)
          total = total + (1 - (r * s).sum(1) / (r.norm(dim=1) * s.norm(dim=1) + 1e-6)).sum()
    return total

  return loss


def measure(name: str, repeats: int, threads: int) -> dict:
  """One method, both sides in turn."""
  command = ["-m", "benchmarks.matching_step", f"--case={name}"]
  switches, tried = _torch.fastest([*command, "--worker=torch"], threads)
  sides = ["--worker=jax"], ["--worker=torch", f"--switches={switches}"]
  workers = [_workers.Worker([*command, *side], threads) for side in sides]
  _workers.interleave(workers, repeats)
  ours, theirs = (worker.stop() for worker in workers)
  return {
    "ours_seconds": workers[0].median,
    "torch_seconds": workers[1].median,
    "time_ratio": workers[0].median / workers[1].median,
    "all_ours_seconds": workers[0].seconds,
    "all_torch_seconds": workers[1].seconds,
    "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
    "torch_switches": switches,
    "torch_tried": tried,
    "versions": {"jax": ours["version"], "torch": theirs["version"]},
  }


def kernels(repeats: int) -> dict:
  """Seconds of a Gram matrix and of the product of matrices in it, in turn."""
  import jax
  import numpy as np

  from jdistill import ops

  found, rng = {}, np.random.default_rng(0)
  for name, width, kernel in (
    ("KIP, NTK of 3,072 pixels", SIDE * SIDE * CHANNELS, lambda x, z: ops.ntk_kernel(x, z, depth=2)),
    ("FRePo, 2,048 features", 2048, ops.linear_kernel),
  ):
    x, z = (jax.numpy.asarray(rng.normal(size=(n, width)).astype(np.float32)) for n in GRAM)
    sides = [jax.jit(kernel), jax.jit(lambda x, z: jax.numpy.matmul(x, z.T))]
    seconds: list[list[float]] = [[], []]
    for round_ in range(repeats + 1):
      for side, times in zip(sides, seconds, strict=True):
        begin = time.perf_counter()
        jax.block_until_ready(side(x, z))
        times += [time.perf_counter() - begin] if round_ else []
    ours, product = (sorted(times)[len(times) // 2] for times in seconds)
    found[name] = {"seconds": ours, "matmul_seconds": product, "ratio": ours / product}
  return found


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
  parser.add_argument("--kernels", action="store_true", help="Gram matrices alone, without PyTorch")
  parser.add_argument("--worker", choices=("jax", "torch"))
  parser.add_argument("--case")
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker == "jax":
    return jax_worker(arguments.case)
  if arguments.worker == "torch":
    return torch_worker(arguments.case, arguments.switches)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats}
  print(f"load {figures['machine']['load_at_start'][0]}")
  grams = figures["kernels"] = kernels(max(arguments.repeats, 20))
  rows = [[name, row["seconds"], row["matmul_seconds"], row["ratio"]] for name, row in grams.items()]
  print(_reports.table([f"{GRAM[0]:,} x {GRAM[1]}", "kernel s", "matmul s", "ratio"], rows))
  if arguments.kernels:
    return None
  figures["cases"] = {name: measure(name, arguments.repeats, arguments.threads) for name in arguments.cases}
  rows = [
    [name, *(row[key] for key in ("ours_seconds", "torch_seconds", "time_ratio", "memory_ratio", "torch_switches"))]
    for name, row in figures["cases"].items()
  ]
  print(_reports.table(["step", "ours s", "PyTorch s", "ratio", "memory", "switches"], rows))
  _reports.write("matching_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
