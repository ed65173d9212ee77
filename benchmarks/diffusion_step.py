"""One update of DMD2 beside the same in PyTorch, in turn: generator, fake score and critic of a U-Net at 32x32.

  pip install torch==2.13.0
  python -m benchmarks.diffusion_step [--repeats=5] [--batch 32 280]

Needs the extra `bench`. Networks have widths 32, 64 and 64; samples of 32x32x3 with 10 conditions, 32 and, as DMD2 on
ImageNet-64, 280 at once; the ratio is 1, so that every part runs in every update; Adam for all roles. Ours is the step
of `student_method` as a run compiles it. PyTorch's is written plainly: no graph where no gradient passes, the way up of
the U-Net left out where only the critic's features are wanted, all three optimisers `fused` where there is that, and
the fastest of the usual switches.

Before anything is timed both sides must have the same losses and the same norm of every role's gradient, from the same
parameters, data and random numbers.
"""

import json
import os
import tempfile
from pathlib import Path

from benchmarks import _diffusion, _reports, _torch, _workers

AGREEMENT = 1e-3


def jax_worker(scratch: Path, batch: int) -> None:
  """Ours."""
  import jax
  import jax.numpy as jnp

  jax.block_until_ready(jnp.zeros(()) + 1)
  baseline = _workers.peak_rss()
  method, state, given = _diffusion.method(batch)
  step = jax.jit(method.step)
  _, metrics = step(jax.random.key(1), state, given)
  _diffusion.write(scratch, state, given, jax.random.key(1), metrics)

  def one():
    one.state, _ = jax.block_until_ready(step(jax.random.key(one.count), one.state, given))
    one.count += 1

  one.state, one.count = state, 0
  _workers.serve(one, baseline, version=jax.__version__)


def torch_worker(scratch: Path, switches: str) -> None:
  """Theirs."""
  torch, layout, compiled = _torch.prepare(switches, int(os.environ["OMP_NUM_THREADS"]))
  torch.zeros(()) + 1
  baseline = _workers.peak_rss()
  import numpy as np

  kept = dict(np.load(scratch / "ours.npz"))
  trainer = Trainer(torch, layout, compiled, kept)
  given = {name: torch.from_numpy(leaf) for name, leaf in kept.items() if not name.startswith("params/")}
  given = {name: layout(leaf.permute(0, 3, 1, 2)) if leaf.ndim == 4 else leaf for name, leaf in given.items()}
  check(trainer.update(given | {"cond": given["cond"].long(), "real/cond": given["real/cond"].long()}), scratch)
  x, cond = given["real/x"], given["real/cond"].long()
  _workers.serve(lambda: trainer.update(trainer.draw(x, cond)), baseline, version=torch.__version__)


class Trainer:
  """DMD2 in PyTorch: three networks, a head, three optimisers."""

  def __init__(self, torch, layout, compiled, kept):
    self.torch, self.layout = torch, layout
    self.levels = torch.from_numpy(_levels())
    self.networks = {name: layout(_diffusion.torch_unet(torch)) for name in ("student", "fake", "teacher")}
    for role, network in self.networks.items():
      network.load(role, kept)
    features = kept["params/critic/dense0/kernel"].shape[0]
    linear = torch.nn.Linear
    self.head = torch.nn.Sequential(linear(features, _diffusion.HIDDEN), torch.nn.SiLU(), linear(_diffusion.HIDDEN, 1))
    for place, name in ((0, "dense0"), (2, "dense1")):
      self.head[place].weight.data.copy_(torch.from_numpy(kept[f"params/critic/{name}/kernel"].T.copy()))
      self.head[place].bias.data.copy_(torch.from_numpy(kept[f"params/critic/{name}/bias"]))
    self.networks["teacher"].requires_grad_(False)
    roles = {"student": self.networks["student"], "fake": self.networks["fake"], "critic": self.head}
    self.roles = {name: list(role.parameters()) for name, role in roles.items()}
    self.adams = [torch.optim.Adam(own, lr=_diffusion.LR, fused=True) for own in self.roles.values()]
    self.generator, self.followers = compiled(self._generator), compiled(self._followers)

  def draw(self, x, cond) -> dict:
    """Fresh random numbers of an update."""
    torch, size = self.torch, len(x)
    found = {"real/x": x, "real/cond": cond, "z": self.layout(torch.randn_like(x))}
    found["cond"] = torch.randint(_diffusion.CONDITIONS, (size,))
    for name in ("match", "fool", "follow", "real", "fake"):
      ends = _diffusion.ENDS if name == "match" else (0, _diffusion.LEVELS)
      found[f"{name}/t"] = self.levels[torch.randint(*ends, (size,))]
      found[f"{name}/eps"] = self.layout(torch.randn_like(x))
    return found

  def realness(self, x, cond, given, name):
    t = given[f"{name}/t"]
    maps = self.networks["fake"].features(x + t[:, None, None, None] * given[f"{name}/eps"], t, cond)
    return self.head(maps.permute(0, 2, 3, 1).flatten(1))[:, 0]

  def _generator(self, given):
    torch, cond = self.torch, given["cond"]
    first = self.levels[:1].expand(len(cond))
    x = self.networks["student"](first[:, None, None, None] * given["z"], first, cond)
    with torch.no_grad():
      t = given["match/t"]
      x_t = x + t[:, None, None, None] * given["match/eps"]
      real, fake = (self.networks[name](x_t, t, cond) for name in ("teacher", "fake"))
      direction = (fake - real) / (x - real).abs().mean((1, 2, 3), keepdim=True) / x.numel()
    fooling = torch.nn.functional.softplus(-self.realness(x, cond, given, "fool")).mean()
    return (direction * x).sum() + _diffusion.GAN * fooling, x.detach(), fooling.detach(), direction.norm()

  def _followers(self, x, given):
    torch, cond, t = self.torch, given["cond"], given["follow/t"]
    softplus = torch.nn.functional.softplus
    predicted = self.networks["fake"](x + t[:, None, None, None] * given["follow/eps"], t, cond)
    weight = 1 / t**2 + 1 / _diffusion.SIGMA_DATA**2
    follow = (weight * ((predicted - x) ** 2).mean((1, 2, 3))).mean()
    tell = softplus(-self.realness(given["real/x"], given["real/cond"], given, "real")).mean()
    tell = tell + softplus(self.realness(x, cond, given, "fake")).mean()
    return follow + _diffusion.CRITIC * tell, follow.detach(), tell.detach()

  def update(self, given) -> dict:
    """One update of all roles; its losses and norms of gradients."""
    torch = self.torch
    for role in ("fake", "critic"):
      for parameter in self.roles[role]:
        parameter.requires_grad_(False)
    loss, x, fooling, direction = self.generator(given)
    loss.backward()
    for role in ("fake", "critic"):
      for parameter in self.roles[role]:
        parameter.requires_grad_(True)
    loss, follow, tell = self.followers(x, given)
    loss.backward()
    norms = {
      f"method/norm_{name}": torch.nn.utils.get_total_norm([one.grad for one in own])
      for name, own in self.roles.items()
    }
    for adam in self.adams:
      adam.step()
      adam.zero_grad()
    return norms | {
      "loss/fake": follow, "loss/critic": tell, "loss/generator": fooling, "method/dm_norm": direction
    }  # fmt: skip


