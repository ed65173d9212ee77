"""The page and the claims of `experiments/compare_compression.py`, from a finished sweep.

  python -m jdistill.run --config=experiments/compare_compression.py ... --workdir=runs/compression
  python -m benchmarks.compression_table --workdir=runs/compression --command="python -m jdistill.run ..."

Writes the tables of `docs/results/compare_compression.md`, of which the text below them stays, and all of
`compare_compression.json`. With `--name=compare_compression_cifar10` it is another page.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._tables import RESULTS, Runs, claim, commit_of, figures, interval, markdown, runs_of, write_page
from docs.claims import SHOWN, Claim
from experiments import compare_compression
from jdistill.files import format_bytes
from jdistill.reporting.comparison import paired_difference
from jdistill.stages.sets import ranking, split
from jdistill.stages.sweep import file_name

IPCS = {1: "one image per class", 5: "five images per class", 10: "ten images per class"}
KINDS = {"one_hot": "hard", "dbr": "DBR", "relabelled": "stored soft", "online": "online soft"}
METHODS = {"CV-DD": "cv_dd", "NRR-DD": "nrr_dd"}  # catalog rows of series that have other names
COMMITTEES = ("CV-DD", "INFER")  # whose labels are not those of the one teacher that controls have
_HEAD = """# Compression under one evaluator

    {command}

{data}
Three repetitions, each with its own teacher and recovery, and {seeds} fresh networks for each set. Every set is trained
on in as many updates with each of four kinds of labels: hard ones, mixed as the images are; two stored distances (DBR);
stored logits; the teacher's, asked in training. Figures are means over the repetitions, and behind them the differences
from random real images with the same kind of labels, paired by repetition, with Student's 95% interval, which with
three repetitions is wide. Bold ones exclude zero. The tables and the claims are written by `python -m
benchmarks.compression_table`.

CV-DD and INFER are labelled by committees. Their stored labels are compared with random images that have the labels of
the same committee; of their two other kinds of soft labels no difference is given. INFER, which makes more images of
the same budget, has as many fewer epochs; its random images have as many updates as it has.
"""


class Compared(NamedTuple):
  """A set with one kind of labels beside random images with the same kind."""

  mean: float
  difference: tuple[float, float] | None

  @property
  def side(self) -> int:
    """1 above random images, -1 below, 0 where the interval includes zero."""
    if self.difference is None or not abs(self.difference[0]) > self.difference[1]:
      return 0
    return int(np.sign(self.difference[0]))

  def __str__(self) -> str:
    if self.difference is None:
      return f"{self.mean:.3f}"
    gap = interval(*self.difference)
    return f"{self.mean:.3f} ({f'**{gap}**' if self.side else gap})"


def of_method(runs: Runs, group: str, name: str, kind: str) -> dict[int, float]:
  """What networks reach on a method's images with a kind of labels, by repetition."""
  return figures(runs.get((group, name), {}), "distilled" if kind == "relabelled" else f"distilled_{kind}")


def random_of(runs: Runs, group: str, name: str, kind: str) -> dict[int, float]:
  """The same of random images with the labels of the same teachers; empty where nobody trained on these."""
  first = runs[group, compare_compression.series()[0]]
  if name in COMMITTEES and kind != "one_hot":
    return figures(runs.get((group, name), {}), "random_relabelled") if kind == "relabelled" else {}
  return figures(first, f"random_{kind}")


def compared(own: Mapping[int, float], other: Mapping[int, float] | None) -> Compared:
  """The mean of a set, and its paired difference from another one."""
  shared = sorted(own.keys() & (other or {}).keys())
  if len(shared) < 2:
    return Compared(float(np.mean(list(own.values()))), None)
  gap = paired_difference([own[seed] for seed in shared], [other[seed] for seed in shared])
  return Compared(float(np.mean(list(own.values()))), gap)


def sets_of(runs: Runs, group: str) -> dict[str, dict[str, Compared]]:
  """All images of a group by name, with each kind of labels: methods, random images, selectors."""
  series = compare_compression.series()
  first = runs[group, series[0]]
  found: dict[str, dict[str, Compared]] = {}
  for name in series:
    for kind in KINDS:
      if own := of_method(runs, group, name, kind):
        found.setdefault(name, {})[kind] = compared(own, random_of(runs, group, name, kind))
  arms = next(iter(first.values()))["arms"]
  for images in dict.fromkeys(split(name)[0] for name in arms if split(name)[1] in KINDS):
    if images != "distilled":
      other = None if images == "random" else lambda kind: figures(first, f"random_{kind}")
      own = {kind: figures(first, f"{images}_{kind}") for kind in KINDS}
      found[images] = {kind: compared(own[kind], other and other(kind)) for kind in KINDS if own[kind]}
  return found


def _accuracies(found: Mapping[str, Mapping[str, Compared]]) -> str:
  rows = [[name, *(str(cells[kind]) if kind in cells else "" for kind in KINDS)] for name, cells in found.items()]
  return markdown(["images", *KINDS.values()], rows)


