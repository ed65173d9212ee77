"""What `diffusion_step` trains on both sides: a U-Net, an update of DMD2, and the same numbers in PyTorch."""

import json
from pathlib import Path

import numpy as np

SIDE, CHANNELS, WIDTHS, FEATURES, CONDITIONS = 32, 3, (32, 64, 64), 64, 10
HIDDEN, LR = 64, 1e-4
GAN, CRITIC = 3e-3 * 12288 / (SIDE * SIDE * CHANNELS), 1e-2
SIGMA_DATA, LEVELS, ENDS = 0.5, 1000, (20, 980)
COMPARED = ("loss/fake", "loss/critic", "loss/generator", "method/dm_norm")
COMPARED += ("method/norm_student", "method/norm_fake", "method/norm_critic")


def method(batch_size: int):
  """`(method, state, input of a step)` of ours: `dmd2(ratio=1)` with its adversarial part, all layers drawn anew."""
  import jax
  import jax.numpy as jnp

  from jdistill import models
  from jdistill.base import Batch, Variables
  from jdistill.methods.diffusion.dmd2 import dmd2
  from jdistill.methods.diffusion.parts import own_chunk
  from jdistill.methods.knowledge import StudentInput, student_method
  from jdistill.methods.optimizers import make_optimizer
  from jdistill.teachers.frozen import committee

  network = models.build(
    "unet", num_classes=CONDITIONS, image_shape=(SIDE, SIDE, CHANNELS), widths=WIDTHS, features=FEATURES
  )
  rng = np.random.default_rng(0)

  def drawn(seed: int) -> dict:
    """New parameters, also of layers that start at zero: else nothing but the last layer would have a gradient."""
    params = network.init(jax.random.key(seed)).params
    return jax.tree.map(lambda leaf: leaf + 0.02 * np.float32(rng.normal(size=leaf.shape)), params)

  frozen = committee([network], [Variables(drawn(0))])
  made = student_method(
    network,
    dmd2(ratio=1, gan_weight=GAN, critic_weight=CRITIC, hidden=HIDDEN),
    optimizer=make_optimizer("adam", LR),
    targets=frozen.targets,
    teachers=frozen.networks,
    chunk_size=own_chunk(network, batch_size),
  )
  x = np.float32(SIGMA_DATA * rng.normal(size=(batch_size, SIDE, SIDE, CHANNELS)))
  ids = jnp.arange(batch_size, dtype=jnp.int32)
  batch = Batch(jnp.asarray(x), ids % CONDITIONS, ids)
  given = StudentInput(batch, jnp.int32(0), jnp.float32(0), None, frozen.arrays)
  state = made.init(jax.random.key(0), given)
  roles = dict(state.roles)
  for seed, name in enumerate(("student", "fake"), 1):  # copies of the teacher would have no gradient of matching
    roles[name] = roles[name]._replace(params=drawn(seed))
  return made, state._replace(roles=roles), given


def write(scratch: Path, state, given, key, metrics) -> None:
  """Leaves parameters, data, the draws of the update of `key`, and what it gave, for the other side."""
  import jax

  found = {"real/x": given.batch.x, "real/cond": given.batch.y, **_draws(key, len(given.batch.x))}
  roles = {name: role.params for name, role in state.roles.items()} | {"teacher": given.targets[0].params}
  for role, params in roles.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      found["/".join(["params", role, *(part.key for part in path)])] = leaf
  np.savez(scratch / "ours.npz", **{name: np.asarray(leaf) for name, leaf in found.items()})
  (scratch / "ours.json").write_text(json.dumps({name: float(metrics[name]) for name in COMPARED}))


def _draws(key, size: int) -> dict:
  """What an update of `dmd2` draws, in its own order."""
  import jax

  from jdistill import diffusion

  levels, shape = diffusion.schedule("edm").grid(LEVELS), (size, SIDE, SIDE, CHANNELS)
  z, cond, match, fool, follow, tell = jax.random.split(jax.random.split(key)[1], 6)
  found = {"z": jax.random.normal(jax.random.split(z, 3)[0], shape)}
  found["cond"] = jax.random.randint(cond, (size,), 0, CONDITIONS)
  key_t, key_eps = jax.random.split(match)
  found["match/t"] = levels[jax.random.randint(key_t, (size,), *ENDS)]
  found["match/eps"] = jax.random.normal(key_eps, shape)
  real, fake = jax.random.split(tell)
  for name, own in (("fool", fool), ("follow", follow), ("real", real), ("fake", fake)):
    key_t, key_eps = jax.random.split(own)
    found[f"{name}/t"] = jax.random.choice(key_t, levels, (size,))
    found[f"{name}/eps"] = jax.random.normal(key_eps, shape)
  return found


