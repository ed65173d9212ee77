"""DisBack: Distribution Backtracking Builds A Faster Convergence Trajectory (arXiv 2408.15991).

python -m jdistill.run --config=experiments/disback.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/disback.py:digits    scikit-learn's digits, by class

A generator that begins at random, as the score mismatch of a generator that begins as its teacher is small. All arms
have the same number of updates, those of the degradation included. `dmd2` is the same base method without a path;
`fake_alone` lets the follower begin at the end of the path, with the teacher as the target throughout; in `linear` the
nodes lie on a straight line between the ends. The claim is one of speed: updates until the held-out distance is at a
threshold (`target_scores`), and the curves; the ends may tie. `method/gap` among the curves is the mismatch.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  own = {"name": "disback", "student_start": "random", "record_steps": 300, "record_interval": 100, "node_steps": 300}
  controls = {
    "dmd2": {"method/name": "dmd2", "method/student_start": "random"},
    "fake_alone": {"method/record_interval": 300},
    "linear": {"method/path_kind": "linear"},
  }
  config = common.experiment(preset, own, controls)
  config.reference, config.score_every = "dmd2", 200
  config.target_scores = (20.0, 10.0) if preset == "digits" else (0.2, 0.1)
  if preset == "tiny":
    config.method.record_steps, config.method.record_interval, config.method.node_steps = 4, 2, 2
    config.score_every = 4
  return config
