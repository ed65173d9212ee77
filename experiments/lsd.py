"""LSD and LSD+: Learnable Sampler Distillation for Discrete Diffusion Models (arXiv 2509.19962).

python -m jdistill.run --config=experiments/lsd.py         samplers of 8 steps of rows that count down
python -m jdistill.run --config=experiments/lsd.py:nfe4    4 steps; nfe16: 16

A small score transformer (`sedd`) is the teacher of all arms, which differ by its sampler alone: its own 256 steps,
Euler and Tweedie at equal steps, one coefficient for all steps that is chosen on held-out draws (`one_phi`, the cheap
rival), and learned ones. `lsd` compares the scores of all positions, as the paper does, `lsd_active` those of masked
ones; `plus_step` and `plus_sum` learn step sizes too, with the paper's target and the sum over an interval. Read
`error_rate` beside `start_entropy`: a sampler that makes few different rows breaks few rules.
"""

from . import common_knowledge as common
from .common import ConfigDict, base, check_preset, method, network, policy, schedule, task

_ADAM = {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "schedule": "cosine", "ema_decay": 0.999}


def presets() -> list[str]:
  """The names after the colon."""
  return ["nfe8", "nfe4", "nfe16", "tiny"]


def get_config(preset: str = "nfe8") -> ConfigDict:
  """The experiment; `preset` is `nfe4`, `nfe8`, `nfe16` or `tiny`."""
  check_preset(preset, presets())
  steps = 4 if preset == "tiny" else int(preset.removeprefix("nfe"))
  config = base("lsd", {"name": "lsd", "sampler_steps": steps, "teacher_steps": 256, "relative": True})
  config.dataset, config.preprocessing, config.task = "countdown", "none", task("countdown", draws=1000)
  config.seeds, config.tune_seeds, config.reference = 5, 1, "euler"
  config.teacher, config.student = network("score_transformer"), network("score_transformer")
  config.teacher_method = method("sedd")
  config.teacher_train = schedule(epochs=32, warmup_epochs=1.0, **_ADAM)
  # nothing is read of the data but how many rows there are: 40 updates of 16 rows
  config.train = schedule(epochs=1, optimizer="adam", lr=0.05, batch_size=16, schedule="cosine")
  config.data_policy = policy("static_subset", fraction=0.08)
  fixed = {"method/name": "sedd", "method/copied": True, "method/sample_steps": steps}
  active = {"method/score_rows": "active"}
  sizes = active | {"method/learn_sizes": True}
  common.arms(
    config,
    {
      "euler": fixed,
      "tweedie": fixed | {"method/sampler": "tweedie"},
      "one_phi": fixed,
      "lsd_active": active,
      "lsd_tweedie": active | {"method/sampler": "tweedie"},
      "plus_step": sizes,
      "plus_sum": sizes | {"method/size_target": "interval_sum"},
      "teacher_256": fixed | {"method/sample_steps": 256},
    },
  )
  common.tune(config, {"one_phi": {"method/phi": (0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)}})
  if preset == "tiny":
    common.tiny(config)
    config.data_policy = policy("shuffle")
    config.task, config.method.teacher_steps = task("countdown", tokens=4, length=6, draws=60), 8
    for section in (config.teacher, config.student):
      section.dim, section.depth, section.heads, section.features = 8, 1, 2, 8
  return config
