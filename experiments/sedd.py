"""SEDD: Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (arXiv 2310.16834).

python -m jdistill.run --config=experiments/sedd.py    rows that count down

A score transformer that learns by score entropy, and what a number of steps is worth: copies of one teacher with Euler
and Tweedie steps, which ask it equally often. `sedd` is a network of its own.
"""

from . import common_knowledge as common
from .common import ConfigDict, base, check_preset, method, network, schedule, task


def presets() -> list[str]:
  """The names after the colon."""
  return ["countdown", "tiny"]


def get_config(preset: str = "countdown") -> ConfigDict:
  """The experiment; `preset` is `countdown` or `tiny`."""
  check_preset(preset, presets())
  config = base("sedd", {"name": "sedd", "sample_steps": 64})
  config.dataset, config.preprocessing, config.task = "countdown", "none", task("countdown", draws=1000)
  config.seeds, config.reference = 3, "euler_64"
  config.teacher, config.student = network("score_transformer"), network("score_transformer")
  config.teacher_method = method("sedd")
  adam = {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "schedule": "cosine", "ema_decay": 0.999}
  config.teacher_train, config.train = (schedule(epochs=32, warmup_epochs=1.0, **adam) for _ in range(2))
  copied = {"method/copied": True, "train/epochs": 1, "train/warmup_epochs": 0.0, "train/ema_decay": None}
  controls = {f"euler_{n}": copied | {"method/sample_steps": n} for n in (4, 8, 16, 64)}
  controls |= {f"tweedie_{n}": copied | {"method/sample_steps": n, "method/sampler": "tweedie"} for n in (4, 8, 16)}
  common.arms(config, controls)
  if preset == "tiny":
    common.tiny(config)
    config.task = task("countdown", tokens=4, length=6, draws=60)
    for section in (config.teacher, config.student):
      section.dim, section.depth, section.heads, section.features = 8, 1, 2, 8
  return config
