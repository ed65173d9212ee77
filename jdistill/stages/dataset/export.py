"""Stage `export`: the distilled set as a directory that needs nothing else, under `result/`."""

import time

from jdistill import __version__, catalog, config, export
from jdistill.base import UserError
from jdistill.data import preprocess
from jdistill.files import verify_checksums
from jdistill.stages.dataset import distill
from jdistill.stages.dataset.context import Context


def run(ctx: Context) -> None:
  """Writes `result/`; the same run always writes the same bytes, so nothing in it depends on time or place."""
  begin, c = time.monotonic(), ctx.config
  result = distill.load(ctx, "distilled")
  row = catalog.row(c["method"]["name"])
  protocol = {name: c["eval"][name] for name in ("epochs", "batch_size", "momentum", "weight_decay", "augment")}
  distilled = export.DistilledSet(
    images=result.images,
    labels=result.labels,
    learned_lr=float(result.lr),
    preprocessing=preprocess.to_arrays(ctx.preprocessing),
    class_names=ctx.dataset.class_names,
    protocol=protocol | {"model": c["model"]},
    provenance={
      "method": row.name,
      "paper": f"{row.title} (arXiv {row.arxiv})",
      "dataset": {
        "name": c["dataset"],
        "fingerprint": ctx.dataset.fingerprint,
        "train_size": c["train_size"],
        "test_size": c["test_size"],
        "seed": c["seed"],
      },
      "ipc": c["ipc"],
      "config_hash": ctx.hash,
      "config": config.what(c),
      "jdistill": __version__,
    },
  )
  digest = export.save(ctx.workdir / "result", distilled, pixels=distill.pixels(ctx, result.images))
  ctx.finish("export", begin, artefact_sha256=digest)


def verify(ctx: Context) -> None:
  """Refuses a `result/` that was damaged or edited after it was written."""
  directory = ctx.workdir / "result"
  try:
    verify_checksums(directory)
  except UserError as error:
    where = str(error).split(": ")[0]
    raise UserError(f"{where}: delete {directory} and run the same command again to write it anew") from error
