"""Swing: Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework (arXiv 2212.08349).

A character-level language model is trained on a text with planted codes and teaches smaller ones on the same text. What
counts is the loss on held-out text (`nats` per character) together with how exposed the codes are (`exposure`, bits).

python -m jdistill.run --config=experiments/swing.py                                scikit-learn's descriptions
python -m jdistill.run --config=experiments/swing.py --config.dataset=FILE.txt      another text, ends of lines kept

The paper's data and code are not available; this is a test of its claim, not a reproduction of its tables.
"""

from . import common_knowledge as common

CONTROLS = {
  "ce": common.CE,
  "kd": {"method/name": "kd", "method/temperature": 1.0},
  "kd_hot": {"method/name": "kd", "method/temperature": 10.0},
  "private_labels_masked": {"method/tau_hi": 1.0, "method/mechanism": "none"},
  "noise_only": {"method/tau_hi": 1.0},
  "temperature_only": {"method/mechanism": "none"},
  "private_masked": {"method/mask_private": True, "method/mechanism": "none"},
  "reversed": {"method/reverse": True},
  "tau_hi_30": {"method/tau_hi": 30.0},
  "epsilon_100": {"method/epsilon": 100.0},
  "ce_private_masked": {"method/kd_weight": 0.0, "method/ce_weight": 1.0},
  "never_planted": {"method/name": "ce", "task/insertions": 0},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["text", "tiny"]


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  common.check_preset(preset, presets())
  method = {"name": "swing", "tau_lo": 1.0, "tau_hi": 10.0, "epsilon": 1000.0}
  config = common.students("swing", method, about={"name": "canaries"})
  config.dataset, config.preprocessing = "descriptions", "none"
  config.validation_size, config.seeds = 80, 5
  config.teacher, config.student = common.network("gru", width=128), common.network("gru", width=64)
  config.teacher_train = common.schedule(epochs=32, batch_size=32, lr=0.01)
  config.train = common.schedule(epochs=40, batch_size=32, lr=0.02)
  config.targets.source = "cached"
  common.arms(config, CONTROLS)
  common.tune(config, {"kd": {"method/temperature": (1.0, 2.0, 4.0)}})
  config.tune_seeds, config.reference = 2, "kd"
  if preset == "tiny":
    common.tiny(config)
    config.task = common.task("canaries", length=16, planted=2, insertions=5, digits=2)
  return config
