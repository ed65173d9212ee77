"""What the runs of a sweep came to: runs with a set beside each other, runs with arms in turn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.files import format_bytes, read_json, write_json
from jdistill.reporting import Section, comparison, duration, environment, format_table, mean_std, write_report
from jdistill.stages import sets
from jdistill.stages.report import failed_section, flatten

Summary = Mapping[str, Any]
Results = Mapping[tuple[str, str], Mapping[int, Summary]]  # (group, series) -> seed -> what a run came to
_PAIRED = (
  "Differences are means of paired differences from the best set of real images in the group, with Student's 95% "
  "interval over the repetitions that both have."
)


class _Outcome(NamedTuple):
  """Figures for scripts, and what a reader sees."""

  summary: dict[str, Any]
  sections: list[Section]
  text: str


def line(summary: Summary) -> str:
  """What a run came to."""
  label = sets.OWN if sets.OWN in summary["arms"] else next(iter(summary["arms"]))
  own = summary["arms"][label]
  if "failed" in own:
    return f"{label} failed"
  gap = f", {comparison.gap_text(own)} against {summary['reference']}" if own.get("difference") else ""
  return f"{label}: {summary['metric']} {own['mean']:.4f}{gap}"


def write(
  name: str, results: Results, failed: Mapping[str, str], workdir: Path, show: Callable[[str], None]
) -> Mapping[str, Any]:
  """Writes `summary.json`, `figure.png`, `report.md` and `report.html` of a sweep, and shows its table.

  Args:
    name: of the experiment.
    results: what the runs came to, without those that failed.
    failed: what became of the others.
    workdir: where the files go.
    show: prints a line.
  """
  first = next(iter(next(iter(results.values())).values()))
  found = (_sets if sets.OWN in first["arms"] else _arms)(results, first, workdir)
  summary = found.summary | {"metric": first["metric"], "failed": dict(failed)}
  sections = [*found.sections, *failed_section(failed)]
  sections.append(Section("Environment", table=(["what", "value"], flatten(environment()))))
  write_report(workdir, name, sections)
  write_json(workdir / "summary.json", summary)
  show(f"\n{found.text}\nfigure: {workdir / 'figure.png'}; report: {workdir / 'report.html'}")
  return read_json(workdir / "summary.json")


def _sets(results: Results, first: Summary, workdir: Path) -> _Outcome:
  """Each series' own set by group, over independent repetitions; the controls are those of the first series.

  Where sets were trained on with other labels, too, each kind of labels is a block of its own.
  """
  metric, higher = first["metric"], first.get("higher_is_better", True)
  tables, rows, best, groups, more = {}, [], {}, {}, {}
  by_label: dict[str, dict[str, Mapping[str, Any]]] = {}
  for group, kind in _blocks(results):
    found = {series: runs for (name, series), runs in results.items() if name == group}
    block, arms = f"{group}, {kind}" if kind else group, _arms_of(found, kind)
    shown = next(iter(found.values()))
    scores = {name: _means(found.get(name, shown), arm) for name, arm in arms.items()}
    scores = {name: values for name, values in scores.items() if values}
    reference = _best([name for name in scores if name not in (*found, sets.FULL)], scores, higher)
    tables[block] = _compared(scores, metric, reference)
    by_label.setdefault(group, {})[kind or "stored"] = tables[block]
    groups[block] = {name: list(values.values()) for name, values in scores.items()}
    more[block] = {
      series: _cost(runs) | ({} if kind else _ranking(runs, shown, metric)) for series, runs in found.items()
    }
    columns, found_rows = comparison.table(
      tables[block], metric, reference, digits=3, columns=_columns(more[block], found, metric, arms)
    )
    rows.append((columns, [[block, *row] for row in found_rows]))
    own = [name for name in scores if name in found]
    if own:
      best[block] = _best(own, scores, higher)
  said = "; ".join(f"{group}: {f'{best[group]} is best' if group in best else 'every set failed'}" for group in tables)
  headers, body = _joined(rows)
  repetitions = max(len(runs) for runs in results.values())
  text = (
    f"{said}.\n\nMean ± standard deviation over {repetitions} independent repetitions (teachers, distillation and "
    f"evaluation anew), each the mean over its evaluation networks. {_PAIRED}"
  )
  section = Section("Result", text, (headers, body), _plots(by_label, metric, workdir))
  summary = {"best": best, "groups": groups, "more": more}
  return _Outcome(summary, [section], f"{format_table(headers, body)}\n{said}")


def _arms_of(found: Mapping[str, Any], kind: str) -> dict[str, str]:
  """The sets of a block by what their rows are called: each series' own, controls, full data.

  In a block of one kind of labels, controls are called as their images are.
  """
  own = f"{sets.OWN}_{kind}" if kind else sets.OWN
  known = [name for name in sets.LABELS if sets.split(name)[1] == kind] if kind else sets.CONTROLS
  controls = {sets.split(name)[0] if kind else name: name for name in (*known, sets.FULL) if name != own}
  return dict.fromkeys(found, own) | {name: arm for name, arm in controls.items() if name not in found}


def _plots(by_label: Mapping[str, Mapping[str, Any]], metric: str, workdir: Path) -> list[tuple[str, Path]]:
  """All groups beside each other, and of each that has several kinds of labels these beside each other."""
  file = workdir / "figure.png"
  comparison.bars(file, {group: kinds["stored"] for group, kinds in by_label.items()}, metric)
  plots = [(f"{metric} by group and series", file)]
  for number, (group, kinds) in enumerate(by_label.items()):
    if len(kinds) > 1:
      plots.append((f"{metric} by kind of labels: {group}", workdir / f"labels{number}.png"))
      comparison.bars(plots[-1][1], {kind: _by_images(cells) for kind, cells in kinds.items()}, metric)
  return plots


def _by_images(cells: Mapping[str, Any]) -> dict[str, Any]:
  """Sets with labels in the training with stored ones, called as their images are."""
  names = {name: name.removesuffix(f"_{sets.RELABELLED}") for name in cells if name != sets.FULL}
  return {short: cells[name] for name, short in names.items() if sets.split(name)[1] != "hard"}


def _blocks(results: Results) -> list[tuple[str, str]]:
  """Groups, each followed by the other kinds of labels that any of its sets has; `""` for the labels of its own."""
  found = {}
  for (group, _), runs in results.items():
    names = {name for one in runs.values() for name in one["arms"]}
    kinds = ["", *(kind for kind in sets.KINDS if f"{sets.OWN}_{kind}" in names)]
    found |= dict.fromkeys((group, kind) for kind in kinds)
  return sorted(found, key=lambda pair: [group for group, _ in results].index(pair[0]))


def _means(runs: Mapping[int, Summary], name: str) -> dict[int, float]:
  """The means of a set by repetition, of those in which it did not fail."""
  return {seed: one["arms"][name]["mean"] for seed, one in runs.items() if "mean" in one["arms"].get(name, {})}


def _best(names: list[str], scores: Mapping[str, Mapping[int, float]], higher: bool) -> str | None:
  sign = 1 if higher else -1
  return max(names, key=lambda name: sign * np.mean(list(scores[name].values())), default=None)


def _compared(scores: Mapping[str, Mapping[int, float]], metric: str, reference: str | None) -> dict[str, dict]:
  """Cells as `comparison.compare` makes them; differences are over the repetitions that both have."""
  cells = comparison.compare({name: {"scores": {metric: list(v.values())}} for name, v in scores.items()}, metric, None)
  for name, cell in cells.items():
    shared = [seed for seed in scores[name] if reference is not None and seed in scores[reference]]
    if shared:
      pair = [[scores[one][seed] for seed in shared] for one in (name, reference)]
      cell["difference"], cell["half_width"] = comparison.paired_difference(*pair)
  return cells


def _cost(runs: Mapping[int, Summary]) -> dict[str, float]:
  """Seconds of every stage on average, the most memory, and the bytes of the stored set."""
  summaries = list(runs.values())
  stages = dict.fromkeys(stage for one in summaries for stage in one.get("seconds", {}))
  out = {f"{stage} seconds": float(np.mean([one["seconds"].get(stage, 0.0) for one in summaries])) for stage in stages}
  for key in ("peak_memory_bytes", "stored_bytes"):
    known = [one[key] for one in summaries if one.get(key)]
    out |= {key: max(known)} if known else {}
  return out


def _ranking(runs: Mapping[int, Summary], shown: Mapping[int, Summary], metric: str) -> dict[str, list[float]]:
  """DD-Ranking's scores by repetition; sets that a run lacks are those of the first series."""
  found: dict[str, list[float]] = {}
  for seed, one in runs.items():
    others = {name: arm for name, arm in shown.get(seed, {"arms": {}})["arms"].items() if sets.OWN not in name}
    for name, values in sets.ranking(others | dict(one["arms"]), metric).items():
      found.setdefault(name, []).append(float(np.mean(values)))
  return found


