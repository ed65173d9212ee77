"""Stage `report`: the closing table, `summary.json`, curves, picture grids, `report.md` and `report.html`."""

import time
from pathlib import Path

import numpy as np

from jdistill import catalog, export
from jdistill.files import format_bytes, read_npz, write_json
from jdistill.reporting import (
  Section,
  curves,
  environment,
  format_table,
  image_grid,
  mean_std,
  peak_memory_bytes,
  read_jsonl,
  save_png,
  timeline,
  write_report,
)
from jdistill.stages.dataset import distill, evaluate
from jdistill.stages.dataset.context import Context

_LABELS = {
  "distilled": "distilled",
  "random_hard": "random real images, hard labels",
  "random_soft": "random real images, expert soft labels",
  "initial": "the initialisation",
  "full_data": "full data",
}


def run(ctx: Context) -> None:
  """Writes everything a reader wants to see and prints the closing table."""
  begin = time.monotonic()
  summary = summarise(ctx)
  write_json(ctx.workdir / "summary.json", summary)
  headers, rows = closing_table(ctx)
  ctx.say("\n" + format_table(headers, rows) + "\n" + verdict(ctx) + "\n")
  for line in closing_lines(ctx, summary):
    ctx.say(line)
  write_report(ctx.workdir, title(ctx), sections(ctx, summary, (headers, rows)))
  ctx.finish("report", begin)
  write_json(ctx.workdir / "summary.json", summarise(ctx))  # once more, with the time of this stage


def title(ctx: Context) -> str:
  """The report's heading."""
  c = ctx.config
  return f"{c['method']['name'].upper()} on {c['dataset']}, {c['ipc']} image{'s' if c['ipc'] > 1 else ''} per class"


def summarise(ctx: Context) -> dict:
  """The figures of a run for scripts, as `summary.json` holds them."""
  c = ctx.config
  out = {"config_hash": ctx.hash, "method": c["method"]["name"], "dataset": c["dataset"], "ipc": c["ipc"]}
  out["seconds"] = {}
  for stage in c["stages"]:
    record = ctx.finished(stage)
    if record is not None:
      out["seconds"][stage] = record["seconds"]
  if (record := ctx.finished("distill")) is not None:
    out |= {name: record[name] for name in ("accepted_share", "seconds_per_step", "first_step_seconds", "learned_lr")}
    result = distill.load(ctx, "distilled")
    out["artefact_sha256"] = export.artefact_sha256(result.images, result.labels, float(result.lr))
  if (record := ctx.finished("experts")) is not None:
    out["expert_accuracy_mean"] = record["accuracy_mean"]
  if ctx.finished("evaluate") is not None:
    for index, (model, sets) in enumerate(evaluate.load(ctx).items()):
      figures = {
        name: {
          "accuracy_mean": float(np.mean(entry["accuracies"])),
          "accuracy_std": float(np.std(entry["accuracies"], ddof=1)) if len(entry["accuracies"]) > 1 else 0.0,
          "lr": entry["lr"],
        }
        for name, entry in sets.items()
      }
      own = figures.pop("distilled")
      block = own | {"controls": figures}
      out.setdefault("models", {})[model] = block
      if index == 0:
        out |= {"accuracy_mean": own["accuracy_mean"], "accuracy_std": own["accuracy_std"], "controls": figures}
  # that of the processes which did the work, not of one that only looks at it again
  records = [r for stage in c["stages"] if stage != "report" and (r := ctx.finished(stage)) is not None]
  out["peak_memory_bytes"] = max((r["peak_memory_bytes"] for r in records), default=peak_memory_bytes())
  return out


def closing_table(ctx: Context) -> tuple[list[str], list[list[str]]]:
  """Accuracy of the distilled set and its controls, by network."""
  if ctx.finished("evaluate") is None:
    return ["training set"], []
  results = evaluate.load(ctx)
  name = ctx.config["method"]["name"].upper()
  headers = ["training set", *(f"{model}: test accuracy" for model in results), "learning rate"]
  first = next(iter(results.values()))
  rows = []
  for key in first:
    label = f"{name}, {ctx.config['ipc']} per class" if key == "distilled" else _LABELS[key]
    rows.append([label, *(mean_std(results[m][key]["accuracies"]) for m in results), f"{first[key]['lr']:.3g}"])
  return headers, rows


def verdict(ctx: Context) -> str:
  """One plain sentence: does the method beat its real-image controls by more than the spread?"""
  if ctx.finished("evaluate") is None:
    return "no evaluation was asked for"
  sets = next(iter(evaluate.load(ctx).values()))
  own = sets["distilled"]["accuracies"]
  known = [name for name in ("random_hard", "random_soft") if name in sets]
  if not known:
    return "no control was asked for, so nothing can be said of the gain"
  best = max(known, key=lambda name: np.mean(sets[name]["accuracies"]))
  other = sets[best]["accuracies"]
  gain = float(np.mean(own) - np.mean(other))
  # independent runs: the standard error of the difference of two means
  error = float(np.sqrt(sum(np.var(v, ddof=1) / len(v) for v in (own, other)))) if len(own) > 1 else float("nan")
  if len(own) < 2:
    word = "one network only, so no spread is known"
  elif gain > 2 * error:
    word = "the distilled set beats its controls"
  elif gain < -2 * error:
    word = "the distilled set is worse than its best control"
  else:
    word = "no difference from its best control can be claimed"
  return f"{gain:+.3f} ± {2 * error:.3f} (2 standard errors) against {_LABELS[best]}: {word}"


