"""EchoDistill: Bidirectional Concept Distillation for One-Step Diffusion Personalization (arXiv 2510.20512).

python -m jdistill.run --config=experiments/echo_distill.py                      five concepts, one seed of each
python -m jdistill.run --config=experiments/echo_distill.py --config.seeds=15    three seeds of each

A teacher of nine digits, and students of one step that DMD2 makes of it. Then five images of a concept: the tenth
digit, or a digit in a style, by seed. Arms: teacher and student together, with samples of the student among the
references (`echo_distill`) and without (`joint`); without discriminators (`no_adversarial`); the teacher first and then
the student, in as many updates of each (`sequential`, and `sequential_plain` without discriminators); the student's own
denoising loss (`direct`); the row of the token alone (`token`); and the student as it was (`before`). `echo_teacher`
and `joint_teacher` are the teachers of the first two trainings, in 20 steps. `similarity` is the counterpart of the
paper's scores of images by DINO and CLIP (0.637 and 0.783 for SD-Turbo); samples that are all alike please it, and
`concept`, so the score is `concept_frechet`. `old_frechet` tells what was forgotten: a hundred images of known digits
are beside the references, and students are held to their first samples of these, in all arms.

The paper's rates, weights and numbers of updates are not public, so there is no preset of its models. The rate, the
images of known digits, `keep_weight` and the score were chosen after a short run of seeds 0 and 1 whose figures on test
images had been seen; figures of these two seeds are therefore no evidence, and the ledger's are of another seed.
"""

from . import common_diffusion as common
from .common import check_preset, schedule, task
from .common_knowledge import arms

_ADAM = {"optimizer": "adam", "clip": 10.0}
_NO_ECHO = {"method/echo_share": 0.0}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  check_preset(preset, presets())
  sites = ("block0", "block1", "block2")
  own = {"name": "echo_distill", "perceptual_sites": sites, "echo_start": 600}
  config = common.students("echo_distill", own, "digits")
  config.task, config.seeds, config.validation_size = task("concept", prior_size=100, judge="concept_frechet"), 5, 200
  config.teacher_method = common.method("edm", drop_condition=0.1)  # features are asked for without a condition
  config.start_method = common.method("dmd2", ratio=5, conditions=9)
  config.start_train = schedule(epochs=1000, batch_size=100, lr=3e-4, schedule="constant", **_ADAM)
  config.train = schedule(epochs=300, batch_size=50, lr=3e-4, schedule="constant", **_ADAM)
  no_adversarial = _NO_ECHO | {"method/adversarial_weight": 0.0}
  sequential = _NO_ECHO | {"method/order": "sequential", "method/teacher_steps": 1200, "train/epochs": 600}
  controls = {
    "joint": _NO_ECHO,
    "no_adversarial": no_adversarial,
    "sequential": sequential,
    "sequential_plain": no_adversarial | sequential,
    "direct": _NO_ECHO | {"method/order": "direct"},
    "token": _NO_ECHO | {"method/order": "token"},
    "before": _NO_ECHO | {"method/order": "token", "train/epochs": 1, "train/lr": 1e-9},
    "echo_teacher": {"method/sampled": "teacher"},
    "joint_teacher": _NO_ECHO | {"method/sampled": "teacher"},
  }
  arms(config, controls)
  config.reference = "sequential"
  return _tiny(config) if preset == "tiny" else config


def _tiny(config: common.ConfigDict) -> common.ConfigDict:
  """Seconds; the figures mean nothing."""
  common.tiny(config)
  config.dataset, config.train_size, config.test_size, config.validation_size = "digits", 300, 120, 100
  config.task = task("concept", concepts=("9", "3_inverted"), repeats=4, prior_size=20, draws=20)
  config.method.perceptual_sites, config.method.echo_start = ("block0",), 1
  return config
