"""SeqKD: Sequence-Level Knowledge Distillation (arXiv 1606.07947), with samples in the place of the beam.

python -m jdistill.run --config=experiments/seq_kd.py                            Python's reference
python -m jdistill.run --config=experiments/seq_kd.py --config.dataset=FILE.jsonl --config.method.prompt=0   records

The teacher continues the beginning of a document of every row once; students learn these texts by cross entropy.
`greedy` has its likeliest tokens, `word` half of the loss by the teacher's distributions on the same texts. `fkl` has
the teacher's distributions on the data, `sft` the data alone. On a text of high entropy word-level distillation should
have the lower loss on held-out text: one sample says less than a distribution, and greedy texts are all of one kind.
"""

from . import common_language as common

CONTROLS = {
  "greedy": {"method/sampling_temperature": 0.0, "method/unfinished": "keep"},
  "word": {"method/word_share": 0.5},
  "fkl": common.FKL,
  "sft": common.SFT,
}


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  own = {"name": "seq_kd", "prompt": 16, "max_new": 96, "unfinished": "keep"}
  config = common.experiment(preset, own, CONTROLS)
  config.targets.source = "online"
  if preset == "tiny":
    config.method.prompt, config.method.max_new = 4, 8
  return config
