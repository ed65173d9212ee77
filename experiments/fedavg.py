"""FedAvg: Communication-Efficient Learning of Deep Networks from Decentralized Data (arXiv 1602.05629, AISTATS 2017).

  python -m jdistill.run --config=experiments/fedavg.py                                     three clients with digits
  python -m jdistill.run --config=experiments/fedavg.py --config.task.alpha=0.1             and different classes
  python -m jdistill.run --config=experiments/fedavg.py --config.participation=0.34         one of them in a round

The other arms weigh all clients alike, and keep normalisation layers with the clients (FedBN, arXiv 2102.07623).
"""

from . import common, common_federated
from .common_federated import LOCAL, options


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  common.check_preset(preset, presets())
  config = common_federated.federation("fedavg", {"name": "fedavg"} | LOCAL)
  config.task.alpha = 0.5
  common_federated.arms(
    config,
    {"uniform": options("fedavg", **LOCAL, average="uniform"), "fedbn": options("fedavg", **LOCAL, local_norm=True)},
  )
  if preset == "tiny":
    config = common_federated.tiny(config)
    config.model = common.network("convnet", width=4, depth=1, norm="instance")
  return config
