"""Training ordinary networks, for evaluation and for experts: ours against PyTorch loops, in turn.

  python -m benchmarks.training --what=evaluation
  python -m benchmarks.training --what=experts

Needs the extra `bench`. Two networks, ConvNets of depth 3 on 32x32x3 images, float32, two threads. Ours are
trained at once, one on each of two CPU devices; PyTorch's one after the other with two threads each, as its loops do,
and with the fastest of its usual switches.

  evaluation   100 images, 10 epochs of one batch of 100 with DSA, SGD with momentum and weight decay
  experts      2,560 images, one epoch of batches of 128 with DSA, plain SGD
"""

import os

from benchmarks import _networks, _reports, _torch, _workers

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


def torch_worker(what: str, width: int, switches: str) -> None:
  """The same as loops."""
  from torch.nn import functional as F

  torch, layout, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  torch.manual_seed(0)
  images, batch, epochs = CASES[what]
  x, y = layout(torch.randn(images, CHANNELS, SIDE, SIDE)), torch.randint(0, _networks.CLASSES, (images,))
  momentum, decay = (0.9, 5e-4) if what == "evaluation" else (0.0, 0.0)

  apply = compiled(_networks.torch_convnet(SIDE, CHANNELS, width, DEPTH)[1])

  def step():
    for _ in range(NETWORKS):
      parameters, _ = _networks.torch_convnet(SIDE, CHANNELS, width, DEPTH)
      parameters = [layout(p).requires_grad_() for p in parameters]
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
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker:
    if arguments.worker == "jax":
      return jax_worker(arguments.what, arguments.width)
    return torch_worker(arguments.what, arguments.width, arguments.switches)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "widths": {}}
  for width in WIDTHS:
    command = ["-m", "benchmarks.training", f"--what={arguments.what}", f"--width={width}"]
    switches, tried = _torch.fastest([*command, "--worker=torch"], arguments.threads)
    sides = ["--worker=jax"], ["--worker=torch", f"--switches={switches}"]
    workers = [_workers.Worker([*command, *side], arguments.threads) for side in sides]
    _workers.interleave(workers, arguments.repeats)
    versions = dict(zip(("jax", "torch"), (worker.stop()["version"] for worker in workers), strict=True))
    figures["widths"][width] = {
      "ours_seconds": workers[0].median,
      "torch_seconds": workers[1].median,
      "time_ratio": workers[0].median / workers[1].median,
      "torch_switches": switches,
      "torch_tried": tried,
      "versions": versions,
    }
  print(f"{arguments.what}: {NETWORKS} networks, load {figures['machine']['load_at_start'][0]}")
  keys = ("ours_seconds", "torch_seconds", "time_ratio", "torch_switches")
  rows = [[f"width {w}", *(row[key] for key in keys)] for w, row in figures["widths"].items()]
  print(_reports.table(["case", "ours s", "PyTorch s", "ratio", "PyTorch's switches"], rows))
  _reports.write(arguments.what, figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
