"""Which source to distil from: the same questions, answered rightly in several styles (arXiv 2505.14464, 2508.09883).

python -m jdistill.run --config=experiments/sources.py                              equal questions
python -m jdistill.run --config=experiments/sources.py:tokens                       equal tokens
python -m jdistill.run --config=experiments/sources.py --config.task.digits=3 --config.student.context=96

Programs stand in the place of teachers: all answer the same additions, all answers are verified, and their traces
differ. One student is trained on each source with the same recipe and seeds, and judged by what it writes: exact match
of the answer, whatever the style. The source is thus chosen by its student and not by its own score, which is 1 for
all: the smoke test of DED. `mixed` takes the answer of a random source for each question. Expect gaps of tens of points
from style alone; longer traces are more tokens, which the preset `tokens` makes equal.
"""

from . import common_knowledge
from . import common_language as common

STYLES = ("answer", "carry_first", "verbose", "shuffled", "distracting", "mixed")


def presets() -> list[str]:
  """The names after the colon."""
  return ["samples", "tokens", "tiny"]


def get_config(preset: str = "samples"):
  """The experiment; `preset` is `samples`, `tokens` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("sources", {"name": "sources"})
  config.dataset, config.subject, config.reference = "addition", "steps", "mixed"
  config.train_size, config.validation_size, config.test_size = 2000, 200, 400
  config.task = common.task("traces", source="steps", digits=2, questions=4000)
  config.task.equal = "tokens" if preset == "tokens" else "samples"
  config.student = common.network("decoder", width=48, depth=2, heads=4, context=64)
  config.train.update({"epochs": 40, "batch_size": 64, "lr": 0.003})
  config = common_knowledge.arms(config, {style: {"task/source": style} for style in STYLES})
  return _tiny(config) if preset == "tiny" else config


def _tiny(config):
  """Cuts the comparison down to seconds. The figures mean nothing."""
  config.seeds, config.train_size, config.validation_size, config.test_size = 2, 40, 8, 8
  config.task.update({"digits": 1, "questions": 80})
  config.student = common.network("decoder", width=8, depth=1, heads=1, context=40)
  config.train.update({"epochs": 2, "batch_size": 20})
  return common_knowledge.arms(config, {style: {"task/source": style} for style in ("answer", "mixed")})