def _columns(
  more: Mapping[str, Mapping[str, Any]],
  found: Mapping[str, Mapping[int, Summary]],
  metric: str,
  arms: Mapping[str, str],
) -> dict[str, dict[str, str]]:
  """What a row shows beside its accuracy."""
  columns: dict[str, dict[str, str]] = {}
  networks = dict.fromkeys(name for runs in found.values() for one in runs.values() for name in one.get("models", {}))
  for network in list(networks)[1:]:
    own = {series: _of_network(runs, network, arms[series]) for series, runs in found.items()}
    columns[f"{network}: {metric}"] = {series: mean_std(values) for series, values in own.items() if values}
  for name, heading in (("label_robust_score", "LRS"), ("augmentation_robust_score", "ARS")):
    columns[heading] = {series: mean_std(one[name]) for series, one in more.items() if name in one}
  for stage in ("teachers", "distill"):
    key = f"{stage} seconds"
    columns[stage] = {series: duration(one[key]) for series, one in more.items() if one.get(key)}
  columns |= _paid(found, arms)
  for key, heading in (("peak_memory_bytes", "peak memory"), ("stored_bytes", "stored")):
    columns[heading] = {series: format_bytes(one[key]) for series, one in more.items() if key in one}
  return columns


def _of_network(runs: Mapping[int, Summary], network: str, own_set: str) -> list[float]:
  cells = [one.get("models", {}).get(network, {}).get(own_set, {}) for one in runs.values()]
  return [cell["mean"] for cell in cells if "mean" in cell]


