"""The report of stage `orders`: estimates beside real trainings, curricula, positions, and what all of it cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.files import format_bytes
from jdistill.reporting import Section, comparison, curves, mean_std, units
from jdistill.runs.run import Run
from jdistill.stages.stage import Part

_METRIC = "r"
_SHOWN = ("r", "spearman", "error", "constant_error", "relative_error", "own_r", "test_r")
_CHOSEN = {
  "found": "the search by estimates",
  "random_mean": "the mean random order",
  "true_search": "the best of as many real trainings",
  "easy_to_hard": "easy to hard",
}


def part(run: Run, found: Mapping[str, Any]) -> Part:
  """Summary, table, verdict and sections."""
  c = run.config
  reference = c["reference"] or next(label for label in [*c["order"][1:], *c["order"]])
  compared = comparison.compare({label: found[label] for label in c["order"]}, _METRIC, reference, higher=True)
  for cell in compared.values():
    cell |= cell.pop("figures", {})
    for name in ("arm", "files"):
      cell.pop(name, None)
  whole = {label: cell for label, cell in compared.items() if "failed" not in cell}
  own = {label: _only(cell, _SHOWN) if "failed" not in cell else cell for label, cell in compared.items()}
  table = comparison.table(own, _METRIC, reference)
  said = comparison.verdict(compared, run.subject, reference, _METRIC, True)
  how = c["arms"][c["order"][0]]["orders"]
  text = (
    f"{said}.\n\nMean ± standard deviation over {c['seeds']} seeds. r and spearman: correlation over {how['compared']} "
    "random orders between the test loss that was estimated and that of a real training. error: mean absolute "
    "difference of the two; constant_error: the same of a guess that is the reference's loss for all orders. "
    "relative_error: distance of estimated from real parameters, in units of the distance of the real ones from the "
    "reference. own_r, test_r: correlation over the positions of one batch, of the loss on this batch and on the test "
    "examples. Seeds are paired: batches, orders and first parameters are the same in every arm."
  )
  sections = [Section("Result", text, table, _figures(run, whole)), _curricula(whole, c["seeds"]), _cost(whole)]
  summary = {label: _lean(cell) for label, cell in compared.items()}
  lines = [_gain(label, cell) for label, cell in whole.items() if label == run.subject]
  return Part(
    {"metric": _METRIC, "higher_is_better": True, "reference": reference, "arms": summary}, table, said, lines, sections
  )


def _only(cell: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
  return {**cell, "scores": {name: cell["scores"][name] for name in names if name in cell["scores"]}}


def _lean(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Without the curves, but with the orders that were found."""
  if "curves" not in cell:
    return dict(cell)
  return {name: value for name, value in cell.items() if name != "curves"} | {
    "orders": [curve["order"] for curve in cell["curves"]]
  }


def _gain(label: str, cell: Mapping[str, Any]) -> str:
  scores = cell["scores"]
  gap, half_width = comparison.paired_difference(scores["found"], scores["random_mean"])
  text = comparison.gap_text({"difference": gap, "half_width": half_width})
  what = "the order of the search less the mean random order, lower is better"
  return f"{label}: {what}: {text} test nats (95% interval of seeds)"


def _curricula(cells: Mapping[str, Any], seeds: int) -> Section:
  """Orders by how they were chosen, in real trainings."""
  rows = [[label, *(mean_std(cell["scores"][name], 4) for name in _CHOSEN)] for label, cell in cells.items()]
  text = (
    f"Test loss of real trainings, mean ± standard deviation over {seeds} seeds. Searches choose by validation loss: a "
    "genetic one by estimates, and the best of as many real trainings in random orders. Easy to hard sorts batches by "
    "their loss after the reference."
  )
  return Section("Curricula", text, (["arm", *_CHOSEN.values()], rows))


def _cost(cells: Mapping[str, Any]) -> Section:
  rows = []
  for label, cell in cells.items():
    work = cell["flops"]
    rows.append(
      [
        label,
        units.amount(work["reference"], "FLOP"),
        units.amount(work["estimate"], "FLOP") if work["estimate"] else "none",
        units.amount(work["training"], "FLOP"),
        f"{work['estimate'] / work['training']:.2f}",
        f"{1e3 * cell['per_estimate']:.1f}",
        f"{1e3 * cell['per_training']:.1f}",
        format_bytes(cell["bytes"]),
      ]
    )
  headers = ["arm", "reference", "an estimate", "a training", "estimate / training", "ms", "ms of a training", "kept"]
  text = (
    "Multiplications and additions of matrix products. An exact product with second derivatives costs more than the "
    "gradient of a real training, so these estimates answer questions about a training and do not save one; with "
    "stored gradients an order costs no gradient. Times are those of one order where eight are computed together."
  )
  return Section("Cost", text, (headers, rows))


def _figures(run: Run, cells: Mapping[str, Any]) -> list[tuple[str, Path]]:
  """The first seed: orders sorted by their real loss, and one batch at every position."""
  if not cells:
    return []
  first = next(iter(cells.values()))["curves"][0]
  ranked = np.argsort(first["true"])
  series = {"real training": (range(len(ranked)), np.asarray(first["true"])[ranked])}
  series |= {
    label: (range(len(ranked)), np.asarray(cell["curves"][0]["guessed"])[ranked]) for label, cell in cells.items()
  }
  path = run.workdir / "curves" / "orders.png"
  curves(path, series, "test loss, nats", xlabel="random orders, the best first")
  out = [("real and estimated loss of every order, first seed", path)]
  if "moved_own" not in first:
    return out
  steps = len(first["order"])
  series = {"real training": (range(steps), first["moved_own"][0][:steps])}
  series |= {label: (range(steps), cell["curves"][0]["moved_own"][1][:steps]) for label, cell in cells.items()}
  path = run.workdir / "curves" / "positions.png"
  curves(path, series, "loss on the batch, nats", xlabel="position of the batch")
  return [*out, ("memorisation: the loss on one batch by its position, first seed", path)]
