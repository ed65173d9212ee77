"""FYI: Flip Your Images for Dataset Distillation (arXiv 2407.08113, ECCV 2024).

  python -m jdistill.run --config=experiments/fyi.py:mtt --config.dataset=cifar10        MTT, and so dm, dc, dsa, datm
  python -m jdistill.run --config=experiments/fyi.py:cifar10_ipc1                        DM, for accelerators
  python -m jdistill.run --config=experiments/fyi.py                                     DM on scikit-learn digits
  python -m jdistill.run --config=experiments/mtt.py --config.method.view=flip           the same option anywhere

Every synthetic image is seen with its mirror image: by DM and DataDAM as twice as many images, by DC in matching and in
inner training, by MTT and DATM in every inner step, which takes half as many images. Everything else is the host's; in
evaluation nothing is mirrored but by its augmentation. A mirrored digit is another sign, so the first preset shows that
a run works and not what it is good for; it says so in its log. The paper reports gains for all its hosts, most at one
image per class (figures unverified).
"""

from . import common, datadam, datm, dc, dm, mtt

_HOSTS = {"dm": dm, "dc": dc, "mtt": mtt, "datm": datm, "datadam": datadam}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *_HOSTS, "dsa", *(name for name in dm.presets() if "_ipc" in name)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny`, a host (`dm`, `dc`, `dsa`, `mtt`, `datm`, `datadam`) with its tables
  of settings, or a row of DM's table such as `cifar10_ipc1`."""
  common.check_preset(preset, presets())
  if preset == "dsa":
    config = dc.get_config("dsa")
  elif preset in _HOSTS:
    config = _HOSTS[preset].get_config()
  else:
    config = dm.get_config(preset)
    config.method.name = "fyi"
  config.name, config.method.view = "fyi", "flip"
  return config
