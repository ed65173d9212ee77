"""A training step of knowledge distillation: ours against the same networks and loss in PyTorch, in turn.

  python -m benchmarks.student_step [--repeats=5]

Needs the extra `bench`. CIFAR ResNet-20 student, ResNet-56 teacher, 100 classes, batches of 64 images of 32x32x3,
float32, SGD with momentum and weight decay, `0.1 CE + 0.9 KD` at temperature 4; no augmentation. Ours is an epoch of
`student_method` as a run compiles it, PyTorch's a loop over as many batches with the fastest of its usual switches.
Times are per step of one student.

  online     the teacher looks at every batch
  cached     its logits were stored and are looked up by the example's name; PyTorch's online step is the comparison

  one        one student: ours with every batch spread over the devices (`parallel.data`), PyTorch's on all threads
  seeds      as many students as threads: ours at once, one on each device; PyTorch's one after the other

Before anything is timed, one step of both sides from the same weights must give the same losses, gradients and
running statistics.
"""

import copy
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _reports, _students, _torch, _workers

AGREEMENT = 1e-4


def jax_worker(targets: str, students: str, scratch: Path) -> None:
  """Ours."""
  import jax
  import jax.numpy as jnp

  from benchmarks import _our_students

  threads = int(os.environ["OMP_NUM_THREADS"])
  jax.config.update("jax_num_cpu_devices", threads)
  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()
  step, first = _our_students.training(targets, threads if students == "seeds" else 1, threads)
  if first is not None:
    np.savez(scratch / "ours.npz", **first)
  _workers.serve(step, baseline, version=jax.__version__)


def torch_worker(students: str, scratch: Path, switches: str) -> None:
  """The same as a loop."""
  from torch.nn import functional as F

  threads = int(os.environ["OMP_NUM_THREADS"])
  torch, layout, compiled = _torch.prepare(switches, threads)
  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  x, y = _students.data()
  x, y = layout(torch.tensor(x.transpose(0, 3, 1, 2))), torch.tensor(y).long()
  depths = {"teacher": _students.TEACHER, "student": _students.STUDENT}
  networks = {name: _students.torch_resnet(depth) for name, depth in depths.items()}
  for name, network in networks.items():
    start = {key: torch.tensor(value) for key, value in _students.load(scratch / "ours.npz", name).items()}
    missing, unexpected = network.load_state_dict(start, strict=False)
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
      raise SystemExit(f"student_step: the {name} differs: {missing} {unexpected}")
  teacher, student = layout(networks["teacher"].eval()), layout(networks["student"].train())
  look, learn = compiled(teacher), compiled(student)
  optimizer = torch.optim.SGD(
    student.parameters(), lr=_students.LR, momentum=_students.MOMENTUM, weight_decay=_students.WEIGHT_DECAY
  )
  t = _students.TEMPERATURE

  def one_step(x, y):
    with torch.no_grad():
      target = look(x)
    logits = learn(x)
    ce = F.cross_entropy(logits, y)
    kd = (
      t
      * t
      * F.kl_div(F.log_softmax(logits / t, 1), F.log_softmax(target / t, 1), reduction="batchmean", log_target=True)
    )
    loss = _students.CE_WEIGHT * ce + _students.KD_WEIGHT * kd
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return ce, kd

  start, found = copy.deepcopy(student.state_dict()), {}
  for number, rows in enumerate(_students.check_batches()):
    student.load_state_dict(start)
    ce, kd = one_step(x[rows], y[rows])
    one = {f"gradient/{name}": p.grad.clone() for name, p in student.named_parameters()}
    one |= {f"stats/{name}": b.clone() for name, b in student.named_buffers() if "running" in name}
    one |= {"loss/ce": ce.detach(), "loss/kd": kd.detach()}
    found |= {f"{number}/{name}": np.asarray(value) for name, value in one.items()}
  np.savez(scratch / f"{switches}.npz", **found)

  def epoch():
    for _ in range(threads if students == "seeds" else 1):
      order = torch.randperm(len(x))
      for begin in range(0, len(x), _students.BATCH):
        rows = order[begin : begin + _students.BATCH]
        one_step(x[rows], y[rows])

  _workers.serve(epoch, baseline, version=torch.__version__)