def verdict(found: Mapping[str, Mapping[str, Compared]]) -> str:
  """Which images beat random ones with which labels, in words."""
  lines = []
  for kind, words in KINDS.items():
    sides = {name: cells[kind].side for name, cells in found.items() if kind in cells and cells[kind].difference}
    text = [
      f"{what} {', '.join(names)}"
      for side, what in ((1, "above random images:"), (-1, "below:"), (0, "no difference shown:"))
      if (names := [name for name, own in sides.items() if own == side])
    ]
    lines += [f"- With {words} labels {'; '.join(text)}."] if text else []
  return "\n".join(lines)


def _mean(values: Mapping[int, float]) -> float:
  return float(np.mean(list(values.values())))


def _costs(runs: Runs, group: str, found: Mapping[str, Any]) -> str:
  """Bytes of labels, seconds of everything, and DD-Ranking's scores."""
  series, rows = compare_compression.series(), []
  first = runs[group, series[0]]
  for name in found:
    method = name in series
    own = runs[group, name] if method else first
    arms = {kind: f"{'distilled' if method else name}_{kind}" for kind in KINDS}
    arms["relabelled"] = "distilled" if method else f"{name}_relabelled"
    sizes = {kind: figures(own, arm, "label_bytes") for kind, arm in arms.items()}
    seconds = figures(own, arms["relabelled"], "label_seconds")
    took = {stage: np.mean([one["seconds"].get(stage, 0.0) for one in own.values()]) for stage in ("distill",)}
    chosen = _mean(figures(own, arms["relabelled"], "select_seconds"))
    row = [name, f"{took['distill']:.1f} s" if method else f"{chosen:.2f} s", f"{_mean(seconds):.1f} s"]
    row += [format_bytes(_mean(sizes[kind])) if sizes[kind] else "" for kind in KINDS]
    rows.append([*row, *(_ranking(runs, group, name) if method else ("", ""))])
  heads = ["images", "recovery or choice", "stored labels", *(f"bytes, {words}" for words in KINDS.values())]
  return markdown([*heads, "LRS", "ARS"], rows)


def _ranking(runs: Runs, group: str, name: str) -> list[str]:
  """DD-Ranking's scores by repetition; the first series has what others lack, and the random images of all but one."""
  first, found = runs[group, compare_compression.series()[0]], {}
  for seed, one in runs[group, name].items():
    images = () if name in COMMITTEES else ("random_relabelled", "random_relabelled_reaugmented")
    shared = {arm: first[seed]["arms"][arm] for arm in ("full_data", *images)} if seed in first else {}
    for key, values in ranking(dict(one["arms"]) | shared, "accuracy").items():
      found.setdefault(key, []).append(np.mean(values))
  return [
    f"{np.mean(found[key]):.3f}" if key in found else "" for key in ("label_robust_score", "augmentation_robust_score")
  ]


def claims_of(runs: Runs, groups: Mapping[str, int], page: str, command: str, commit: str | None) -> dict[str, Claim]:
  """Every method against random images, with stored soft labels and with hard ones."""
  found = {}
  for group, ipc in groups.items():
    for series in compare_compression.series():
      for kind, words in (("relabelled", "stored soft labels"), ("one_hot", "hard labels")):
        own, other = of_method(runs, group, series, kind), random_of(runs, group, series, kind)
        if len(own.keys() & other.keys()) < 2:
          continue
        name = f"{page}_{file_name(series)}_{kind}_ipc{ipc}".replace("-", "_")
        found[name] = claim(
          {series: own, f"random_{kind}": other},
          method=METHODS.get(series, series.lower()),
          ipc=ipc,
          name=name,
          statement=f"At {IPCS[ipc]} the images of {series} are above random real images, both with {words}.",
          command=command,
          commit=commit,
          note="Three repetitions; the same teachers, batches and updates for both.",
        )
  return found


def main(arguments: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--command", required=True, help="that made the work directory")
  parser.add_argument("--name", default="compare_compression", help="of the page")
  parser.add_argument("--data", default="scikit-learn's digits, 1,297 training and 500 test images.", help="in words")
  given = parser.parse_args(arguments)
  groups = {f"IPC {ipc}": ipc for ipc in IPCS}
  runs = runs_of(given.workdir, groups, compare_compression.series())
  groups = {group: ipc for group, ipc in groups.items() if any(key[0] == group for key in runs)}
  claims = claims_of(runs, groups, given.name, given.command, commit_of(given.workdir))
  arms = next(iter(next(iter(runs.values())).values()))["arms"]
  seeds = len(next(iter(arms.values()))["scores"]["accuracy"])
  tables = []
  for group, ipc in groups.items():
    found = sets_of(runs, group)
    words = IPCS[ipc]
    tables.append(f"## {words[0].upper()}{words[1:]}\n\n{_accuracies(found)}\n\n{verdict(found)}\n")
    tables.append(f"### Costs of {words}\n\n{_costs(runs, group, found)}\n")
  head = _HEAD.format(command=given.command, data=given.data, seeds={2: "two", 3: "three"}.get(seeds, str(seeds)))
  write_page(given.name, head, tables, claims.values())
  print(
    f"{RESULTS / given.name}.md: {sum(one.verdict == SHOWN for one in claims.values())} of {len(claims)} claims shown"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
