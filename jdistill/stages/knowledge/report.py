"""Stage `report`: the sorted table with paired differences, `summary.json`, curves, `report.md` and `report.html`."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from jdistill import catalog
from jdistill.evaluation.paired import paired_difference
from jdistill.files import format_bytes, read_json, write_json
from jdistill.reporting import (
  Section,
  curves,
  environment,
  format_table,
  grouped_bars,
  mean_std,
  read_jsonl,
  write_report,
)
from jdistill.stages.knowledge import students
from jdistill.stages.knowledge.context import Context


def run(ctx: Context) -> None:
  """Writes everything a reader wants to see and prints the closing table."""
  begin = time.monotonic()
  summary = summarise(ctx)
  write_json(ctx.workdir / "summary.json", summary)
  if "arms" in summary:
    ctx.say("\n" + format_table(*table(summary)) + "\n" + verdict(summary) + "\n")
  ctx.say(f"report: {ctx.workdir / 'report.html'}")
  write_report(ctx.workdir, title(ctx), sections(ctx, summary))
  ctx.finish("report", begin)


def title(ctx: Context) -> str:
  """The report's heading."""
  c = ctx.config
  return f"{c['method']['name']} on {c['dataset']}: {c['teacher']['name']} teaches {c['student']['name']}"


def summarise(ctx: Context) -> dict[str, Any]:
  """The figures of a run for scripts, as `summary.json` holds them; arms are sorted, the best first."""
  c = ctx.config
  task = ctx.task(c["task"])
  out: dict[str, Any] = {
    "config_hash": ctx.hash,
    "method": c["method"]["name"],
    "dataset": c["dataset"],
    "task": c["task"]["name"],
    "metric": task.metric,
    "higher_is_better": task.higher,
    "seconds": {},
  }
  for stage in c["stages"]:
    if (record := ctx.finished(stage)) is not None:
      out["seconds"][stage] = record["seconds"]
  if (record := ctx.finished("teacher")) is not None:
    out["teachers"] = record["teachers"]
  if ctx.finished("students") is None:
    return out
  results = read_json(ctx.workdir / "stages" / "results.json")
  reference = c["reference"] or next(label for label in [*c["order"][1:], *c["order"]])
  base = results[reference]["scores"][task.metric]
  tuned = students.tuned(ctx)
  sign = -1 if task.higher else 1
  ordered = sorted(c["order"], key=lambda label: sign * np.mean(results[label]["scores"][task.metric]))
  out["reference"], out["arms"] = reference, {}
  for label in ordered:
    entry = results[label]
    difference = paired_difference(entry["scores"][task.metric], base)
    out["arms"][label] = {
      "scores": entry["scores"],
      "mean": float(np.mean(entry["scores"][task.metric])),
      "difference": difference.mean,
      "half_width": difference.half_width,
      "tuned": {
        dotted: tuned[label][dotted.partition("/")[0]][dotted.partition("/")[2]] for dotted in c["tune"].get(label, {})
      },
      **entry["figures"],
    }
  return out


def table(summary: dict) -> tuple[list[str], list[list[str]]]:
  """All arms, the best first."""
  metric, reference = summary["metric"], summary["reference"]
  others = [name for name in next(iter(summary["arms"].values()))["scores"] if name != metric]
  headers = ["arm", metric, f"against {reference} (95%)", *others, "seconds", "memory", "extra weights", "chosen"]
  rows = []
  for label, arm in summary["arms"].items():
    gap = "" if label == reference else f"{arm['difference']:+.4f} ± {arm['half_width']:.4f}"
    chosen = ", ".join(f"{name.partition('/')[2]}={value}" for name, value in arm["tuned"].items())
    rows.append(
      [
        label,
        mean_std(arm["scores"][metric], 4),
        gap,
        *(mean_std(arm["scores"][name], 4) for name in others),
        f"{arm['seconds']:.1f}",
        format_bytes(arm["step_bytes"]) if arm["step_bytes"] else "",
        f"{arm['extra_parameters']:,}",
        chosen,
      ]
    )
  return headers, rows


