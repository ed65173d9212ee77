"""AST: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories.

Shen et al., arXiv 2310.10541.

  python -m jdistill.run --config=experiments/ast.py                               scikit-learn digits, a minute or two
  python -m jdistill.run --config=experiments/ast.py --config.teacher_method.name=ce             without smooth experts
  python -m jdistill.run --config=experiments/ast.py:cifar100_ipc10                a released setting, for accelerators

MTT's loop on strong experts that are held back: momentum, weight decay and a lower rate from the middle on, with the
recipe `smooth_ce` (a scheduled cross entropy and a penalty of the slope). The student side has inner momentum, starts
in the middle of clusters, scales its inner loss by the start epoch (`balance`), matches the epochs in between
(`intermediate`) and perturbs the starts (`perturbation`); each is an option that `--config.method...` takes away.

The paper's own figures are not repeated here. Settings are those of the released scripts, which differ among
themselves: IPC 1 of CIFAR-100 has 20 inner steps in one and 40 in another, and IPC 10 of CIFAR-10 rates of images from
100 to 1000. The one cluster per image is the paper's; the released code has ten per class (`method.clusters=10`).
"""

from . import common, datm, mtt

# (inner steps, expert epochs, max start epoch, image lr, batch, lr of lr, initial lr)
_OFFICIAL = {
  "cifar10": {10: (30, 2, 20, 100, None, 1e-5, 0.01)},
  "cifar100": {
    1: (20, 3, 20, 1000, None, 1e-5, 0.01),
    10: (20, 2, 30, 1000, 128, 1e-5, 0.01),
    50: (80, 2, 40, 1000, 700, 1e-5, 0.01),
  },
  "tiny_imagenet": {1: (10, 2, 10, 10000, None, 1e-4, 0.01)},
}
_COLUMNS = ("inner_steps", "expert_epochs", "max_start_epoch", "image_lr", "batch_size", "lr_lr", "lr_init")


def _expert(epochs: int, **values: float) -> dict:
  """The experts' schedule: after epoch index `epochs // 2 + 1` the rate falls to 0.6 of itself and momentum is lost."""
  drop = epochs // 2 + 2
  own = {"epochs": epochs, "milestones": (drop,), "restart": (drop,)} | values
  return {f"teacher_train/{key}": value for key, value in own.items()}


def tables() -> dict:
  """MTT's data, networks and protocol with AST's experts and settings."""
  auto = datm.share(mtt.tables(), _expert(50, lr=0.003, weight_decay=1e-3) | {"eval/weight_decay": 1e-3})
  for dataset, table in _OFFICIAL.items():
    auto[dataset] = {"*": auto[dataset]["*"]} | datm.rows(_COLUMNS, table)
  digits = _expert(40, lr=0.015, weight_decay=1e-3) | {"method/lr_init": 0.01, "eval/weight_decay": 1e-3}
  auto["digits"]["*"] |= digits
  return auto


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, table in _OFFICIAL.items() for ipc in table)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a released setting such as `cifar100_ipc10`."""
  config = datm.trajectory("ast", tables())
  config.teacher_method = common.method("smooth_ce")
  config.teacher_train.update({"momentum": 0.9, "schedule": "step", "factor": 0.6})
  config = datm.apply_preset(config, preset, presets())
  if preset == "tiny":
    config.model = common.network("convnet", width=4, depth=1, norm="none")
    config.eval.models = ("convnet",)
    config.teacher_train.update({"milestones": (3,), "restart": (3,)})
    config.method.update({"lr_init": 0.01, "initial": "representative"})
  return config