def check(scratch: Path, switches: str) -> dict[str, dict[str, float]]:
  """How far the first steps of both sides are apart, by PyTorch's switches; the median over the check batches.

  Gradients are compared with those of contiguous arrays. PyTorch's batch norm of `channels_last` rounds more coarsely,
  which lets other ReLUs pass and moves gradients by a tenth, where those of contiguous arrays and ours are both within
  `2e-5` of a computation in float64.

  Raises:
    SystemExit: more than rounding.
  """

  def apart(name: str, what: str) -> float:
    sides = [scratch / "ours.npz", scratch / f"{name}.npz"]
    numbers = range(_students.CHECKS)
    return statistics.median(
      _students.disagreement(*(_students.load(side, f"{number}/{what}") for side in sides)) for number in numbers
    )

  compared = {switches: ("loss", "stats"), _torch.NAMES[0]: ("loss", "gradient", "stats")}
  found = {name: {what: apart(name, what) for what in whats} for name, whats in compared.items()}
  if not max(value for one in found.values() for value in one.values()) < AGREEMENT:
    raise SystemExit(f"student_step: the two sides compute different things: {found}")
  return found


def measure(students: str, repeats: int, threads: int) -> dict:
  """Ours online, ours cached and PyTorch's online in turn."""
  with tempfile.TemporaryDirectory() as scratch:
    command = ["-m", "benchmarks.student_step", f"--students={students}", f"--scratch={scratch}"]
    workers = [_workers.Worker([*command, f"--worker={targets}"], threads) for targets in ("online", "cached")]
    for worker in workers:
      worker.wait()
    switches, tried = _torch.fastest([*command, "--worker=torch"], threads)
    workers.append(_workers.Worker([*command, "--worker=torch", f"--switches={switches}"], threads))
    workers[-1].wait()
    apart = check(Path(scratch), switches)
    _workers.interleave(workers, repeats)
    online, cached, torch = (worker.stop() for worker in workers)
  per_step = 1 / (_students.STEPS * (threads if students == "seeds" else 1))
  seconds = {name: w.median * per_step for name, w in zip(("online", "cached", "torch"), workers, strict=True)}
  return {
    **{f"{name}_seconds_per_step": value for name, value in seconds.items()},
    "online_ratio": seconds["online"] / seconds["torch"],
    "cached_ratio": seconds["cached"] / seconds["torch"],
    "all_seconds": {n: w.seconds for n, w in zip(("online", "cached", "torch"), workers, strict=True)},
    "torch_switches": switches,
    "torch_tried": tried,
    "disagreement": apart,
    "bytes": {"online": online["peak_bytes"], "cached": cached["peak_bytes"], "torch": torch["peak_bytes"]},
    "versions": {"jax": online["version"], "torch": torch["version"]},
  }


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--students", choices=("one", "seeds"), help="one of the two cases instead of both")
  parser.add_argument("--worker", choices=("online", "cached", "torch"))
  parser.add_argument("--scratch", type=Path)
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker == "torch":
    return torch_worker(arguments.students, arguments.scratch, arguments.switches)
  if arguments.worker:
    return jax_worker(arguments.worker, arguments.students, arguments.scratch)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "cases": {}}
  for students in [arguments.students] if arguments.students else ["one", "seeds"]:
    figures["cases"][students] = measure(students, arguments.repeats, arguments.threads)
  header = ["students", "online ms", "cached ms", "PyTorch ms", "online ratio", "cached ratio", "PyTorch's switches"]
  rows = [
    [
      name, *(1e3 * row[f"{side}_seconds_per_step"] for side in ("online", "cached", "torch")),
      row["online_ratio"], row["cached_ratio"], row["torch_switches"],
    ]
    for name, row in figures["cases"].items()
  ]  # fmt: skip
  print(f"load {figures['machine']['load_at_start'][0]}")
  print(_reports.table(header, rows))
  _reports.write("student_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