def verdict(summary: dict) -> str:
  """One plain sentence about the method against its reference."""
  label, reference = summary["method"], summary["reference"]
  if label == reference:
    return f"{label} is the reference"
  arm = summary["arms"][label]
  gain = arm["difference"] if summary["higher_is_better"] else -arm["difference"]
  gap = f"{arm['difference']:+.4f} ± {arm['half_width']:.4f} {summary['metric']} (95% interval of paired differences)"
  if not np.isfinite(arm["half_width"]):
    return f"{label} against {reference}: {gap}: one seed only, so no spread is known"
  if gain > arm["half_width"]:
    return f"{label} beats {reference}: {gap}"
  if gain < -arm["half_width"]:
    return f"{label} is worse than {reference}: {gap}"
  return f"no difference between {label} and {reference} can be claimed: {gap}"


def sections(ctx: Context, summary: dict) -> list[Section]:
  """The parts of the report, in order."""
  c = ctx.config
  task = ctx.task(c["task"])
  parts = []
  if summary.get("teachers"):
    lines = [
      f"- {one['name']} ({one['model']}, hash `{one['hash']}`): {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}"
      for one in summary["teachers"]
      for scores in one["scores"]
    ]
    parts.append(Section("Teachers", "On the test examples.\n\n" + "\n".join(lines)))
  if "arms" in summary:
    text = (
      f"{verdict(summary)}.\n\nMean ± standard deviation over {c['seeds']} seeds after the last epoch. Seeds are "
      "paired: a seed has the same initial student, order and examples in every arm. Choices were made on held-out "
      "training examples with other seeds, never on test examples. Seconds are of all seeds with compilation; memory "
      "is what the compiled step of one device holds, data, teachers and scratch included."
    )
    parts.append(Section("Result", text, table=table(summary), images=_figures(ctx, summary)))
  parts.append(Section("Data", "\n".join(f"- {note}" for note in task.notes)))
  row = catalog.row(c["method"]["name"])
  parts.append(Section("Method", f"{row.title} ({row.authors}; {row.venue}; arXiv {row.arxiv})."))
  if c["published"]:
    rows = [[name, str(value)] for name, value in c["published"].items()]
    parts.append(
      Section("Published", "Figures of the paper's table for this pair, for comparison.", (["row", "%"], rows))
    )
  flat = [[key, str(value)] for key, value in flatten({k: v for k, v in c.items() if k != "arms"})]
  parts.append(Section("Configuration", f"Hash `{ctx.hash}`.", table=(["key", "value"], flat)))
  arms = [[f"{label}.{key}", str(value)] for label in c["order"] for key, value in flatten(c["arms"][label]["method"])]
  parts.append(Section("Arms", "What the arms say about the method.", table=(["key", "value"], arms)))
  known = [[key, str(value)] for key, value in flatten(environment())]
  parts.append(Section("Environment", table=(["what", "value"], known)))
  return parts


def _figures(ctx: Context, summary: dict) -> list[tuple[str, Path]]:
  metric, arms = summary["metric"], summary["arms"]
  bars = ctx.workdir / "curves" / "arms.png"
  bars.parent.mkdir(parents=True, exist_ok=True)
  heights = [arm["mean"] for arm in arms.values()]
  spread = [
    float(np.std(arm["scores"][metric], ddof=1)) if len(arm["scores"][metric]) > 1 else 0.0 for arm in arms.values()
  ]
  low, high = (
    min(h - s for h, s in zip(heights, spread, strict=True)),
    max(h + s for h, s in zip(heights, spread, strict=True)),
  )
  margin = 0.25 * (high - low) or 0.05
  grouped_bars(bars, list(arms), {metric: (heights, spread)}, metric, ylim=(max(0.0, low - margin), high + margin))
  out = [(f"{metric} of all arms; bars start above zero, whiskers are standard deviations over seeds", bars)]
  label = summary["method"]
  path = ctx.workdir / "metrics" / f"{arms[label]['metrics']}.jsonl"
  rows = read_jsonl(path, f"students/{label}") if path.exists() else []
  names = [name for name in (rows[0] if rows else {}) if name.startswith("loss/")]
  series = {
    name.removeprefix("loss/"): ([row["step"] for row in rows], [float(row[name]) for row in rows]) for name in names
  }
  if series and len(rows) > 1:
    file = ctx.workdir / "curves" / "loss.png"
    curves(file, series, "loss (mean over seeds, unweighted)", xlabel="epoch")
    out.append((f"terms of {label}", file))
  return out


def flatten(value: dict, prefix: str = "") -> list[tuple[str, object]]:
  """Dotted keys and values of nested mappings."""
  out = []
  for key, item in value.items():
    out += flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else [(prefix + key, item)]
  return out
