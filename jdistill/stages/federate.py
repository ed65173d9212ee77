"""Stage `federate`: trains networks on the data of several clients, arm by arm, with paired seeds."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jdistill import schema
from jdistill.base import Diverged
from jdistill.config import Declared, Plain
from jdistill.files import format_bytes
from jdistill.reporting import Progress, Section, comparison, curves
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Above, Positive, Range, Size
from jdistill.stages import federation
from jdistill.stages.stage import Part, Stage
from jdistill.tasks.clients import client_scores
from jdistill.transports import Participant, Session, Transport, in_process, run_rounds
from jdistill.transports.flower import check_installed, flower
from jdistill.transports.rounds import score

_FILE = "federated.json"


class Keys(NamedTuple):
  """Keys at the top."""

  seeds: Annotated[int, Range(1, 1000)] = 5
  rounds: Annotated[int, Range(1)] = 100
  participation: Annotated[float, Above(0), Range(high=1)] = 1.0
  subject: str | None = None
  reference: str | None = None
  order: tuple[str, ...] | None = None


class Carrier(NamedTuple):
  """What carries the messages; figures do not depend on it."""

  name: Literal["in_process", "flower"] = "in_process"
  timeout: Positive = 600.0
  restarts: Size = 3


def _check(run: Run) -> None:
  for label in run.config["order"]:
    federation.check_arm(run, label)
  if run.config["transport"]["name"] == "flower" and run.finished("federate", STAGE.leaves) is None:
    check_installed()


def _clients(run: Run) -> int:
  """The most clients of an arm."""
  return max(federation.clients_of(run.task(arm["task"])) for arm in run.config["arms"].values())


def _transport(run: Run, found: list[Participant]) -> Transport:
  how = run.config["transport"]
  if how["name"] == "in_process":
    return in_process(found)

  def command(client: int, address: str) -> list[str]:
    place = [str(run.workdir), str(run.artefacts), str(client), address]
    return [sys.executable, "-m", "jdistill.stages.flower_client", *place]

  log = lambda line: run.log(f"federate: {line}")  # noqa: E731
  logs = federation.directory(run) / "logs"
  cache = jax.config.jax_compilation_cache_dir
  environment = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
  return flower(
    command, len(found), logs, timeout=how["timeout"], restarts=how["restarts"], environment=environment, log=log
  )


def _run(run: Run) -> None:
  """Trains what is left."""
  begin, cells, c = time.monotonic(), grid.Grid(run, "federate", _FILE), run.config
  found = federation.participants(run, _clients(run))
  if all(cells.is_done(label) for label in c["order"]):
    cells.finish()
    return
  transport = _transport(run, found)
  try:
    cells.work(c["order"], lambda label: _arm(run, label, transport, found, begin))
  finally:
    transport.close()
  cells.finish()


def _arm(run: Run, label: str, transport: Transport, found: list[Participant], since: float) -> dict[str, Any]:
  """All seeds of one arm: the record of its cell."""
  begin, c, columns, histories, spreads, own = time.monotonic(), run.config, {}, [], [], []
  for seed in range(c["seeds"]):
    hits, rows, spread = _train(run, label, seed, transport, found, since)
    histories.append(rows)
    spreads.append(spread)
    own.append([hits["right"][k] / hits["count"][k] for k in sorted(hits["count"])])
    for name, value in client_scores(hits["right"], hits["count"]).items():
      columns.setdefault(name, []).append(value)
  task = run.task(c["arms"][label]["task"])
  run.log(f"federate: {label}: {task.metric} {np.mean(columns[task.metric]):.4g}")
  figures = {
    "seconds": time.monotonic() - begin,
    "round_bytes": _traffic(run, label),
    "curve": _curve(histories, task.metric),
    "clients": np.mean(own, axis=0).tolist(),
    "taken_part": float(np.mean([len(row["clients"]) for rows in histories for row in rows])),
  }
  if all(spreads):
    figures["client_share"] = {name: [one[name] for one in spreads] for name in spreads[0]}
  return {"arm": c["arms"][label], "scores": columns, "figures": figures}


def _train(run: Run, label: str, seed: int, transport: Transport, found: list[Participant], since: float):
  """One training: hits on the test examples, the rows of its rounds, and how far clients are from each other."""
  c, name = run.config, federation.name_of(run, label)
  task = run.task(c["arms"][label]["task"])
  clients = federation.clients_of(task)
  work = federation.work_of(run, label, 0)
  place = federation.directory(run) / name / f"seed{seed}"
  split = "validation" if len(task.validation.y) else ""
  session = Session(name, seed, c["rounds"], c["participation"], split, place, run.key_of(work=name, seed=seed))
  progress = Progress(f"federate {label}, seed {seed}", c["rounds"], stream=run.stream)

  def told(number: int, row: Mapping[str, Any]) -> None:
    shown = {key.partition("/")[2]: value for key, value in row.items() if key.startswith("loss/")}
    progress.update(number, shown)

  carried = transport._replace(clients=clients)
  shapes = federation.shapes(work.federation, work.data, clients)
  try:
    outcome = run_rounds(work.federation, carried, session, work.key(seed), shapes[:2], on_round=told, stop=run.stops)
    if outcome.stopped:
      run.interrupt("federate", since, f"{label}: round {len(outcome.rows)} of {c['rounds']} of seed {seed} is saved")
    hits = score(carried, session, outcome.message, outcome.versions, "test")
  except Diverged as error:
    raise Diverged(f"{label}: {error}") from error
  finally:
    progress.close()
  spread = federation.shares(run, label, found[:clients], seed, outcome)
  return hits, outcome.rows, spread


def _traffic(run: Run, label: str) -> int:
  """Bytes that one client receives and sends in a round."""
  work = federation.work_of(run, label, 0)
  clients = federation.clients_of(run.task(run.config["arms"][label]["task"]))
  _, upload, message = federation.shapes(work.federation, work.data, clients)
  return federation.nbytes(upload) + federation.nbytes(message)


def _curve(histories: list[list[Mapping[str, Any]]], metric: str) -> list[dict[str, Any]]:
  """Held-out scores of every round, one per seed; rounds in which no client was scored are left out."""
  out = []
  for number, rows in enumerate(zip(*histories, strict=True)):
    if all(row.get("right") for row in rows):
      out.append({"round": number + 1, "scores": [client_scores(row["right"], row["count"])[metric] for row in rows]})
  return out


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for label in run.config["order"]:
    c, arm = run.config, run.config["arms"][label]
    clients, (_, network) = federation.clients_of(run.task(arm["task"])), federation.method_of(run, label)
    size = federation.parameters(network)
    rows.append(
      (
        f"{label}: {c['seeds']} x {c['rounds']} rounds of {clients} clients, {arm['model']['name']} "
        f"({size:,} parameters)",
        f"{format_bytes(_traffic(run, label))} per client and round",
      )
    )
  return rows


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  del record
  c, task = run.config, run.task()
  reference, compared = grid.compared(run, _FILE)
  whole = {label: cell for label, cell in compared.items() if "failed" not in cell}
  columns = {
    "traffic": {label: format_bytes(cell["round_bytes"]) for label, cell in whole.items()},
    "client share, virtual": {label: _share(cell, "virtual") for label, cell in whole.items()},
    "client share, real": {label: _share(cell, "real") for label, cell in whole.items()},
    "seconds": {label: f"{cell['seconds']:.1f}" for label, cell in whole.items()},
  }
  table = comparison.table(compared, task.metric, reference, columns=columns)
  said = comparison.verdict(compared, run.subject, reference, task.metric, task.higher)
  text = (
    f"{said}.\n\nMean ± standard deviation over {c['seeds']} seeds after {c['rounds']} rounds, on the clients' test "
    "images. Seeds are paired: a seed has the same first network in every arm. Traffic is what one client receives and "
    "sends in a round. The client share is the part of the spread of features within classes that lies between "
    "clients, in the final network: of virtual images, and of as many real ones."
  )
  section = Section("Result", text, table, _figures(run, compared, task.metric))
  return Part({"reference": reference, "arms": compared}, table, said, sections=[section])


def _share(cell: Mapping[str, Any], side: str) -> str:
  values = cell.get("client_share", {}).get(side)
  return f"{np.mean(values):.3f}" if values else ""


def _figures(run: Run, cells: Mapping[str, Any], metric: str) -> list[tuple[str, Path]]:
  bars = run.workdir / "curves" / "arms.png"
  comparison.bars(bars, {"": cells}, metric)
  out = [(f"{metric} of all arms; bars start above zero, whiskers are standard deviations over seeds", bars)]
  series = {
    label: ([p["round"] for p in cell["curve"]], [float(np.mean(p["scores"])) for p in cell["curve"]])
    for label, cell in cells.items()
    if cell.get("curve")
  }
  if series:
    file = run.workdir / "curves" / "rounds.png"
    curves(file, series, f"{metric} on held-out images", xlabel="round")
    out.append(("held-out score by round, mean over seeds", file))
  return out


STAGE = Stage(
  "federate",
  lambda run: on_first(lambda: _run(run)),
  Declared(
    schema.fields(Keys),
    federation.SECTIONS | {"transport": Plain(schema.fields(Carrier))},
    ("arms",),
    federation.ARMS.expand,
  ),
  (f"stages/{_FILE}",),
  _check,
  plan=_plan,
  report=_report,
)
