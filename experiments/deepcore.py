"""DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning (arXiv 2204.08499, DEXA 2022).

python -m jdistill.run --config=experiments/deepcore.py --workdir=runs/deepcore      digits; ten minutes on two cores
python -m jdistill.run --config=experiments/deepcore.py:cifar10 --workdir=runs/deepcore_cifar10       an accelerator

Every selector of `jdistill.selection` at several sizes of the subset, beside a random subset of the same size and all
data, at about as many steps. A proxy is trained for each seed; selectors that ask for the same share it. Times to a
score in the report of each cell count proxies and selection. Other experiments that train students take a selection by
`--config.data_policy.name=selected --config.select.name=craig --config.select.fraction=0.1` alone.

Published (ResNet-18, CIFAR-10, balanced): at 0.1 to 1 % of the data random subsets are hard to beat, submodular
selections lead among small fractions, and GraNd and forgetting from 30 % on.
"""

from collections.abc import Mapping
from typing import Any

from jdistill.selection import SELECTORS

from . import common_knowledge as common

SUBJECT, REFERENCE = "facility_location", "random"
TRAIN, STEPS, BATCH = 1097, 300, 64  # digits without the 500 test and the 200 held-out images
MORE: dict[str, Mapping[str, Any]] = {  # beside one arm for every selector
  "el2n_lowest": {"select/name": "el2n", "select/keep": "lowest"},
  "craig_unweighted": {"select/name": "craig", "data_policy/weighted": False},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", "cifar10"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `cifar10` (the settings of the paper) or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("deepcore", {"name": "ce"}, about={"name": "supervised"})
  config.subject, config.reference, config.seeds = SUBJECT, REFERENCE, 10
  config.teacher, config.student = (common.network("mlp", widths=(64, 64, 64)) for _ in range(2))
  config.train = common.schedule(epochs=STEPS, batch_size=BATCH, optimizer="adamw", lr=0.003, weight_decay=0.01)
  config.proxy_train = common.schedule(epochs=20, batch_size=BATCH, optimizer="adamw", lr=0.003, weight_decay=0.01)
  config.data_policy = common.policy("selected")
  config.select.name, config.select.fraction = SUBJECT, 0.1
  config.score_every, config.target_scores = 30, (0.8, 0.9)
  common.arms(config, _arms(max(1, round(STEPS * BATCH / TRAIN))))
  config.sweep = {
    "groups": {name: {"select/per_class": ipc} | _epochs(10 * ipc) for name, ipc in _IPC.items()}
    | {name: {"select/fraction": part} | _epochs(round(part * TRAIN)) for name, part in _PARTS.items()},
    "series": {"equal steps": {}},
    "seeds": (0,),
  }
  if preset == "cifar10":
    _cifar10(config)
  if preset == "tiny":
    common.tiny(config)
    config.proxy_train.epochs, config.score_every, config.reference = 2, 2, None
    config.sweep.groups = {"2 per class": {"select/per_class": 2}}
  return config


_IPC = {"1 per class": 1, "5 per class": 5, "10 per class": 10}
_PARTS = {"30 %": 0.3}


def _epochs(kept: int) -> dict[str, int]:
  """As many epochs as make about `STEPS` steps."""
  return {"train/epochs": max(1, round(STEPS / -(-kept // BATCH)))}


def _arms(full_epochs: int) -> dict[str, dict[str, Any]]:
  own = {name: {"select/name": name} for name in SELECTORS if name != SUBJECT}
  own |= {label: dict(values) for label, values in MORE.items()}
  return own | {"full": {"data_policy/name": "shuffle", "train/epochs": full_epochs}}


def _cifar10(config: common.ConfigDict) -> None:
  """The paper's table: ResNet-18 as proxy and as student, SGD, 200 epochs whatever is kept, five seeds."""
  sgd = {
    "batch_size": 256, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
    "final_lr": 1e-4, "augment": "crop_flip",
  }  # fmt: skip
  config.dataset, config.preprocessing, config.validation_size, config.seeds = "cifar10", "channel", 1000, 5
  config.student = common.network("resnet18_bn")
  config.train, config.proxy_train = common.schedule(epochs=200, **sgd), common.schedule(epochs=10, **sgd)
  config.score_every = None
  arms = _arms(200)
  arms["grand"]["select/runs"] = 10
  common.arms(config, arms)
  parts = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9)
  config.sweep.groups = {f"{round(1000 * part)} in 1000": {"select/fraction": part} for part in parts}
  config.sweep.series = {"equal epochs": {}}
