"""A step of SRe2L's recovery of images: ours against PyTorch, in turn.

  python -m benchmarks.recover_step [--repeats=5]

Needs the extra `bench`. One update of a block of 100 images of 64x64x3, Tiny-ImageNet's shape, through a ResNet-18
with a 3x3 stem and without max pooling: batch norm in evaluation mode, cross entropy of 200 classes plus `r_bn` times
the distances of the moments of what enters each of the 20 batch norms from the running ones (the first counts ten
times), gradient in the images alone, Adam, clipping to the pixel range. Neither side augments. Ours is the method
`sre2l` as the loop of a run compiles it. PyTorch's moments are taken by forward hooks as in the authors' release, but
by one call of `var_mean` in place of a copy and two passes; weights ask for no gradient. It has the fastest of its
usual switches.

Before anything is timed, one step of both sides from the same images must give the same losses and, but for rounding,
the same gradient.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _reports, _students, _torch, _workers

IMAGES, SIDE, CHANNELS, CLASSES = 100, 64, 3, 200
BLOCKS, WIDTH = (2, 2, 2, 2), 64
R_BN, FIRST, RATE, B1, B2, ITERATIONS = 1.0, 10.0, 0.1, 0.5, 0.9, 4000
LOW, HIGH = -2.0, 2.5
# Sums are taken in another order, so a few of the 240 million ReLUs whose input is next to zero pass on one side alone:
# that changes losses by nothing and the gradient by some 1e-3 of its norm.
AGREEMENT = {"loss": 1e-5, "gradient": 1e-2}


def images() -> tuple[np.ndarray, np.ndarray]:
  """Where recovery starts, noise, and one label after the other."""
  x = np.random.default_rng(0).normal(size=(IMAGES, SIDE, SIDE, CHANNELS)).astype(np.float32)
  return np.clip(x, LOW, HIGH), np.arange(IMAGES, dtype=np.int32)


def _teacher(network):
  """A network that was not trained, with the running statistics of its own activations of other images."""
  import jax

  from jdistill.base import Variables

  coarse = np.random.default_rng(1).normal(size=(16, SIDE // 8, SIDE // 8, CHANNELS)).astype(np.float32)
  params = network.init(jax.random.key(1)).params
  moments = jax.jit(lambda x: network.apply(params, x, train=True).norm_inputs)(coarse.repeat(8, 1).repeat(8, 2))
  return Variables(params, {layer: {"mean": mean, "var": var} for layer, (mean, var) in moments.items()})


def jax_worker(scratch: Path) -> None:
  """The method's own step."""
  import jax
  import jax.numpy as jnp

  from jdistill import catalog, models
  from jdistill.synthetic import SyntheticSet
  from jdistill.training import parallel
  from jdistill.training.programs import Plan, build
  from jdistill.training.stream import row_alone

  parallel.use_cores()
  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()
  network = models.build("resnet18_bn", num_classes=CLASSES, image_shape=(SIDE, SIDE, CHANNELS), width=WIDTH)
  teacher, (x, y) = _teacher(network), images()
  bounds = tuple(np.full(CHANNELS, bound, np.float32) for bound in (LOW, HIGH))
  options = {"iterations": ITERATIONS, "block_size": IMAGES, "image_lr": RATE, "b1": B1, "b2": B2, "r_bn": R_BN}
  method = catalog.row("sre2l").build()(
    network.apply, SyntheticSet(x, y, np.float32(0.01)), bounds, jitter=0, first_layer_multiplier=FIRST, **options
  )
  programs = build(method, row_alone, Plan())
  teacher, key = jax.device_put((teacher, jax.random.key(0)))
  state, alive = programs.init(key, (), teacher)
  rows, done = jax.tree.map(lambda leaf: leaf[None], teacher), 0

  def step():
    nonlocal state, alive, done
    state, metrics, alive = programs.call(key, state, alive, (), rows, np.int32(done), np.int32(1))
    jax.block_until_ready(state)
    done += 1
    return metrics

  metrics = step()
  found = {f"loss/{name}": np.asarray(metrics[f"recover/{name}"][0]) for name in ("cross_entropy", "bn")}
  found["gradient/images"] = np.asarray(state.moments[0]) / (1 - B1)
  found |= {f"teacher/{name}": value for name, value in _students.to_torch(teacher).items()}
  np.savez(scratch / "ours.npz", **found)
  _workers.serve(step, baseline, version=jax.__version__)


