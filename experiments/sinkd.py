"""SinKD: Sinkhorn Distance Minimization for Knowledge Distillation (arXiv 2402.17110).

python -m jdistill.run --config=experiments/sinkd.py                   digits, 100 labels; a few minutes
python -m jdistill.run --config=experiments/sinkd.py:low_overlap       a teacher that is hardly met: gradients

The paper's tables are of GLUE and SuperGLUE with language models. Here the method meets its own baselines on digits:
other divergences in the place of the KL term, and KL with the squared difference of logits. `paper_weights` is the
method with the published weights, untuned. `low_overlap` multiplies the teacher's logits by 5, trains with one
divergence for 200 steps, alone or with the labels, and reports how steep each of them is (`method/gradient_...`).
"""

from . import common_knowledge as common

ALONE = {"method/ce_weight": 0.0, "method/sd_weight": 0.0, "method/kd_weight": 1.0}
INSTEAD = {"method/sd_weight": 0.0, "method/scale_t2": True}
GRID = {"method/temperature": (2.0, 4.0, 8.0), "method/kd_weight": (0.9, 3.0)}
TEMPERATURES = {"method/temperature": (2.0, 4.0, 8.0)}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "low_overlap", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `low_overlap` or `tiny`."""
  common.check_preset(preset, presets())
  if preset == "low_overlap":
    return low_overlap()
  controls = {
    "ce": common.CE,
    "kd": common.KD,
    "reverse_kl": INSTEAD | {"method/divergence": "reverse_kl"},
    "js": INSTEAD | {"method/divergence": "js"},
    "total_variation": INSTEAD | {"method/divergence": "total_variation"},
    "kl_mse": INSTEAD | {"method/mse_weight": 0.1},
    "sample_wise": {"method/variant": "sample"},
    "paper_weights": {"method/scale_t2": False},
  }
  grids = {
    "sinkd": GRID | {"method/sd_weight": (0.1, 1.0)},
    "kd": GRID,
    "reverse_kl": GRID,
    "js": GRID,
    "total_variation": GRID,
    "kl_mse": TEMPERATURES | {"method/mse_weight": (0.01, 0.1)},
    "sample_wise": TEMPERATURES | {"method/sd_weight": (0.1, 1.0)},
  }
  return common.experiment(preset, "sinkd", {"name": "sinkd", "scale_t2": True}, controls=controls, grids=grids)


def low_overlap() -> common.ConfigDict:
  """One divergence, alone or with the labels, against a teacher with five times its logits: 200 full-batch steps."""
  shared = {"teacher_scale": 5.0, "temperature": 2.0, "gradient_norms": True}
  config = common.students("sinkd", {"name": "sinkd", "ce_weight": 0.0, "kd_weight": 0.0, "sd_weight": 1.0} | shared)
  names = ("kl", "reverse_kl", "js", "total_variation")
  controls = {name: ALONE | {"method/divergence": name} for name in names}
  controls |= {f"labels_{name}": controls[name] | {"method/ce_weight": 1.0} for name in names}
  controls |= {"labels_sinkhorn": {"method/ce_weight": 1.0}, "labels": common.CE}
  common.arms(config, controls)
  config.reference = "kl"
  config.train.epochs, config.train.batch_size, config.log_every = 200, 100, 1
  config.stages = ("teachers", "students", "report")
  return config