def closing_lines(ctx: Context, summary: dict) -> list[str]:
  """What else a reader wants to know, one line each."""
  seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in summary["seconds"].items() if stage != "report")
  lines = [f"time: {seconds}; peak memory {format_bytes(summary['peak_memory_bytes'])}"]
  if "accepted_share" in summary:
    share, steps = summary["accepted_share"], ctx.config["steps"]
    note = "" if share else ": nothing was learned, the set is its initialisation; match earlier epochs"
    step, first = summary["seconds_per_step"] or 0, summary["first_step_seconds"] or 0
    lines.append(f"accepted: {100 * share:.1f}% of {steps} outer steps{note}; learned rate {summary['learned_lr']:.4g}")
    others = f"a step took {step:.3f} s, " if step else ""
    lines.append(f"{others}the first one {first:.1f} s with everything before it and its compilation")
  lines.append(f"artefacts: {ctx.workdir / 'result'} (the set), {ctx.workdir / 'report.html'} (the report)")
  return lines


def _metric_plots(ctx: Context) -> list[tuple[str, Path]]:
  path = ctx.workdir / "metrics.jsonl"
  rows = read_jsonl(path, "distill") if path.exists() else []
  plots = []
  wanted = (
    ("match/loss", "trajectory matching loss", "How far the student ends from the expert, relative to its way."),
    ("match/accepted", "share of accepted steps", "Steps below the acceptance threshold."),
    ("synthetic/lr", "learned inner rate", "The learned learning rate."),
  )
  for name, label, caption in wanted:
    points = [(row["step"], float(row[name])) for row in rows if name in row]
    if points:
      file = ctx.workdir / "curves" / f"{name.replace('/', '_')}.png"
      curves(file, {label: tuple(zip(*points, strict=True))}, label)
      plots.append((caption, file))
  return plots


def _pictures(ctx: Context) -> list[tuple[str, Path]]:
  result, initial = distill.load(ctx, "distilled"), distill.load(ctx, "initial")
  ipc, classes = ctx.config["ipc"], ctx.dataset.num_classes
  shown = np.arange(len(result.images)).reshape(-1, ipc)[: min(classes, 20), : min(ipc, 10)].reshape(-1)
  columns = min(ipc, 10) if ipc > 1 else 10
  out = []
  for name, value in (("initial", initial), ("distilled", result)):
    file = ctx.workdir / "images" / f"{name}.png"
    save_png(file, image_grid(distill.pixels(ctx, np.asarray(value.images)[shown]), columns))
    out.append((f"{name} images, {'one row per class' if ipc > 1 else 'one per class'}", file))
  snapshots = sorted((ctx.workdir / "snapshots").glob("*.npz"))
  if len(snapshots) > 1:
    frames = [(int(path.stem), read_npz(path)["pixels"]) for path in snapshots]
    file = ctx.workdir / "images" / "timeline.png"
    save_png(file, timeline(frames, np.arange(len(frames[0][1]))))
    out.append((f"the first image of each class at steps {', '.join(str(step) for step, _ in frames[:12])}", file))
  return out


def sections(ctx: Context, summary: dict, table) -> list[Section]:
  """The parts of the report, in order."""
  c = ctx.config
  row = catalog.row(c["method"]["name"])
  parts = [
    Section(
      "Result",
      f"{verdict(ctx)}.\n\nMean ± standard deviation over {c['eval']['seeds']} fresh networks, as fractions. "
      "Random controls draw other images for every network; learning rates of controls were chosen on training images "
      "outside the set, that of the distilled set is its learned one.",
      table=table if table[1] else None,
    )
  ]
  if ctx.finished("distill") is not None:
    parts.append(Section("Images", "Preprocessing is undone and values are clipped to [0, 1].", images=_pictures(ctx)))
    parts.append(
      Section("Training", "\n".join(f"- {line}" for line in closing_lines(ctx, summary)), images=_metric_plots(ctx))
    )
  flat = [[key, str(value)] for key, value in _flatten(c)]
  parts.append(Section("Method", f"{row.title} ({row.authors}; {row.venue}; arXiv {row.arxiv})."))
  parts.append(Section("Configuration", f"Hash `{ctx.hash}`.", table=(["key", "value"], flat)))
  known = [[key, str(value)] for key, value in _flatten(environment())]
  parts.append(Section("Environment", table=(["what", "value"], known)))
  return parts


def _flatten(value: dict, prefix: str = "") -> list[tuple[str, object]]:
  out = []
  for key, item in value.items():
    out += _flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else [(prefix + key, item)]
  return out
