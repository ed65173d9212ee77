"""DATM's central figure (arXiv 2310.05773, fig. 2 and table 5): which part of the experts' training should be matched?

  python -m jdistill.run --config=experiments/datm_difficulty.py --workdir=runs/difficulty

IPC 1 and 10 on scikit-learn digits, each matched to early, middle and late start epochs, three repetitions: about half
an hour on two cores. Expected: early is best for IPC 1, a later range for IPC 10, and a range that is too late for the
set's capacity is rejected step after step.
"""

from . import common, datm


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  config = datm.get_config(preset)
  config.name = "datm_difficulty"
  config.stop_if_stuck = False  # a range that is too late for IPC 1 is part of the picture
  ranges = {"early": (0, 3), "middle": (5, 15), "late": (20, 37)}
  groups, seeds = {"IPC 1": {"ipc": 1}, "IPC 10": {"ipc": 10}}, (0, 1, 2)
  if preset == "tiny":
    ranges, groups, seeds = {"early": (0, 1), "late": (2, 3)}, {"IPC 1": {"ipc": 1}}, (0,)
  config.sweep = {
    "groups": groups,
    "series": {
      name: {"method/min_start_epoch": low, "method/max_start_epoch": high} for name, (low, high) in ranges.items()
    },
    "order": tuple(ranges),
    "seeds": seeds,
  }
  return config
