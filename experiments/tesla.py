"""TESLA: Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory (arXiv 2211.10586, ICML 2023).

  python -m jdistill.run --config=experiments/tesla.py                             scikit-learn digits, about a minute
  python -m jdistill.run --config=experiments/tesla.py --config.unroll.gradient=mixed      the exact gradient beside it
  python -m jdistill.run --config=experiments/tesla.py:cifar100_ipc50              a released setting, for accelerators

MTT's loop with the gradient route `tesla` (`docs/unroll.md`): memory that does not grow with the number of inner steps,
for a gradient in which every step's own point is held constant. It is the true one for one inner step only. With
`--config.method.teacher_label=True --config.method.labels=soft` every step takes the labels that the target parameters
give to the images, as the authors do on ImageNet-1K.

Published test accuracies (ConvNet, %): CIFAR-10 48.5/66.4/72.6 and CIFAR-100 24.8/41.7/47.9 at IPC 1/10/50; ImageNet-1K
at 64x64 17.8±1.3 and 27.9±1.2 at IPC 10/50. There are released settings for three of these. ImageNet-1K at 64x64 is
given as a folder or `.npz` with `--config.dataset=...`; the settings are those of `imagenet64_*` either way. That
whitening (ZCA) belongs to CIFAR-100 alone is read off the released commands (unverified for the experts of CIFAR-10).
"""

from . import common, datm, mtt

# (inner steps, expert epochs, max start epoch, image lr, batch, lr of lr, initial lr, teacher label, labels)
_OFFICIAL = {
  "cifar10": {1: (50, 2, 5, 1000, None, 1e-7, 0.01, False, "hard")},
  "cifar100": {50: (80, 2, 40, 1000, 125, 1e-5, 0.01, False, "hard")},
  "imagenet64": {1: (10, 3, 10, 10000, 100, 1e-4, 0.01, True, "soft")},
}
_COLUMNS = (
  "inner_steps",
  "expert_epochs",
  "max_start_epoch",
  "image_lr",
  "batch_size",
  "lr_lr",
  "lr_init",
  "teacher_label",
  "labels",
)
_OWN = {
  "cifar10": {"preprocessing": "channel"},
  "cifar100": {"preprocessing": "zca"},
  "imagenet64": {"preprocessing": "channel", "model/depth": 4, "teachers/count": 50},
}


def tables() -> dict:
  """MTT's tables with TESLA's values: same data, networks, experts and protocol, and MTT's values on the digits."""
  auto = mtt.tables()
  shared = datm.SHARED | mtt.SHARED | {"steps": 10000}
  own = {dataset: {"*": shared | _OWN[dataset]} | datm.rows(_COLUMNS, table) for dataset, table in _OFFICIAL.items()}
  return {"*": auto["*"], "digits": auto["digits"]} | own


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, table in _OFFICIAL.items() for ipc in table)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a released setting such as `cifar100_ipc50`."""
  return datm.apply_preset(datm.trajectory("tesla", tables()), preset, presets())
