"""Value and gradient of a loss of a large vocabulary: from whole logits, and from hidden states in chunks, in turn.

  python -m benchmarks.chunked_loss [--repeats=5] [--kinds=forward_kl,jsd] [--chunk=4096]

512 tokens, 49,152 classes, hidden states of 576 numbers on both sides, float32, heads of their own; the mean over
tokens, its gradient in the student's hidden states and head. Both sides get the heads as they are stored, and write the
head's gradient, which is as large as the head, into memory that is there before. Memory is counted beyond all that:

  scratch  what the compiled program allocates, as the compiler says
  peak     the highest resident memory during the timed steps, less what was resident before them

Both sides must find the same loss and the same gradient first.
"""

import argparse
from pathlib import Path

from benchmarks import _reports, _workers

TOKENS, VOCABULARY, WIDTH = 512, 49_152, 576
SIDES = ("full", "chunked")
KINDS = ("forward_kl", "reverse_kl", "jsd", "skew_kl", "cross_entropy")
AGREEMENT = 1e-4


def loss(side: str, kind: str, chunk: int):
  """`(student's hidden states, head, teacher's hidden states, head, labels) -> scalar`."""
  import jax.numpy as jnp

  from jdistill import losses

  def full(s, a, t, b, y):
    if kind == "cross_entropy":
      return jnp.mean(losses.cross_entropy(s @ a, y))
    return jnp.mean(losses.token_divergence(s @ a, t @ b, kind=kind))

  def chunked(s, a, t, b, y):
    if kind == "cross_entropy":
      return jnp.mean(losses.chunked_cross_entropy(s, a, y, chunk=chunk))
    return jnp.mean(losses.chunked_divergence(s, a, t, b, kind=kind, chunk=chunk))

  return {"full": full, "chunked": chunked}[side]


def worker(side: str, kind: str, chunk: int) -> None:
  """One side, in a process of its own."""
  import jax
  import numpy as np

  rng = np.random.default_rng(0)
  shapes = ((TOKENS, WIDTH), (WIDTH, VOCABULARY)) * 2
  given = [rng.normal(size=shape).astype(np.float32) * (0.1 if shape[1] == VOCABULARY else 1) for shape in shapes]
  given = [jax.device_put(x) for x in (*given, rng.integers(0, VOCABULARY, TOKENS).astype(np.int32))]
  both = jax.value_and_grad(loss(side, kind, chunk), argnums=(0, 1))
  program = jax.jit(lambda spare, *args: both(*args), donate_argnums=0, keep_unused=True)
  spare = jax.device_put(np.zeros_like(given[1]))
  compiled = program.lower(spare, *given).compile()
  found = {}

  def step():
    nonlocal spare
    value, (hidden, spare) = compiled(spare, *given)
    jax.block_until_ready((value, hidden, spare))
    found.update(loss=float(value), hidden=hidden)

  step()
  gradient = {"hidden": found["hidden"], "head": spare}
  facts = {f"norm_{name}": float(np.linalg.norm(np.asarray(x))) for name, x in gradient.items()}
  facts |= {"loss": found["loss"], "scratch": compiled.memory_analysis().temp_size_in_bytes, "version": jax.__version__}
  del gradient
  _workers.serve(step, _forgotten_peak(), **facts)


def _forgotten_peak() -> int:
  """Starts the count of the highest resident memory anew where the system can; that memory now."""
  try:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
  except OSError:
    print("the peak contains that of compilation", flush=True)
  return _workers.peak_rss()


def measure(kind: str, chunk: int, repeats: int, threads: int) -> dict:
  """Both sides in turn.

  Raises:
    SystemExit: they compute different things.
  """
  command = ["-m", "benchmarks.chunked_loss", f"--kinds={kind}", f"--chunk={chunk}"]
  workers = [_workers.Worker([*command, f"--worker={side}"], threads) for side in SIDES]
  _workers.interleave(workers, repeats)
  full, chunked = facts = [worker.stop() for worker in workers]
  for name in ("loss", "norm_hidden", "norm_head"):
    if not abs(full[name] - chunked[name]) <= AGREEMENT * abs(full[name]):
      raise SystemExit(f"chunked_loss: {name} of {kind} differs: {full[name]} and {chunked[name]}")
  out = {side: fact | {"seconds": w.median} for side, fact, w in zip(SIDES, facts, workers, strict=True)}
  return out | {
    "time_ratio": workers[1].median / workers[0].median,
    "scratch_ratio": chunked["scratch"] / full["scratch"],
    "peak_ratio": chunked["peak_bytes"] / full["peak_bytes"],
  }


def parse() -> argparse.Namespace:
  parser = _reports.parser(__doc__)
  parser.add_argument("--kinds", default=",".join(KINDS), help="divergences, separated by commas")
  parser.add_argument("--chunk", type=int, default=4096, help="columns at a time")
  parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
  return parser.parse_args()


def main() -> None:
  arguments = parse()
  kinds = arguments.kinds.split(",")
  if arguments.worker:
    worker(arguments.worker, kinds[0], arguments.chunk)
    return
  figures = {
    "machine": _reports.machine(arguments.threads),
    "tokens": TOKENS, "vocabulary": VOCABULARY, "width": WIDTH, "chunk": arguments.chunk, "kinds": {},
  }  # fmt: skip
  rows = []
  for kind in kinds:
    found = figures["kinds"][kind] = measure(kind, arguments.chunk, arguments.repeats, arguments.threads)
    sides = [found[side] for side in SIDES]
    rows.append(
      [kind, *(s["seconds"] for s in sides), found["time_ratio"]]
      + [value for name in ("scratch", "peak_bytes") for value in (*(s[name] / 1e6 for s in sides),)]
      + [found["scratch_ratio"], found["peak_ratio"]]
    )
    print(kind, flush=True)
  header = ["kind", "full, s", "chunked, s", "time", "scratch, MB", "chunked, MB", "peak, MB", "chunked, MB"]
  print(_reports.table([*header, "scratch", "peak"], rows))
  _reports.write("chunked_loss", figures, arguments.out)


if __name__ == "__main__":
  main()
