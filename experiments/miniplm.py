"""MiniPLM: Knowledge Distillation for Pre-Training Language Models (arXiv 2410.17215).

python -m jdistill.run --config=experiments/miniplm.py             generated text of mixed quality; minutes on two cores
python -m jdistill.run --config=experiments/miniplm.py:text        Python's reference, where the effect is small
python -m jdistill.run --config=experiments/miniplm.py:paper --config.dataset=FILE.txt --dry_run

The teacher has rows of its own. Of the others 40 % are four lines over and over, 40 % have a structure (Dyck-2 and
additions), 20 % are uniform noise. A reference is trained on 5 % that are set aside; of the rest the half with the
greatest `loss_ref - loss_teacher` is kept, and students see nothing else. `nats` is the loss on held-out structured
text. All arms but `all_data`, which goes over everything once, take the same number of updates, so that students cost
the same; `vanilla_kd` takes the fraction `3 n_s / (3 n_s + n_t)` of them, which with its teacher costs as much. Expect
MiniPLM to keep structured text and to be below a random half; the likeliest to the teacher are repeats, the hardest to
the reference noise. In the paper a student of 500M parameters has a mean accuracy of 44.8, against 43.2 without
distillation and 43.6 with vanilla KD.

The preset `paper` has the sizes of Qwen1.5 1.8B, of the reference of 104M and of a student of 500M parameters, and the
schedule for the latter, with bytes: for planning.
"""

from typing import Any

from jdistill.selection import flops_matched_steps

from . import common_language as common

BATCH, EPOCHS = 32, 1
POOL, KEPT = 19000, 0.48  # of 20,000 rows; 9,120 are kept, 285 batches


def _arms(steps: int, matched: int) -> dict[str, dict[str, Any]]:
  """The controls: every one but `vanilla_kd` takes about `steps` updates."""
  full = -(-POOL // BATCH)
  return {
    "random": {"select/name": "random"},
    "teacher_likelihood": {"select/name": "teacher_likelihood"},
    "reference_loss": {"select/name": "reference_loss"},
    "all_data": {
      "select/name": "random",
      "select/fraction": 1.0,
      "train/epochs": max(1, round(steps / full)),
    },
    "vanilla_kd": {
      "method/name": "fkl",
      "select/name": "random",
      "select/per_class": matched * BATCH,
      "train/epochs": 1,
    },
  }


def presets() -> list[str]:
  """The names after the colon."""
  return ["mixed", "text", "paper", "tiny"]


def get_config(preset: str = "mixed") -> common.ConfigDict:
  """The experiment; `preset` is `mixed`, `text`, `paper` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("miniplm", {"name": "sft"})
  config.subject, config.reference, config.seeds = "miniplm", "random", 5
  config.dataset, config.train_size, config.validation_size, config.test_size = "mixed_quality", 20000, 64, 128
  config.task = common.task("domains", context=64, teacher_size=4000, scored="structured")
  config.teacher = common.network("decoder", width=128, depth=3, heads=4, context=64)
  config.student = common.network("decoder", width=64, depth=2, heads=4, context=64)
  config.proxy = common.network("decoder", width=32, depth=1, heads=2, context=64)
  config.targets.source = "online"
  adam = {"optimizer": "adamw", "batch_size": BATCH, "clip": 1.0, "weight_decay": 0.01}
  config.teacher_train = common.schedule(epochs=6, lr=0.002, warmup_epochs=1.0, **adam)
  # a reference that knows its rows by heart is too sure of noise, and would call it learnable: 1,000 rows, few epochs
  config.proxy_train = common.schedule(epochs=5, lr=0.003, warmup_epochs=2.0, **adam)
  config.train = common.schedule(epochs=EPOCHS, lr=0.003, warmup_epochs=0.5, **adam)
  config.data_policy = common.policy("selected")
  config.select.name, config.select.fraction, config.select.reference = "miniplm", KEPT, 0.05
  kept_steps = -(-int(KEPT * POOL) // BATCH)
  steps = EPOCHS * kept_steps
  # parameters of the blocks, 12 w^2 a layer; heads and embeddings are small here
  matched = flops_matched_steps(12 * 64**2 * 2, 12 * 128**2 * 3, steps)
  common.arms(config, _arms(steps, matched))
  if preset == "text":
    _text(config)
  if preset == "paper":
    _paper(config)
  if preset == "tiny":
    _tiny(config)
  return config


def _text(config: common.ConfigDict) -> None:
  """As many rows of an ordinary text, as bytes."""
  config.dataset, config.train_size, config.validation_size, config.test_size = "python", 4000, 96, 96
  config.task = common.task("language", context=64)


def _paper(config: common.ConfigDict) -> None:
  """One epoch of half a corpus in its order, 512 rows of 1,024 tokens a step, 100,000 steps for a student of 500M."""
  config.dataset, config.train_size, config.validation_size, config.test_size = "pile.txt", None, 512, 512
  config.seeds, config.task = 1, common.task("language", context=1024)
  sizes = {"context": 1024, "tied": True, "remat": True}
  config.teacher = common.network("decoder", width=2048, depth=24, heads=16, hidden=5504, **sizes)
  config.student = common.network("decoder", width=1024, depth=24, heads=16, hidden=2816, **sizes)
  config.proxy = common.network("decoder", width=512, depth=8, heads=8, hidden=1408, **sizes)
  adam = {"optimizer": "adamw", "batch_size": 512, "clip": 1.0, "weight_decay": 0.01, "precision": "bfloat16"}
  config.teacher_train = common.schedule(epochs=1, lr=3e-4, **adam)
  config.proxy_train = common.schedule(epochs=1, lr=6e-4, final_lr=6e-5, **adam)
  config.train = common.schedule(epochs=1, lr=3e-4, final_lr=3e-5, warmup_epochs=0.02, **adam)
  config.select.fraction, config.data_policy.shuffled = 0.5, False
  arms = _arms(1, 1)
  del arms["all_data"], arms["vanilla_kd"]["select/per_class"]
  arms["vanilla_kd"]["select/fraction"] = 0.45 * 0.5  # 45,000 of 100,000 steps, of the paper's table
  common.arms(config, arms)


def _tiny(config: common.ConfigDict) -> None:
  own = config.task
  common.tiny(config)
  config.dataset, config.task = "mixed_quality", own
  config.train_size, config.validation_size, config.test_size = 80, 4, 4
  config.task.teacher_size = 40
  config.task.context = config.teacher.context = config.student.context = 24
  config.proxy = common.network("decoder", width=8, depth=1, heads=2, context=24)
  config.proxy_train = common.schedule(epochs=2, batch_size=4)
  config.train.batch_size = config.teacher_train.batch_size = 16
