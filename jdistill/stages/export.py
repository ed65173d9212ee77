"""Stage `export`: the distilled set as a directory that needs nothing else, under `result/`."""

import time

from jdistill import __version__, config, export
from jdistill.base import UserError
from jdistill.data import preprocess
from jdistill.evaluation import FEATURES
from jdistill.files import CHECKSUMS, verify_checksums
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.stages import build, distill, evaluate
from jdistill.stages.stage import Part, Stage


def _run(run: Run) -> None:
  """Writes `result/`; the same run always writes the same bytes, so nothing in it depends on time or place."""
  if (run.workdir / "result" / CHECKSUMS).exists():
    _verify(run)  # what somebody changed is not written over
  begin, c, task = time.monotonic(), run.config, run.task()
  result, row = distill.stored(run, "distilled"), build.row_of(run)
  names = ("epochs", "batch_size", "momentum", "weight_decay", "augment", "loss", "optimizer", "view")
  names += ("cells", "crop_scale", "flip", "schedule", "decay_all")  # of sets for classifiers
  if "pretrain" in c:  # targets are features, and belong to no classes
    protocol, lr, class_names = c["pretrain"] | {"loss": FEATURES, "view": "none"}, c["pretrain"]["lr"], ()
  else:
    protocol, lr, class_names = c["eval"], evaluate.rate_of(run, float(result.lr)), task.class_names
  distilled = export.DistilledSet(
    images=result.images,
    labels=result.labels,
    compensators=result.compensators,
    learned_lr=lr,
    preprocessing=preprocess.to_arrays(task.preprocessing),
    class_names=class_names,
    protocol={name: protocol[name] for name in names if name in protocol} | {"model": c["model"]},
    provenance={
      "method": row.name,
      "paper": f"{row.title} ({row.paper})",
      "dataset": dict(task.source),
      "ipc": c["ipc"],
      "config_hash": run.hash,
      "config": config.determining(c),
      "jdistill": __version__,
    },
  )
  digest = export.save(run.workdir / "result", distilled, pixels=task.pixels(distill.load(run, "distilled").images))
  run.finish("export", begin, artefact_sha256=digest)


def _verify(run: Run) -> None:
  """Refuses a `result/` that was damaged or edited after it was written."""
  directory = run.workdir / "result"
  try:
    verify_checksums(directory)
    own = [name for name in export.FILES if (directory / name).exists()]
    verify_checksums(directory, own)  # a list from which one of them was removed
  except UserError as error:
    where = str(error).split(": ")[0]
    raise UserError(f"{where}: delete {directory} and run the same command again to write it anew") from error


def _stored(run: Run) -> dict[str, int]:
  """Bytes of images, labels and preprocessing together, as they are stored."""
  return {"stored_bytes": (run.workdir / "result" / export.ARRAYS).stat().st_size}


STAGE = Stage(
  "export",
  lambda run: on_first(lambda: _run(run)),
  leaves=("result/checksums.json",),
  verify=lambda run: on_first(lambda: _verify(run)),
  report=lambda run, record: Part(_stored(run), lines=[f"the set: {run.workdir / 'result'}"]),
)