def torch_unet(torch):
  """The U-Net as a module; its layers have the names of ours."""
  from torch import nn
  from torch.nn import functional as F

  class UNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.convs, self.denses = nn.ModuleDict(), nn.ModuleDict()
      dense = {"noise0": (FEATURES, FEATURES), "condition": (CONDITIONS + 1, FEATURES), "noise1": (FEATURES, FEATURES)}
      conv, blocks, entering = {"stem": (CHANNELS, WIDTHS[0], 3)}, [], WIDTHS[0]
      for i, width in enumerate(WIDTHS):
        blocks.append((f"down{i}", entering, width))
        entering = width
      blocks.append(("middle", entering, entering))
      for i in reversed(range(len(WIDTHS) - 1)):
        blocks.append((f"up{i}", entering + WIDTHS[i], WIDTHS[i]))
        entering = WIDTHS[i]
      for name, before, after in blocks:
        conv[f"{name}_conv0"], conv[f"{name}_conv1_zero"] = (before, after, 3), (after, after, 3)
        dense[f"{name}_film_zero"] = (FEATURES, 2 * after)
        if before != after:
          conv[f"{name}_skip"] = (before, after, 1)
      conv["head_zero"] = (WIDTHS[0], CHANNELS, 3)
      for name, (before, after, size) in conv.items():
        self.convs[name] = nn.Conv2d(before, after, size, padding=size // 2)
      for name, sizes in dense.items():
        self.denses[name] = nn.Linear(*sizes)
      self.register_buffer("waves", torch.exp(torch.linspace(np.log(0.5), np.log(64), FEATURES // 2)))

    def load(self, role: str, kept) -> None:
      for name, layer in [*self.convs.items(), *self.denses.items()]:
        kernel = torch.from_numpy(kept[f"params/{role}/{name}/kernel"])
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layer.weight.data.copy_(kernel.permute(order))
        layer.bias.data.copy_(torch.from_numpy(kept[f"params/{role}/{name}/bias"]))

    def about(self, noise, cond):
      angles = noise[:, None] * self.waves
      x = F.silu(self.denses["noise0"](torch.cat([angles.sin(), angles.cos()], 1)))
      rows = F.one_hot(cond, CONDITIONS + 1).float() * (CONDITIONS + 1) ** 0.5
      return F.silu(self.denses["noise1"](x + self.denses["condition"](rows)))

    def block(self, x, about, name):
      hidden = self.convs[f"{name}_conv0"](F.silu(F.group_norm(x, 8)))
      scale, shift = self.denses[f"{name}_film_zero"](about)[:, :, None, None].chunk(2, 1)
      hidden = F.silu(F.group_norm(hidden, 8) * (1 + scale) + shift)
      hidden = self.convs[f"{name}_conv1_zero"](hidden)
      return hidden + (self.convs[f"{name}_skip"](x) if f"{name}_skip" in self.convs else x)

    def down(self, x_t, t, cond):
      about = self.about(torch.log(t) / 4, cond)
      x, skips = self.convs["stem"](x_t / (t**2 + SIGMA_DATA**2).sqrt()[:, None, None, None]), []
      for i in range(len(WIDTHS)):
        x = self.block(x, about, f"down{i}")
        if i + 1 < len(WIDTHS):
          skips.append(x)
          x = F.avg_pool2d(x, 2)
      return self.block(x, about, "middle"), skips, about

    def features(self, x_t, t, cond):
      """The lowest map; the way up is not needed for it."""
      return self.down(x_t, t, cond)[0]

    def forward(self, x_t, t, cond):
      x, skips, about = self.down(x_t, t, cond)
      for i in reversed(range(len(skips))):
        x = self.block(torch.cat([F.interpolate(x, scale_factor=2), skips[i]], 1), about, f"up{i}")
      inner = self.convs["head_zero"](F.silu(F.group_norm(x, 8)))
      whole = (t**2 + SIGMA_DATA**2)[:, None, None, None]
      return SIGMA_DATA**2 / whole * x_t + t[:, None, None, None] * SIGMA_DATA / whole.sqrt() * inner

  return UNet()
