"""BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping (arXiv 2306.05544).

python -m jdistill.run --config=experiments/boot.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/boot.py:digits    scikit-learn's digits, by class

No data are used after the teacher. `no_boundary` leaves out the condition at the last time, `ddim` takes the teacher's
step of first order, and `long` and `short` are other lengths of the step, of which the paper gives no ablation. Teacher
and student predict `x_0`, on the cosine schedule. `consistency` is the rival that uses data, with the scalings that it
is defined for: a teacher and a student of its own, as large, trained as long. `teacher_edm_64` is that teacher.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  edm = {"schedule": "edm", "t_min": 0.02, "t_max": 20.0}
  rival = {f"{section}/{key}": value for section in ("teacher", "student") for key, value in edm.items()}
  rival |= {"teacher_method/time_weight": "edm", "teacher/prediction": "edm"}
  controls = {
    "no_boundary": {"method/boundary_weight": 0.0},
    "ddim": {"method/solver": "ddim"},
    "long": {"method/delta": 0.1},
    "short": {"method/delta": 0.02},
    "consistency": {"method/name": "consistency", "method/grid": 18, "student/prediction": "consistency"} | rival,
    "teacher_edm_64": common.teacher_in(64) | {"student/prediction": "edm"} | rival,
  }
  own = {"name": "boot", "delta": 0.04}
  times = {"schedule": "vp_cosine", "prediction": "x0", "t_min": 0.01, "t_max": 0.98}
  config = common.experiment(preset, own, controls, **times)
  config.teacher_method.time_weight = "truncated_snr"
  return config
