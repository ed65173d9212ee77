"""All methods of matching and regression under one protocol, beside real images: which set is worth most?

python -m jdistill.run --config=experiments/compare_matching.py --workdir=runs/matching      digits; hours on two cores
python -m jdistill.run --config=experiments/compare_matching.py:quick --workdir=runs/quick       once each, IPC 1
python -m jdistill.run --config=experiments/compare_matching.py --config.dataset=cifar10 --config.train_size=5000 ...

Every method has the settings of its own experiment; data, evaluation, repetitions and seeds are the same for all. Each
set is trained on at the best of a few learning rates (or the one it brings), chosen on real training images that are in
no set. Sets whose labels are regressed to (KIP, FRePo, RCIG) are trained on by Adam on the squared error, and their
networks have no norm layers, as in their experiments; all others are trained on by SGD on the cross entropy. Real
images are chosen at random, by herding, k-center and k-means within each class, with hard labels and with the soft ones
of the teachers. LRS and ARS are DD-Ranking's scores (arXiv 2505.13300), with random images of the same loss.

Keys that are set here (`--config.eval.seeds=3`, `--config.steps=...`) hold for every method; options of one method are
set in `sweep.series`, and one that fails does not lose the others.
"""

from collections.abc import Callable, Sequence

from jdistill import selection

from . import ast, common, datadam, datm, dc, dm, frepo, ftd, fyi, kip, mtt, rcig, tesla

_METHODS: dict[str, Callable[[], common.ConfigDict]] = {
  "MTT": mtt.get_config,  # the first one has teachers, and so all controls
  "FTD": ftd.get_config,
  "TESLA": tesla.get_config,
  "AST": ast.get_config,
  "DATM": datm.get_config,
  "DC": dc.get_config,
  "DSA": lambda: dc.get_config("dsa"),
  "DM": dm.get_config,
  "DataDAM": datadam.get_config,
  "FYI on DM": fyi.get_config,
  "KIP": kip.get_config,
  "FRePo": frepo.get_config,
  "RCIG": rcig.get_config,
}
_OWN = ("distilled", "distilled_hard", "distilled_reaugmented")
_AGAIN = ("random_hard_reaugmented", "random_soft_reaugmented")
_CHOSEN = tuple(f"{choice}_{kind}" for choice in selection.CHOICES for kind in ("hard", "soft"))
_FIRST = (*_OWN, *_CHOSEN, *_AGAIN, "initial", "full_data")
_REGRESSED = (*_OWN, "random_hard", "random_hard_reaugmented", "full_data")  # their controls have another loss
# the evaluation that all have in common, whatever their own experiments say
_PROTOCOL = {
  "*": {"eval/epochs": 1000, "eval/batch_size": 256, "eval/augment": common.DSA, "eval/other_augment": "none"},
  "digits": {
    "eval/epochs": 400,
    "eval/batch_size": 128,
    "eval/augment": "none",
    "eval/other_augment": "crop_scale_rotate",
  },
}


def series() -> list[str]:
  """Names of what is compared, in order."""
  return list(_METHODS)


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "quick", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `quick` (one image per class, one repetition of five networks) or `tiny`."""
  common.check_preset(preset, presets())
  if preset == "tiny":
    return _tiny()
  groups, seeds = {"IPC 1": {"ipc": 1}, "IPC 10": {"ipc": 10}}, (0, 1, 2)
  if preset == "quick":
    groups, seeds = {"IPC 1": {"ipc": 1}}, (0,)
  bases = {name: _base(make(), first=index == 0) for index, (name, make) in enumerate(_METHODS.items())}
  config = _around(bases, groups, seeds)
  config.eval.update({"seeds": 5, "choose_lr": True, "models": ("convnet", "mlp")})
  return config


def _around(bases: dict[str, common.ConfigDict], groups: dict, seeds: Sequence[int]) -> common.ConfigDict:
  """What holds for every method, all of it open, and the sweep."""
  config = common.base("compare_matching", {"name": "dm"})
  config.sweep = {
    "groups": groups,
    "series": {name: {} for name in bases},
    "order": tuple(bases),
    "seeds": tuple(seeds),
    "bases": bases,
  }
  return config


def _base(config: common.ConfigDict, *, first: bool) -> common.ConfigDict:
  """An experiment with the sets that it is compared by."""
  regressed = config.method.name in ("kip", "frepo", "rcig")
  config.eval.sets = _FIRST if first else _REGRESSED if regressed else _OWN
  config.stop_if_stuck = False  # a method that learns nothing is a row like the others
  if config.method.name == "kip":  # its kernel is its own; networks of the evaluation are those of FRePo
    config.model = common.network("convnet")
    config.auto["*"]["*"].update({"model/depth": 3, "model/width": 128, "model/norm": "none"})
    config.auto["digits"]["*"].update({"model/depth": 2, "model/width": 32, "model/norm": "none"})
  for dataset, table in config.auto.items():
    for row in table.values():
      for key in _PROTOCOL["*"].keys() & row.keys():
        del row[key]
    if dataset in _PROTOCOL:
      table["*"].update(_PROTOCOL[dataset])
  return config


def _tiny() -> common.ConfigDict:
  """Three methods in seconds; the figures mean nothing."""
  bases = {"MTT": mtt.get_config("tiny"), "DM": dm.get_config("tiny"), "KIP": kip.get_config("tiny")}
  for name, config in bases.items():
    config.eval.sets = ("distilled", "random_hard", "herding_hard") if name == "MTT" else ("distilled",)
  return _around(bases, {"IPC 1": {"ipc": 1}}, (0,))
