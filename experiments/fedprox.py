"""FedProx: Federated Optimization in Heterogeneous Networks (arXiv 1812.06127, MLSys 2020).

  python -m jdistill.run --config=experiments/fedprox.py                                    three clients with digits
  python -m jdistill.run --config=experiments/fedprox.py --config.method.proximal=1.0

The classes of the clients differ. The other arm is FedAvg, which is FedProx without its term.
"""

from . import common, common_federated
from .common_federated import LOCAL, options


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  common.check_preset(preset, presets())
  config = common_federated.federation("fedprox", {"name": "fedprox"} | LOCAL)
  config.task.alpha = 0.1
  common_federated.arms(config, {"fedavg": options("fedavg", **LOCAL)})
  return common_federated.tiny(config) if preset == "tiny" else config
