"""RS2: Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning (arXiv 2305.18424, ICLR 2024).

python -m jdistill.run --config=experiments/rs2.py                                digits, 5 % of the images an epoch
python -m jdistill.run --config=experiments/rs2.py --config.data_policy.fraction=0.02

A fresh random subset in every epoch against one that is drawn once, at equal steps, alone and with a teacher (`kd`);
`full` sees all images for about as many steps, `full_epochs` for 40 epochs; arms ending in `_once` select a subset of
the same size once (DeepCore's selectors). The report has the held-out accuracy by seconds and the times to three
accuracies, proxies and selection included. Other experiments that train students take the policy by
`--config.data_policy.name=rs2` alone, with or without a teacher.
Published (ResNet-18, ImageNet, 10 % of the images an epoch): 66 % top-1 against 69 % with all of them.
"""

from . import common_knowledge as common

STATIC = {"data_policy/name": "static_subset"}
FRACTION, EPOCHS, BATCH = 0.05, 200, 16
PROXY = {"epochs": 10, "batch_size": 64, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01}
ONCE = {"data_policy/name": "selected", "select/fraction": FRACTION}
ONCE |= {f"proxy_train/{key}": value for key, value in PROXY.items()}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("rs2", {"name": "ce"}, about={"name": "supervised"})
  config.subject, config.reference, config.seeds = "rs2", "static", 5
  config.teacher, config.student = (common.network("mlp", widths=(64, 64, 64)) for _ in range(2))
  config.teacher_train = common.schedule(epochs=40, batch_size=64, lr=0.003)
  config.train = common.schedule(epochs=EPOCHS, batch_size=BATCH, optimizer="adamw", lr=0.003, weight_decay=0.01)
  config.data_policy = common.policy("rs2", fraction=FRACTION)
  config.score_every, config.target_scores = 40, (0.8, 0.9, 0.95)
  static = STATIC | {"data_policy/fraction": FRACTION}
  full = {"data_policy/name": "shuffle"}
  kd = {"method/name": "kd", "method/temperature": 4.0}
  common.arms(
    config,
    {
      "static": static,
      "with_replacement": {"data_policy/replacement": True},
      "full": full | {"train/epochs": max(1, round(EPOCHS * FRACTION))},
      "full_epochs": full | {"train/epochs": 40},
      **{f"{name}_once": ONCE | {"select/name": name} for name in ("k_center", "el2n", "facility_location")},
      "rs2_kd": kd,
      "static_kd": static | kd,
    },
  )
  if preset == "tiny":
    common.tiny(config)
    config.data_policy.fraction, config.score_every = 0.2, 2
    config.reference = None
  return config
