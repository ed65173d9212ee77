"""Mistakes in an experiment of knowledge distillation: one line with key, value and cure, and nothing is written."""

import importlib
import io

import pytest

from jdistill import run
from jdistill.base import UserError

KD = {"method/name": "kd"}
CACHED = ("targets.source", "cached")

# name -> experiment (kd where none is named), what is changed, and what the line must say
CASES = {
  "an unknown key": ([("sead", 1)], ["sead=1: unknown key", "'seed'"]),
  "an unknown key of a section": ([("train.epoch", 1)], ["train.epoch=1: unknown key", "'epochs'"]),
  "an unknown option of the method": ([("method.temprature", 1.0)], ["method.temprature=1.0", "'temperature'"]),
  "a missing section": ([("method", None)], ["method: missing"]),
  "a value for a section": ([("targets", 3)], ["targets=3: must be a section"]),
  "a method without a name": ([("method", {})], ["method.name=None: unknown"]),
  "an unknown method": ([("method.name", "kdd")], ["method.name='kdd': unknown", "'kd'"]),
  "an unknown method of an arm": (
    [("arms.ce", {"method/name": "kdd"})],
    ["arms.ce: method.name='kdd': unknown", "'kd'"],
  ),
  "a method of another family": (
    [("arms.ce", {"method/name": "datm"})],
    ["arms.ce: method.name='datm': unknown"],
  ),
  "an arm's unknown section": ([("arms.ce", {"metod/name": "ce"})], ["arms.ce.metod/name='ce'", "method/KEY"]),
  "an arm's path without a key": ([("arms.ce", {"method": "ce"})], ["arms.ce.method='ce'", "method/KEY"]),
  "an arm's unknown key": ([("arms.ce", {"train/epoch": 3})], ["arms.ce: train.epoch=3: unknown key", "'epochs'"]),
  "an arm that is a word": ([("arms.ce", "ce")], ["arms.ce='ce'", "method/temperature"]),
  "a control with the method's name": ([("arms.kd", KD)], ["arms.kd", "own arm"]),
  "no temperature": ([("method.temperature", 0.0)], ["method.temperature=0.0: must be above 0"]),
  "an arm's negative temperature": (
    [("arms.ce", KD | {"method/temperature": -1})],
    ["arms.ce: method.temperature=-1.0: must be above 0"],
  ),
  "a grid with no temperature": (
    [("tune", {"kd": {"method/temperature": (1.0, 0.0)}})],
    ["tune.kd: method.temperature=0.0: must be above 0"],
  ),
  "a negative weight": ([("method.kd_weight", -1.0)], ["method.kd_weight=-1.0: must be at least 0"]),
  "too much smoothing": (
    [("arms.ce", {"method/name": "ce", "method/label_smoothing": 1.5})],
    ["arms.ce: method.label_smoothing=1.5: must be at most 1"],
  ),
  "a word for a number": (
    [("arms.ce", {"method/name": "ce", "method/label_smoothing": "much"})],
    ["arms.ce: method.label_smoothing='much': must be of type float"],
  ),
  "a stored teacher that is not there": (
    [("teachers.stored", "/nowhere/teacher")],
    ["teachers.stored='/nowhere/teacher': no teacher there", "artefacts/teachers"],
  ),
  "a stored teacher among several": (
    [("teachers.stored", "x"), ("teachers.count", 2)],
    ["teachers.stored='x': stands alone", "count=1"],
  ),
  "an unknown teacher of the committee": (
    [("committee", {"wide": {"teacher/widths": (9,)}}), ("teachers.also", ("wode",))],
    ["teachers.also=['wode']: no teacher 'wode' in committee", "'wide'"],
  ),
  "a teacher of no committee": ([("teachers.also", ("wide",))], ["no teacher 'wide'", "which is empty"]),
  "a committee that sets a method": (
    [("committee", {"wide": {"method/name": "ce"}})],
    ["committee.wide.method/name='ce'", "teacher/KEY"],
  ),
  "a committee's unknown option": (
    [("committee", {"wide": {"teacher/width": 3}})],
    ["committee.wide: teacher.width=3", "'widths'"],
  ),
  "a teacher without logits": (
    [("teacher_method.name", "barlow_twins")],
    ["teacher_method.name='barlow_twins'", "learns features and no logits", "choose 'ce'"],
  ),
  "a teacher that needs one": ([("teacher_method.name", "kd")], ["teacher_method.name='kd'", "choose 'ce'"]),
  "no teachers": ([("teachers.count", 0)], ["teachers.count=0: must be at least 1"]),
  "an unknown source": ([("targets.source", "cache")], ["targets.source='cache': unknown", "'cached'"]),
  "the greatest logits online": ([("targets.top_k", 3)], ["targets.top_k=3", "targets.source='cached'"]),
  "as many greatest logits as classes": ([CACHED, ("targets.top_k", 10)], ["targets.top_k=10", "1..9"]),
  "stored targets of other pixels": (
    [CACHED, ("train.augment", "crop_flip")],
    ["targets.source='cached'", "train.augment='crop_flip'", "'online'"],
  ),
  "stored targets of other views": (
    "lad",
    [CACHED],
    ["lad: targets.source='cached'", "shows its teacher other inputs", "'online'"],
  ),
  "stored targets without maps": ("fitnets", [CACHED], ["fitnets: tap='block1'", "targets.source='online'"]),
  "cut targets without embeddings": (
    "rkd",
    [CACHED, ("targets.top_k", 3)],
    ["rkd: targets.top_k", "without embeddings", "targets.top_k=None"],
  ),
  "a tap that is not there": (
    "fitnets",
    [("method.tap", "block9")],
    ["fitnets: tap='block9'", "block0, block1, embedding"],
  ),
  "a batch of one for relations": ("rkd", [("train.batch_size", 1)], ["rkd: ", "at least 2 examples", "got 1"]),
  "a batch of one for correlations": ("dist", [("train.batch_size", 1)], ["dist: ", "at least 2 examples", "got 1"]),
  "options that do not go together": (
    "kd3",
    [("data_policy.select", "best")],
    ["data_policy.select='best'", "classwise"],
  ),
  "a warm-up as long as training": (
    [("train.warmup_epochs", 3.0)],
    ["train.warmup_epochs=3.0: must be below epochs=3"],
  ),
  "steps without milestones": ([("train.schedule", "step")], ["train.milestones=()"]),
  "a milestone that is a word": (
    [("train.schedule", "step"), ("train.milestones", ("late",))],
    ["train.milestones='late': must be of type float"],
  ),
  "a milestone before the start": (
    [("teacher_train.schedule", "step"), ("teacher_train.milestones", (0,))],
    ["teacher_train.milestones=0.0: must be above 0"],
  ),
  "no rate": ([("train.lr", 0.0)], ["train.lr=0.0: must be above 0"]),
  "an unknown precision": ([("train.precision", "float16")], ["train.precision='float16'", "'bfloat16'"]),
  "an unknown augmentation": ([("train.augment", "flop")], ["'flop'", "flip"]),
  "too much averaging": ([("train.ema_decay", 1.5)], ["train.ema_decay=1.5: must be at most 1"]),
  "an unknown phase before": ([("start_method.name", "kdd")], ["start_method.name='kdd': unknown", "'kd'"]),
  "a phase before without epochs": (
    [("start_method.name", "kd"), ("start_train.epochs", 0)],
    ["start_train.epochs=0: must be at least 1"],
  ),
  "an unknown network": ([("student.name", "mpl")], ["student.name='mpl': unknown", "'mlp'"]),
  "an option of another network": ([("student.width", 3)], ["student.width=3: mlp has no such option", "'widths'"]),
  "an unknown task": ([("task.name", "supervise")], ["task.name='supervise'", "'supervised'"]),
  "fewer examples than classes": ([("task.student_size", 5)], ["task.student_size=5", "at least 10"]),
  "all examples held out": ([("validation_size", 200)], ["validation_size=200", "200 training images"]),
  "an unknown reference": ([("reference", "cee")], ["reference='cee': no such arm", "'ce'"]),
  "an order without an arm": ([("order", ("kd",))], ["order=['kd']", "['ce', 'kd'] once"]),
  "a grid of no arm": ([("tune", {"kdd": {"method/temperature": (1.0,)}})], ["tune.kdd: no such arm", "'kd'"]),
  "a grid without values": ([("tune", {"kd": {"method/temperature": ()}})], ["tune.kd.method/temperature: empty"]),
  "a grid without keys": ([("tune", {"kd": {}})], ["tune.kd: empty"]),
  "a grid's path without a section": ([("tune", {"kd": {"temperature": (1.0,)}})], ["tune.kd.temperature=1.0"]),
  "a search over teachers": (
    [("tune", {"kd": {"teacher/widths": ((3,), (4,))}})],
    ["tune.kd.teacher/widths", "not searched"],
  ),
  "a search over how many": (
    [("tune", {"kd": {"teachers/count": (1, 3)}})],
    ["tune.kd.teachers/count", "not searched"],
  ),
  "a prediction that the schedule has not": (
    "dmd2",
    [("student.prediction", "flow")],
    ["dmd2: student: prediction='flow': is defined for alpha + sigma = 1", "'edm'", "x0, eps, score"],
  ),
  "guidance of samples without conditions": (
    "edm",
    [("method.guidance", 3.0)],
    ["edm: guidance=3: the denoiser has no conditions", "set it to 1"],
  ),
  "guidance of a teacher's samples without conditions": (
    "edm",
    [("teacher_method.guidance", 3.0)],
    ["teacher: guidance=3: the denoiser has no conditions", "set it to 1"],
  ),
  "guidance by a teacher without conditions": (
    "dmd2",
    [("method.teacher_guidance", 2.0)],
    ["dmd2: guidance=2: the denoiser has no conditions", "set it to 1"],
  ),
  "a student of other times than its teacher's": (
    "dmd2",
    [("student.t_max", 10.0)],
    ["dmd2: student.schedule: edm from 0.02 to 10", "from 0.02 to 20", "give both the same"],
  ),
  "a student of another size that is to begin as its teacher": (
    "dmd2",
    [("student.widths", (8, 8))],
    ["dmd2: method.student_start='teacher'", "choose 'random', or a start_method such as 'tsm'"],
  ),
  "a precision that an update of its own does not look at": (
    "dmd2",
    [("train.precision", "bfloat16")],
    ["dmd2: precision='bfloat16': the method's update is its own", "set it to 'float32'"],
  ),
  "a precision that a teacher's update does not look at": (
    "dmd2",
    [("teacher_train.precision", "bfloat16")],
    ["teacher: precision='bfloat16': the method's update is its own", "set it to 'float32'"],
  ),
  "a sharpness that an update of its own does not look at": (
    "edm",
    [("train.rho", 0.1)],
    ["edm: rho: the method's update is its own", "set it to 0"],
  ),
  "steps that cannot be halved down to one": (
    "progressive",
    [("method.first_steps", 12)],
    ["method.first_steps=12: is no power of two", "1, 2, 4, 8"],
  ),
  "a sampler whose steps do not divide its teacher's": (
    "lsd",
    [("method.sampler_steps", 3)],
    ["method.sampler_steps=3: must divide the teacher's 8"],
  ),
  "more steps than there are levels": (
    "dmd2",
    [("method.sample_steps", 4000)],
    ["dmd2: method.sample_steps=4000: the process has 1000 levels", "lower it"],
  ),
  "a site of the critic that is not there": (
    "dmd2",
    [("method.gan_weight", 1.0), ("method.site", "foo")],
    ["dmd2: method.site='foo': the denoiser has no such site", "block0, bottleneck"],
  ),
  "more students than conditions": (
    "msd",
    [("method.student_count", 9)],
    ["msd: method.student_count=9: must be from 1 to the 8 conditions"],
  ),
  "students with unequal parts of the conditions": (
    "msd",
    [("method.student_count", 3)],
    ["msd: method.student_count=3: 8 conditions would be parts of 3, 3, 2", "divisor"],
  ),
  "a path that ends after the training": (
    "disback",
    [("method.node_steps", 1000)],
    ["disback: method.node_steps=1000: the teacher becomes the target after 1004 updates", "train longer"],
  ),
  "a path whose last node is not recorded": (
    "disback",
    [("method.record_steps", 1)],
    ["method.record_interval=2: must divide record_steps=1"],
  ),
  "an unknown stage": ([("stages", ("teecher",))], ["stages: unknown stage 'teecher'", "'teachers'"]),
  "stages out of order": ([("stages", ("report", "students"))], ["stages=", "must be in the order"]),
}


def change(config, path, value):
  """Sets a key as Python code would, whatever its type was."""
  *sections, last = path.split(".")
  with config.unlocked():
    for name in sections:
      config = config[name]
    if last in config:
      del config[last]
    config[last] = value


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_readable_line(tmp_path, name):
  *experiment, changes, words = CASES[name]
  config = importlib.import_module(f"experiments.{experiment[0] if experiment else 'kd'}").get_config("tiny")
  for path, value in changes:
    change(config, path, value)
  said = io.StringIO()
  with pytest.raises(UserError) as error:
    run.run_experiment(config, tmp_path / "work", stream=said)
  line = str(error.value)
  for word in words:
    assert word in line
  assert "\n" not in line and len(line) < 400 and said.getvalue() == ""
  assert list(tmp_path.iterdir()) == []


def test_the_command_line_names_unknown_keys_of_sections(refuse):
  kd = "--config=experiments/kd.py:tiny"
  complaint = refuse("--config.targets.top=3", config=kd)
  assert complaint.startswith("config.targets.top=3: unknown key") and "'targets.top_k'" in complaint
  assert "method.temperature=0.0: must be above 0" in refuse("--config.method.temperature=0", config=kd)
