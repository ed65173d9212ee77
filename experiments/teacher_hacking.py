"""Teacher hacking: On Teacher Hacking in Language Model Distillation (arXiv 2502.02671).

python -m jdistill.run --config=experiments/teacher_hacking.py                       a Markov source; minutes
python -m jdistill.run --config=experiments/teacher_hacking.py:few                   16 prompts
python -m jdistill.run --config=experiments/teacher_hacking.py --config.dataset=markov:order=2,length=20,prompt=8,seed=1
python -m jdistill.run --config=experiments/teacher_hacking.py:t5 --config.dataset=FILE.jsonl --dry_run

The oracle is a Markov source whose probabilities are known. The teacher and the students' start are trained on records
of it; then students learn from the teacher on other prompts, by the forward KL. `offline` has one response of the
teacher to each prompt, `offline5` five, `online` (the arm of the subject) a new one in every update, `student` those of
the student itself, `oracle` those of the oracle. `golden`, the metric, is the divergence of the oracle from the student
and `proxy` that of the teacher, both on held-out prompts; the report has their curves and says in how many seeds golden
rises while proxy falls, and where the proxy leaves its power law.

Expect `golden` of `offline` above that of `online` in every seed. With 64 prompts it falls to the end in both (a rise
of the whole curve needs few prompts, many epochs and a good start: `few`). `--config.dataset` with another `seed` has
another oracle.

`t5` has the schedule of the paper's table (390,625 updates on batches of 32, its data sets and T5 models replaced by
records of one's own and new decoders of about their sizes); there no oracle is known, and the score is the loss.
"""

from . import common_knowledge
from . import common_language as common
from .common import ConfigDict, policy

_SFT = 600  # records that teacher and students are trained on at first
_ARMS = {
  "offline": {"method/responses": 1},
  "offline5": {"method/responses": 5},
  "student": {"method/source": "student"},
  "oracle": {"method/source": "data"},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["markov", "few", "tiny", "t5"]


def get_config(preset: str = "markov") -> ConfigDict:
  """The experiment; `preset` is `markov`, `few`, `tiny` or `t5`."""
  common.check_preset(preset, presets())
  own = {"name": "teacher_hacking", "source": "teacher", "max_new": 13}
  config = common.students("teacher_hacking", own)
  config.subject = "online"
  common_knowledge.arms(config, _ARMS)
  config.reference, config.targets.source, config.start_method = "offline", "online", common.method("sft")
  if preset == "t5":
    return _t5(config)
  prompts = 16 if preset == "few" else 64
  config.dataset, config.seeds = "markov:order=2,length=20,prompt=8", 5
  config.task = common.task("oracle")
  config.train_size, config.validation_size, config.test_size = _SFT + prompts, 128, 256
  config.teacher_data_policy, config.start_data_policy = (policy("span", count=_SFT) for _ in range(2))
  config.data_policy = policy("span", skip=_SFT)
  config.teacher = common.network("decoder", width=64, depth=2, heads=4, context=24)
  config.student = common.network("decoder", width=48, depth=1, heads=4, context=24)
  adam = {"optimizer": "adamw", "batch_size": 16, "clip": 1.0, "weight_decay": 0.0, "schedule": "constant"}
  config.teacher_train = common.schedule(epochs=12, lr=0.002, **adam)
  config.start_train = common.schedule(epochs=4, lr=0.003, **adam)
  config.train = common.schedule(epochs=24_000 // prompts, lr=0.001, **adam)
  config.score_every = 25
  return _tiny(config) if preset == "tiny" else config


def _tiny(config: ConfigDict) -> ConfigDict:
  """Seconds; the figures mean nothing."""
  config.dataset, config.seeds = "markov:symbols=4,order=1,length=8,prompt=4,documents=500", 2
  config.train_size, config.validation_size, config.test_size, config.method.max_new = 40, 12, 12, 5
  config.teacher = common.network("decoder", width=16, depth=1, heads=2, context=10)
  config.student = common.network("decoder", width=8, depth=1, heads=2, context=10)
  for section in (config.teacher_data_policy, config.start_data_policy):
    section["count"] = 24
  config.data_policy["skip"] = 24
  for section in (config.teacher_train, config.start_train, config.train):
    section.epochs, section.batch_size = 2, 8
  config.train.epochs, config.score_every = 5, 1
  for arm in ("offline5", "oracle"):
    del config.arms[arm]
  config.order = tuple(name for name in config.order if name not in ("offline5", "oracle"))
  return config


def _t5(config: ConfigDict) -> ConfigDict:
  config.dataset, config.task = "xsum.jsonl", common.task("language", context=1152, too_long="drop")
  config.train_size, config.validation_size, config.test_size, config.method.max_new = None, 512, 512, 128
  config.seeds = 1
  config.teacher = common.network("decoder", width=1024, depth=24, heads=16, context=1152)
  config.student = common.network("decoder", width=768, depth=12, heads=12, context=1152)
  adam = {"optimizer": "adamw", "batch_size": 32, "lr": 3e-4, "weight_decay": 0.0, "schedule": "constant"}
  config.teacher_train = common.schedule(epochs=4, **adam)
  config.start_train = common.schedule(epochs=4, **adam)
  config.train = common.schedule(epochs=62, **adam)
  return config
