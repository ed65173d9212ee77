"""FUT: Estimating the Effects of Sample Training Orders for LLMs without Retraining (arXiv 2505.22042).

python -m jdistill.run --config=experiments/fut.py                             Python's reference; minutes
python -m jdistill.run --config=experiments/fut.py --config.orders.lr=0.01     where the expansion is less good
python -m jdistill.run --config=experiments/fut.py --config.dataset=FILE.txt   a text

One reference training of 32 batches; the losses of 24 random orders are estimated and compared with real trainings, and
a genetic search looks for a good order by estimates. Expect r near 1 for the first-order expansion with propagated
moments, and less for the moments of the reference, which the paper's formula reads like. The paper's elementwise
quotients are worse than none. `stored` keeps the gradients of all pairs for the zeroth order, which then costs nothing
for an order. `mixed` keeps 8 mixtures instead of 32 gradients a position, as the paper's figures of storage suggest
(unverified): the error of a recovered gradient is about twice the gradient.
"""

from . import common_orders as common

CONTROLS = {**common.CONTROLS, "fut_plus_plus": {"method/name": "fut_plus_plus"}}


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text"):
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "fut"}, CONTROLS)
