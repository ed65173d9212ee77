"""DDK: Distilling Domain Knowledge for Efficient Large Language Models (arXiv 2407.16154).

python -m jdistill.run --config=experiments/ddk.py                 four generated domains; minutes on two cores
python -m jdistill.run --config=experiments/ddk.py:alike           four domains that are alike: weights should stay 1/4
python -m jdistill.run --config=experiments/ddk.py:paper --config.dataset=FILE.jsonl --dry_run

The teacher is trained well on an order-1 and an order-3 Markov source, Dyck-2 and additions of two digits, of which the
last two have 15 % of the rows each. Students first see hardly anything but the Markov sources (`start_*`), and so are
behind in two of four domains; then all arms take the same
number of updates of `CE + 0.2 KL`. Expect DDK to draw the lagging domains more often than equal sampling, and its
greatest `log(ppl_S / ppl_T)` to be the smallest. `max_log_ratio` and `mean_log_ratio` are the figures; `nats` is the
mean loss. In the paper (mean of three benchmarks) DDK has 57.46, without smoothing 56.56, with equal sampling 55.01.

The preset `paper` has the paper's schedule and the public sizes of Qwen1.5 14B and 1.8B, with new parameters and bytes:
for planning.
"""

from typing import Any

from . import common_language as common

INTERVAL, INTERVALS = 20, 12
SHARES = (0.35, 0.35, 0.15, 0.15)  # of the rows
START = (0.45, 0.45, 0.05, 0.05)  # what students have seen before
ARMS: dict[str, dict[str, Any]] = {
  "equal": {"data_policy/name": "mixture", "data_policy/draw": "equal", "data_policy/interval": INTERVAL},
  "natural": {"data_policy/name": "mixture", "data_policy/draw": "natural", "data_policy/interval": INTERVAL},
  "no_smoothing": {"data_policy/smooth": False},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["domains", "alike", "paper", "tiny"]


def get_config(preset: str = "domains") -> common.ConfigDict:
  """The experiment; `preset` is `domains`, `alike`, `paper` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("ddk", {"name": "fkl", "ce_weight": 1.0, "kd_weight": 0.2})
  config.subject, config.reference, config.seeds = "ddk", "equal", 5
  config.dataset = "alike_domains" if preset == "alike" else "four_domains"
  config.train_size, config.validation_size, config.test_size = 3000, 64, 128
  shares = () if preset == "alike" else SHARES
  config.task = common.task("domains", context=64, proportions=shares)
  config.teacher = common.network("decoder", width=96, depth=3, heads=4, context=64)
  config.student = common.network("decoder", width=48, depth=2, heads=4, context=64)
  config.targets.source = "online"
  adam = {"optimizer": "adamw", "batch_size": 32, "clip": 1.0, "weight_decay": 0.01}
  config.teacher_train = common.schedule(epochs=11, lr=0.003, warmup_epochs=1.0, **adam)
  config.start_method = common.method("sft")
  config.start_train = common.schedule(epochs=3, lr=0.003, warmup_epochs=0.5, **adam)
  config.start_data_policy = common.policy("mixture", draw="weights", weights=START, interval=50)
  config.train = common.schedule(epochs=INTERVALS, lr=0.002, warmup_epochs=0.5, **adam)
  config.data_policy = common.policy("ddk", interval=INTERVAL)
  common.arms(config, ARMS)
  if preset == "paper":
    _paper(config)
  if preset == "tiny":
    _tiny(config)
  return config


def _paper(config: common.ConfigDict) -> None:
  """30,000 updates of 128 rows of 4,096 tokens, about 15 billion tokens; the students of the paper are pre-trained."""
  config.dataset, config.train_size, config.validation_size, config.test_size = "domains.jsonl", None, 500, 500
  config.seeds, config.task = 1, common.task("domains", context=4096)
  config.teacher = common.network(
    "decoder", context=4096, width=5120, depth=40, heads=40, hidden=13696, tied=False, remat=True
  )
  config.student = common.network(
    "decoder", context=4096, width=2048, depth=24, heads=16, hidden=5504, tied=False, remat=True
  )
  adam = {"optimizer": "adamw", "batch_size": 128, "clip": 1.0, "weight_decay": 0.01, "precision": "bfloat16"}
  config.teacher_train = common.schedule(epochs=1, lr=3e-4, **adam)
  config.train = common.schedule(epochs=30, lr=3e-5, final_lr=3e-6, warmup_epochs=1.0, **adam)
  config.start_method = {"name": "none"}
  config.start_data_policy = common.policy("shuffle")
  config.data_policy.interval = 1000
  common.arms(config, ARMS)
  for label in ("equal", "natural"):
    config.arms[label]["data_policy/interval"] = 1000


def _tiny(config: common.ConfigDict) -> None:
  own = config.task
  common.tiny(config)
  config.dataset, config.task, config.task.proportions = "four_domains", own, ()
  config.train_size, config.validation_size, config.test_size = 60, 4, 4
  config.task.context = config.teacher.context = config.student.context = 24
  config.start_train.epochs, config.start_train.batch_size = 1, 8
  config.train.batch_size = config.teacher_train.batch_size = 8
  config.start_data_policy.interval = config.data_policy.interval = 3
  for arm in config.arms.values():
    if "data_policy/interval" in arm:
      arm["data_policy/interval"] = 3
