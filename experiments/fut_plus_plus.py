"""FUT++: the second-order expansion of `experiments/fut.py` (arXiv 2505.22042).

python -m jdistill.run --config=experiments/fut_plus_plus.py                               a rate of 0.01; minutes
python -m jdistill.run --config=experiments/fut_plus_plus.py --config.orders.lr=0.003      a lower rate

At this rate orders lead far apart, and the first order is less good. Expect smaller errors in the parameters than
those of `fut`, and not always a higher correlation. In products of matrices an estimate costs 8.5 real trainings, and
one of the first order 3.
"""

from . import common_orders as common

CONTROLS = {"zeroth": common.ZEROTH, "fut": {"method/name": "fut"}, "secant": common.CONTROLS["secant"]}


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text"):
  """The experiment; `preset` is `text` or `tiny`."""
  config = common.experiment(preset, {"name": "fut_plus_plus"}, CONTROLS)
  if preset == "text":
    config.orders.lr, config.reference = 0.01, "fut"
  return config
