"""Stage `report`: the closing table, `summary.json`, `report.md` and `report.html`, made of what the stages tell."""

import time
from collections.abc import Mapping
from typing import Any

from jdistill import catalog
from jdistill.files import format_bytes, write_json
from jdistill.reporting import Section, environment, format_table, literal, write_report
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.stages.stage import Part, Stage


def _run(run: Run, stages: Mapping[str, Stage]) -> None:
  """Writes everything a reader wants to see and prints the closing table."""
  begin = time.monotonic()
  others = [stages[name] for name in run.config["stages"] if name != "report"]
  found = [(stage, run.finished(stage.name, stage.leaves)) for stage in others]
  parts = [stage.report(run, record) for stage, record in found if record is not None]
  summary = _summary(run, parts)
  write_json(run.workdir / "summary.json", summary)
  for part in parts:
    if part.result is not None:
      run.log("\n" + format_table(*part.result) + "\n" + part.verdict + "\n")
  for line in _closing(run, summary, parts):
    run.log(line)
  write_report(run.workdir, title(run), _sections(run, parts, summary))
  run.finish("report", begin)


def title(run: Run) -> str:
  """The report's heading."""
  c = run.config
  size = f", {c['ipc']} image{'s' if c['ipc'] > 1 else ''} per class" if "ipc" in c else ""
  return f"{run.subject.upper()} on {c['dataset']}{size}"


def _row(run: Run) -> catalog.Row:
  """The system that the run is about, such as a data policy: its subject, its experiment, or else its method."""
  systems, c = {row.name: row for row in catalog.rows()}, run.config
  return systems.get(run.subject) or systems.get(c["name"]) or systems[c["method"]["name"]]


def _summary(run: Run, parts: list[Part]) -> dict[str, Any]:
  """The figures of a run for scripts, as `summary.json` holds them."""
  c, task = run.config, run.task()
  out: dict[str, Any] = {
    "config_hash": run.hash,
    "method": c["method"]["name"],
    "system": _row(run).name,
    "dataset": c["dataset"],
    "task": c["task"]["name"],
    "metric": task.metric,
    "higher_is_better": task.higher,
  }
  out |= {"ipc": c["ipc"]} if "ipc" in c else {}
  known = {name: run.finished(name) for name in c["stages"] if name != "report"}
  records = {name: record for name, record in known.items() if record is not None}
  out["seconds"] = {name: record["seconds"] for name, record in records.items()}
  # of the work itself, which this process may only be showing again
  out["peak_memory_bytes"] = max((record["peak_memory_bytes"] for record in records.values()), default=None)
  for part in parts:
    out |= part.summary
  return out | {"failed": list(_failed(out))}


def _closing(run: Run, summary: dict[str, Any], parts: list[Part]) -> list[str]:
  """What else a reader wants to know, one line each."""
  spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary["seconds"].items())
  lines = [f"time: {spent}; peak memory {format_bytes(summary['peak_memory_bytes'])}"] if spent else []
  lines += [] if "arms" in summary else ["no evaluation was asked for, or none is finished"]
  lines += [line for part in parts for line in part.lines]
  lines += [f"failed: {label}: {message}" for label, message in failures(summary).items()]
  return [*lines, f"report: {run.workdir / 'report.html'}"]


def failures(summary: Mapping[str, Any]) -> dict[str, str]:
  """The arms of a run that failed, with what each of them came to."""
  return {label: message.removeprefix(f"{label}: ") for label, message in _failed(summary).items()}


def _failed(summary: Mapping[str, Any]) -> dict[str, str]:
  """Messages by arm; `"NETWORK/SET"` for sets that fail with another network than the first."""
  cells = dict(summary.get("arms", {}))
  for model, sets in list(summary.get("models", {}).items())[1:]:
    cells |= {f"{model}/{name}": cell for name, cell in sets.items()}
  return {label: cell["failed"] for label, cell in cells.items() if "failed" in cell}


def failed_section(messages: Mapping[str, str]) -> list[Section]:
  """What of a report is about failures: nothing where there are none."""
  return (
    [Section("Failed", "\n".join(f"- {literal(f'{name}: {text}')}" for name, text in messages.items()))]
    if messages
    else []
  )


def _sections(run: Run, parts: list[Part], summary: dict[str, Any]) -> list[Section]:
  """The parts of the report, in order: results first."""
  c, row = run.config, _row(run)
  found = [section for part in parts for section in part.sections]
  found = sorted(failed_section(failures(summary)) + found, key=lambda section: section.title != "Result")
  about = f"{row.title} ({row.authors}; {row.venue}; {row.paper})."
  found += [
    Section("Data", "\n".join(f"- {literal(note)}" for note in run.task().notes)),
    Section("Method", about),
  ]
  if c["published"]:
    rows = [[name, str(value)] for name, value in c["published"].items()]
    found.append(Section("Published", "Figures of the paper's table, for comparison.", (["row", "%"], rows)))
  own = {key: value for key, value in c.items() if key not in ("arms", "published")}
  found.append(Section("Configuration", f"Hash `{run.hash}`.", table=(["key", "value"], flatten(own))))
  if c.get("arms"):
    arms = [[f"{label}.{key}", value] for label in c["order"] for key, value in flatten(c["arms"][label]["method"])]
    found.append(Section("Arms", "The section `method` of every arm.", table=(["key", "value"], arms)))
  return [*found, Section("Environment", table=(["what", "value"], flatten(environment())))]


def flatten(value: dict, prefix: str = "") -> list[list[str]]:
  """Dotted keys and values of nested mappings, as rows."""
  out = []
  for key, item in value.items():
    out += flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else [[prefix + key, str(item)]]
  return out


def stage(others: Mapping[str, Stage]) -> Stage:
  """The stage `report`, made of the parts of all others, by name."""
  return Stage("report", lambda run: on_first(lambda: _run(run, others)))
