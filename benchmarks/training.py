"""Training ordinary networks, for evaluation and for experts: ours against PyTorch loops, in turn.

  python -m benchmarks.training --what=evaluation
  python -m benchmarks.training --what=experts

Needs the extra `bench`. Two networks, ConvNets of depth 3 on 32x32x3 images, float32, two threads. Ours are
trained at once, one on each of two CPU devices; PyTorch's one after the other with two threads each, as its loops do.

  evaluation   100 images, 10 epochs of one batch of 100 with DSA, SGD with momentum and weight decay
  experts      2,560 images, one epoch of batches of 128 with DSA, plain SGD
"""

import os

from benchmarks import _networks, _reports, _workers

NETWORKS, SIDE, CHANNELS, DEPTH = 2, 32, 3, 3
CASES = {"evaluation": (100, 100, 10), "experts": (2560, 128, 1)}  # images, batch, epochs
WIDTHS = (32, 128)


def jax_worker(what: str, width: int) -> None:
  """Our trainers over a pool of devices."""
  import jax
  import numpy as np

  from jdistill import models
  from jdistill.augment import dsa
  from jdistill.evaluation import Protocol, examples_of, train_seeds
  from jdistill.training import parallel

  jax.config.update("jax_num_cpu_devices", NETWORKS)
  images, batch, epochs = CASES[what]
  image = (SIDE, SIDE, CHANNELS)
  network = models.build("convnet", num_classes=_networks.CLASSES, image_shape=image, width=width, depth=DEPTH)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(images, *image)).astype(np.float32)
  examples = examples_of(x, rng.integers(0, _networks.CLASSES, images))
  # epochs 0..epochs inclusive; the experts' optimiser is plain SGD
  rules = {"momentum": 0.0, "weight_decay": 0.0} if what == "experts" else {}
  protocol, mesh = Protocol(epochs - 1, batch, augment=dsa(), **rules), parallel.make_mesh(pool=NETWORKS)
  options = {"key": jax.random.key(0), "seeds": NETWORKS, "mesh": mesh}
  step = lambda: jax.block_until_ready(train_seeds(network, protocol, examples, 0.01, **options))  # noqa: E731
  _workers.serve(step, 0, version=jax.__version__)


def torch_worker(what: str, width: int) -> None:
  """The same as loops."""
  import torch
  from torch.nn import functional as F

  torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
  torch.manual_seed(0)
  images, batch, epochs = CASES[what]
  x, y = torch.randn(images, CHANNELS, SIDE, SIDE), torch.randint(0, _networks.CLASSES, (images,))
  momentum, decay = (0.9, 5e-4) if what == "evaluation" else (0.0, 0.0)

  def step():
    for _ in range(NETWORKS):
      parameters, apply = _networks.torch_convnet(SIDE, CHANNELS, width, DEPTH)
      for p in parameters:
        p.requires_grad_()
      optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=momentum, weight_decay=decay)
      count = 0
      for _ in range(epochs):
        order = torch.randperm(images)
        for begin in range(0, images, batch):
          rows = order[begin : begin + batch]
          optimizer.zero_grad()
          F.cross_entropy(apply(parameters, _networks.torch_dsa(x[rows], count)), y[rows]).backward()
          optimizer.step()
          count += 1

  _workers.serve(step, 0, version=torch.__version__)


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--what", choices=list(CASES), default="evaluation")
  parser.add_argument("--worker", choices=("jax", "torch"))
  parser.add_argument("--width", type=int)
  arguments = parser.parse_args()
  if arguments.worker:
    return (jax_worker if arguments.worker == "jax" else torch_worker)(arguments.what, arguments.width)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "widths": {}}
  for width in WIDTHS:
    command = ["-m", "benchmarks.training", f"--what={arguments.what}", f"--width={width}"]
    workers = [_workers.Worker([*command, f"--worker={kind}"], arguments.threads) for kind in ("jax", "torch")]
    _workers.interleave(workers, arguments.repeats)
    versions = dict(zip(("jax", "torch"), (worker.stop()["version"] for worker in workers), strict=True))
    figures["widths"][width] = {
      "ours_seconds": workers[0].median,
      "torch_seconds": workers[1].median,
      "time_ratio": workers[0].median / workers[1].median,
      "versions": versions,
    }
  print(f"{arguments.what}: {NETWORKS} networks, load {figures['machine']['load_at_start'][0]}")
  rows = [[f"width {w}", r["ours_seconds"], r["torch_seconds"], r["time_ratio"]] for w, r in figures["widths"].items()]
  print(_reports.table(["case", "ours s", "PyTorch s", "ratio"], rows))
  _reports.write(arguments.what, figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
