"""ND: Improving Knowledge Distillation via Regularizing Feature Norm and Direction (arXiv 2305.17007).

python -m jdistill.run --config=experiments/nd.py                              digits, all labels; minutes
python -m jdistill.run --config=experiments/nd.py:cifar100_resnet56_resnet20   a published pair, for accelerators

`nd` is KD++ and `without_nd` the same with the term's weight at zero, which every gain has to be measured against; its
parts alone are the arms `direction`, `norm` and `example`. On digits, student and teacher have embeddings of 64, so the
term acts on what the classifier reads. `method/norm` and `method/cosine` in the metrics are the length of the student's
embedding and its cosine with the teacher's class mean. Weights by pair are the paper's and those of the released
scripts; pairs without any have the defaults.
"""

from . import common_knowledge as common

# kd_weight and nd_weight of KD++; alpha, beta and nd_weight of DKD++; kd_weight and nd_weight of DIST++ and ReviewKD++
WEIGHTS = {
  "resnet56_resnet20": ((1.0, 2.0), (2.5, 4.0, 3.5), (2.0, 1.0), (1.2, 1.0)),
  "resnet32x4_resnet8x4": ((3.5, 2.0), (2.0, 8.0, 0.5), (1.5, 4.0), (8.0, 1.0)),
  "wrn_40_2_wrn_40_1": ((1.0, 1.5), (1.0, 6.0, 1.0), (2.5, 3.0), (5.0, 4.0)),
  "resnet32x4_shufflenetv1": ((2.5, 1.5), (0.5, 8.0, 4.0), (2.5, 3.0), (7.0, 1.0)),
  "resnet32x4_shufflenetv2": ((4.0, 0.5), (0.5, 6.0, 0.5), (3.0, 4.0), (8.0, 1.5)),
}
PUBLISHED = {
  "resnet56_resnet20": {"nd": 72.53, "dkd++": 72.16, "dist++": 72.52, "reviewkd++": 72.05},
  "resnet32x4_resnet8x4": {"nd": 75.54, "dkd++": 76.28, "dist++": 76.13, "reviewkd++": 76.07},
  "wrn_40_2_wrn_40_1": {"nd": 74.59, "dkd++": 75.02, "dist++": 75.00, "reviewkd++": 75.66},
  "resnet32x4_shufflenetv1": {"nd": 75.45, "dkd++": 77.11, "dist++": 75.60, "reviewkd++": 77.68},
  "resnet32x4_shufflenetv2": {"nd": 76.42, "dkd++": 77.49, "dist++": 76.64, "reviewkd++": 77.93},
}
PARTS = {
  "without_nd": {"method/nd_weight": 0.0},
  "direction": {"method/alignment": "direction"},
  "norm": {"method/alignment": "norm"},
  "example": {"method/alignment": "example"},
}

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  if preset in presets() and preset not in ("digits", "tiny"):
    return pair(preset)
  dkd = {"method/base": "dkd", "method/beta": 2.0}
  config = common.experiment(
    preset,
    "nd",
    {"name": "nd", "warmup_epochs": 5.0},
    controls={
      "ce": common.CE,
      "kd": common.KD,
      **PARTS,
      "half_nd": {"method/nd_weight": 0.5},
      "dkd": dkd | {"method/nd_weight": 0.0},
      "dkd++": dkd,
      "dist": {"method/base": "dist", "method/nd_weight": 0.0},
      "dist++": {"method/base": "dist"},
    },
    grids={"kd": {"method/temperature": (1.0, 2.0, 4.0, 8.0)}},
  )
  config.student.widths = (16, 64)
  if preset == "digits":
    config.task = common.task("supervised")
    config.teacher_train = common.schedule(epochs=60)
    config.train = common.schedule(epochs=60)
    config.seeds, config.reference = 20, "without_nd"
  return config


def pair(preset: str) -> common.ConfigDict:
  """A CIFAR-100 pair in the paper's protocol: batches of 128, twice the usual rate, Nesterov's momentum."""
  name = preset.removeprefix("cifar100_")
  kd, dkd, dist, review = WEIGHTS.get(name, ((1.0, 2.0), (1.0, 8.0, 1.0), (2.0, 2.0), (5.0, 1.0)))

  def other(base: str, weights: tuple[float, float]) -> dict:
    return {"method/base": base, "method/kd_weight": weights[0], "method/nd_weight": weights[1]}

  config = common.experiment(
    preset,
    "nd",
    {"name": "nd"},
    controls={
      "ce": common.CE,
      "kd": common.KD,
      **PARTS,
      "dkd++": other("dkd", (1.0, dkd[2])) | {"method/alpha": dkd[0], "method/beta": dkd[1]},
      "dist++": other("dist", dist),
      "reviewkd++": other("reviewkd", review),
    },
    grids={},
    by_pair={"*": {"kd_weight": kd[0], "nd_weight": kd[1]}},
  )
  config.reference = "without_nd"
  config.published.update(PUBLISHED.get(name, {}))
  for section in (config.train, config.teacher_train):
    section.batch_size, section.nesterov = 128, True
  config.train.lr, config.teacher_train.lr = 2 * config.train.lr, 0.1
  return config
