"""FUT: Estimating the Effects of Sample Training Orders for LLMs without Retraining (arXiv 2505.22042).

python -m jdistill.run --config=experiments/fut.py                             Python's reference; minutes
python -m jdistill.run --config=experiments/fut.py --config.orders.lr=0.01     where the expansion is less good
python -m jdistill.run --config=experiments/fut.py --config.dataset=FILE.txt   a text

One reference training of 32 batches; the losses of 24 random orders are estimated and compared with real trainings, and
a genetic search looks for a good order by estimates. Expect r near 1 for the first-order expansion with propagated
moments, and less for the moments of the reference, which the paper's formula reads like. With stored gradients an order
costs no gradient; the elementwise quotients that this needs cost accuracy. `mixed` keeps 8 mixtures instead of 32
gradients a position, the ratio that the paper's figures of storage suggest (unverified).
"""

from . import common_orders as common

CONTROLS = {**common.CONTROLS, "fut_plus_plus": {"method/name": "fut_plus_plus"}}


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text"):
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "fut"}, CONTROLS)