def torch_worker(scratch: Path, switches: str) -> None:
  """The same as one writes it in PyTorch."""
  torch, layout, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  from torch.nn import functional as F

  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  network = _students.torch_residual(BLOCKS, WIDTH, CLASSES)
  start = {name: torch.tensor(value) for name, value in _students.load(scratch / "ours.npz", "teacher").items()}
  missing, unexpected = network.load_state_dict(start, strict=False)
  if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
    raise SystemExit(f"recover_step: the teacher differs: {missing} {unexpected}")
  network = layout(network.eval().requires_grad_(False))
  distances = []

  def hook(module, entering, _):
    variance, mean = torch.var_mean(entering[0], (0, 2, 3), unbiased=False)
    distances.append((module.running_var - variance).norm() + (module.running_mean - mean).norm())

  for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      module.register_forward_hook(hook)
  x, y = images()
  x, y = layout(torch.tensor(x.transpose(0, 3, 1, 2))).requires_grad_(), torch.tensor(y).long()
  optimizer = torch.optim.Adam([x], lr=RATE, betas=(B1, B2), eps=1e-8)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)

  @compiled
  def losses(x):
    distances.clear()
    cross_entropy = F.cross_entropy(network(x), y)
    return cross_entropy, FIRST * distances[0] + sum(distances[1:])

  def step():
    optimizer.zero_grad()
    cross_entropy, bn = losses(x)
    (cross_entropy + R_BN * bn).backward()
    optimizer.step()
    schedule.step()
    with torch.no_grad():
      x.clamp_(LOW, HIGH)
    return cross_entropy, bn

  found = {
    f"loss/{name}": np.asarray(value.detach()) for name, value in zip(("cross_entropy", "bn"), step(), strict=True)
  }
  found["gradient/images"] = x.grad.permute(0, 2, 3, 1).numpy()
  np.savez(scratch / "theirs.npz", **found)
  _workers.serve(step, baseline, version=torch.__version__)


def check(scratch: Path) -> dict[str, float]:
  """How far the first steps of both sides are apart: losses relatively, gradients in units of the gradient's norm.

  Raises:
    SystemExit: more than rounding.
  """
  found = {}
  for what in AGREEMENT:
    ours, theirs = (_students.load(scratch / f"{side}.npz", what) for side in ("ours", "theirs"))
    apart = (np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name]) for name in theirs)
    found[what] = max(float(value) for value in apart)
  if not all(found[what] < most for what, most in AGREEMENT.items()):
    raise SystemExit(f"recover_step: the two sides compute different things: {found}")
  return found


def measure(repeats: int, threads: int) -> dict:
  """Both sides in turn."""
  with tempfile.TemporaryDirectory() as scratch:
    command = ["-m", "benchmarks.recover_step", f"--scratch={scratch}"]
    ours = _workers.Worker([*command, "--worker=jax"], threads)
    ours.wait()
    switches, tried = _torch.fastest([*command, "--worker=torch"], threads)
    theirs = _workers.Worker([*command, "--worker=torch", f"--switches={switches}"], threads)
    theirs.wait()
    apart = check(Path(scratch))
    _workers.interleave([ours, theirs], repeats)
    facts = [worker.stop() for worker in (ours, theirs)]
  return {
    "ours_seconds": ours.median,
    "torch_seconds": theirs.median,
    "time_ratio": ours.median / theirs.median,
    "all_ours_seconds": ours.seconds,
    "all_torch_seconds": theirs.seconds,
    "memory_ratio": facts[0]["peak_bytes"] / facts[1]["peak_bytes"],
    "disagreement": apart,
    "torch_switches": switches,
    "torch_tried": tried,
    "bytes": {"ours": facts[0]["peak_bytes"], "torch": facts[1]["peak_bytes"]},
    "versions": {"jax": facts[0]["version"], "torch": facts[1]["version"]},
  }


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--worker", choices=("jax", "torch"))
  parser.add_argument("--scratch", type=Path)
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker == "torch":
    return torch_worker(arguments.scratch, arguments.switches)
  if arguments.worker == "jax":
    return jax_worker(arguments.scratch)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats}
  print(f"load {figures['machine']['load_at_start'][0]}")
  row = figures["step"] = measure(arguments.repeats, arguments.threads)
  keys = ("ours_seconds", "torch_seconds", "time_ratio", "memory_ratio", "torch_switches")
  header = [f"{IMAGES} images", "ours s", "PyTorch s", "ratio", "memory", "switches"]
  print(_reports.table(header, [["recovery", *(row[key] for key in keys)]]))
  _reports.write("recover_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