def _levels():
  import numpy as np

  rho, low, high = 7.0, 0.002, 80.0
  places = np.arange(_diffusion.LEVELS) / (_diffusion.LEVELS - 1)
  return np.float32((high ** (1 / rho) + places * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def check(found: dict, scratch: Path) -> None:
  """Raises `SystemExit` unless losses and norms are ours."""
  own = json.loads((scratch / "ours.json").read_text())
  for name in _diffusion.COMPARED:
    if abs(float(found[name]) - own[name]) > AGREEMENT * abs(own[name]):
      raise SystemExit(f"diffusion_step: {name} is {float(found[name])} in PyTorch and {own[name]} in ours")


def measure(batch: int, repeats: int, threads: int) -> dict:
  """Both sides in turn."""
  with tempfile.TemporaryDirectory() as scratch:
    command = ["-m", "benchmarks.diffusion_step", f"--scratch={scratch}", f"--batch={batch}"]
    ours = _workers.Worker([*command, "--worker=jax"], threads)
    ours.wait()  # it leaves what PyTorch starts from
    switches, tried = _torch.fastest([*command, "--worker=torch"], threads)
    theirs = _workers.Worker([*command, "--worker=torch", f"--switches={switches}"], threads)
    _workers.interleave([ours, theirs], repeats)
    facts = {"ours": ours.stop(), "theirs": theirs.stop()}
  return {
    "ours_seconds": ours.median,
    "torch_seconds": theirs.median,
    "time_ratio": ours.median / theirs.median,
    "all_ours_seconds": ours.seconds,
    "all_torch_seconds": theirs.seconds,
    "memory_ratio": facts["ours"]["peak_bytes"] / facts["theirs"]["peak_bytes"],
    "peak_bytes": {name: fact["peak_bytes"] for name, fact in facts.items()},
    "torch_switches": switches,
    "torch_tried": tried,
    "versions": {"jax": facts["ours"]["version"], "torch": facts["theirs"]["version"]},
  }


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--worker", choices=("jax", "torch"))
  parser.add_argument("--scratch", type=Path)
  parser.add_argument("--batch", type=int, nargs="+", default=(32, 280))
  parser.add_argument("--switches", default=_torch.NAMES[0])
  arguments = parser.parse_args()
  if arguments.worker == "jax":
    return jax_worker(arguments.scratch, *arguments.batch)
  if arguments.worker == "torch":
    return torch_worker(arguments.scratch, arguments.switches)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats}
  print(f"load {figures['machine']['load_at_start'][0]}")
  figures["cases"] = {
    f"{batch} samples": measure(batch, arguments.repeats, arguments.threads) for batch in arguments.batch
  }
  keys = ("ours_seconds", "torch_seconds", "time_ratio", "memory_ratio", "torch_switches")
  rows = [[name, *(row[key] for key in keys)] for name, row in figures["cases"].items()]
  print(_reports.table(["case", "ours s", "PyTorch s", "ratio", "memory", "switches"], rows))
  _reports.write("diffusion_step", figures, arguments.out)
  return None


if __name__ == "__main__":
  main()