def _paid(found: Mapping[str, Mapping[int, Summary]], arms: Mapping[str, str]) -> dict[str, dict[str, str]]:
  """What choices and stored labels took, of every series' own set and of the controls of the first series."""
  shown = next(iter(found.values()))
  cells = {name: [one["arms"].get(arm, {}) for one in found.get(name, shown).values()] for name, arm in arms.items()}
  if not any(one.get("label_seconds") is not None for group in cells.values() for one in group):
    return {}
  seconds, columns = lambda value: f"{value:.2f} s", {}
  for key, heading, text in (
    ("select_seconds", "select", seconds),
    ("label_seconds", "relabel", seconds),
    ("label_bytes", "label bytes", format_bytes),
  ):
    values = {name: [one[key] for one in group if one.get(key)] for name, group in cells.items()}
    columns[heading] = {name: text(np.mean(known)) for name, known in values.items() if known}
  return columns


def _joined(tables: list[tuple[list[str], list[list[str]]]]) -> tuple[list[str], list[list[str]]]:
  """One table of those of all groups, whose columns differ."""
  first = tables[0][0][:1]
  named = [[_neutral(heading) for heading in columns] for columns, _ in tables]
  headings = list(dict.fromkeys(heading for columns in named for heading in columns[1:]))
  body = []
  for columns, (_, rows) in zip(named, tables, strict=True):
    for group, label, *cells in rows:
      known = dict(zip(columns[1:], cells, strict=True))
      body.append([group, label, *(known.get(heading, "") for heading in headings)])
  return ["group", *("run" if heading == "arm" else heading for heading in first), *headings], body


def _neutral(heading: str) -> str:
  """Groups may differ in which control is best: the column is the same."""
  return "against the best real images (95%)" if heading.startswith("against ") else heading


def _arms(results: Results, first: Summary, workdir: Path) -> _Outcome:
  """One sorted table per run, and the differences from the reference beside each other."""
  metric, reference = first["metric"], first["reference"]
  tables, sections, text = {}, [], []
  for (group, series), runs in results.items():
    for number, summary in enumerate(runs.values()):
      name = f"{group}, {series}" + (f", repetition {number}" if len(runs) > 1 else "")
      tables[name] = summary["arms"]
      table = comparison.table(summary["arms"], metric, reference)
      sections.append(Section(name, line(summary) + ".", table))
      text.append(f"{name}\n{line(summary)}\n\n{format_table(*table)}\n")
  comparison.bars(workdir / "figure.png", tables, f"{metric} against {reference}", differences=True)
  caption = "differences from the reference; whiskers are 95% intervals of paired differences"
  sections[0] = sections[0]._replace(images=[(caption, workdir / "figure.png")])
  gaps: dict[str, dict[str, tuple[float, float]]] = {}
  for name, arms in tables.items():
    for label, arm in arms.items():
      if "difference" in arm:
        gaps.setdefault(label, {})[name] = (arm["difference"], float(arm["half_width"]))
  mean = {label: float(np.mean([gap for gap, _ in found.values()])) for label, found in gaps.items()}
  return _Outcome({"reference": reference, "differences": gaps, "mean_differences": mean}, sections, "\n".join(text))
